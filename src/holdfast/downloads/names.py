r"""Names for files, from URLs and lists that anybody may have written.

Whatever comes in, the result is a relative path whose components are plain names: below the
output directory on every system, and no surprise in a shell or a terminal.

    in                                              out
    ../x   ..%2f   ..\..\x   /abs   C:\x            roots and `..` removed, backslash -> _
    .bashrc                                         _bashrc (unless dots are allowed)
    control, NUL, bidi marks, bad UTF-8, a:b        _ in place of each
    CON   COM1.txt                                  _CON   _COM1.txt
    final dot or space                              _ in its place
    more than 240 bytes                             cut, 8 hash digits, suffix kept
    nothing left                                    index
    .holdfast.db   .NAME.0123abcd.part              _holdfast.db   _NAME.0123abcd.part (ours)
    a//b                                            a/b
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import unicodedata
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from holdfast.wire.urls import Url

# `.NAME.ID8.part` adds 15, and most file systems take 255 bytes per name.
MAX_NAME = 240
_MAX_SUFFIX = 16
_DRIVE = re.compile(r"[A-Za-z]:")
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [f"{port}{n}" for port in ("com", "lpt") for n in "0123456789\u00b9\u00b2\u00b3"]
)
# Marks that turn the direction of what follows (Unicode 15, bidirectional formatting).
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_REPLACEMENT = "\ufffd"
_OURS = re.compile(r"\.(?:holdfast.*|.*\.[0-9a-f]{8}\.part)\Z", re.IGNORECASE | re.DOTALL)


def name_from_url(url: Url, *, allow_dot: bool = False) -> str:
    """Return a name for what `url` leads to: the last part of its path, decoded once."""
    last = url.path.rsplit("/", 1)[-1]
    # An escaped slash makes no directory: whoever types a URL expects one file, here.
    decoded = safe_path(unquote(last, errors="replace"), allow_dot=allow_dot)
    return posixpath.basename(decoded)


def safe_path(text: str, *, allow_dot: bool = False) -> str:
    """Return `text` as a safe relative path with `/` between its components.

    allow_dot: let names begin with a dot. Decoding is the caller's, once.
    """
    if is_plain_path(text):
        return text
    text = text.replace("\\", "_")
    text = text[2:] if _DRIVE.match(text) and text[2:3] in {"", "/", "_"} else text
    parts = [part for part in text.split("/") if part not in {"", ".", ".."}]
    return "/".join(_safe_name(part, allow_dot=allow_dot) for part in parts) or "index"


# Names that no rule changes: letters, digits, `_`, `-`, dots inside, and no device's name.
_PLAIN = (
    r"(?!(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:[./]|\Z))"
    r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,198}[A-Za-z0-9_-])?"
)
_PLAIN_PATH = re.compile(rf"{_PLAIN}(?:/{_PLAIN})*\Z", re.IGNORECASE | re.ASCII)


def is_plain_path(path: str) -> bool:
    """Whether `safe_path` would leave it as it is; seen at a glance, so not of every such path."""
    return _PLAIN_PATH.match(path) is not None


def _safe_name(name: str, *, allow_dot: bool) -> str:
    name = "".join("_" if _is_unsafe(char) else char for char in name)
    # Our own names are nobody else's: a journal must not be written over by what it fetches.
    if name.startswith(".") and not (
        allow_dot and name.strip(".") and not _OURS.match(collision_key(name))
    ):
        name = "_" + name[1:]
    if name.endswith((".", " ")):
        name = name[:-1] + "_"
    if name.split(".", 1)[0].rstrip(" ").casefold() in _DEVICES:
        name = "_" + name
    return _shortened(name)


def _is_unsafe(char: str) -> bool:
    # Cc: control; Cs: what was no UTF-8; Zl, Zp: ends of lines that only some programs see.
    return (
        char in {":", _REPLACEMENT}
        or char in _BIDI
        or unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"}
    )


def _shortened(name: str) -> str:
    raw = name.encode("utf-8")
    if len(raw) <= MAX_NAME:
        return name
    digest = hashlib.sha256(raw).hexdigest()[:8]
    stem, suffix = posixpath.splitext(name)
    if len(suffix.encode("utf-8")) > _MAX_SUFFIX:
        stem, suffix = name, ""
    room = MAX_NAME - len(digest) - 1 - len(suffix.encode("utf-8"))
    cut = stem.encode("utf-8")[:room].decode("utf-8", "ignore")
    return f"{cut}-{digest}{suffix}"


def numbered(path: str, n: int) -> str:
    """Return `path` with ` (n)` before its suffix: what the n-th of one name is called."""
    directory, name = posixpath.split(path)
    stem, suffix = posixpath.splitext(name)
    if suffix and stem.lower().endswith(".tar"):
        stem, suffix = stem[:-4], stem[-4:] + suffix
    return posixpath.join(directory, _shortened(f"{stem} ({n}){suffix}"))


def collision_key(path: str) -> str:
    """Return what two paths share if some file system takes them for one name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def part_path(path: str, item_id: str) -> str:
    """Return where the part of `path` lies: beside it, so that a rename stays on one disk."""
    directory, name = posixpath.split(path)
    return posixpath.join(directory, part_name(name, item_id))


def part_name(name: str, item_id: str) -> str:
    """Return the name of the part of the file `name`."""
    return f".{name}.{item_id[:8]}.part"


# What is hardly ever a page: HTML under such a name, after a redirect to another site, is a
# login or a captive portal. Not a list of all data formats, only of ones that are never text.
_DATA_SUFFIX = re.compile(
    r"\.(7z|bin|bz2|deb|dmg|exe|gguf|grb|grib2?|gz|h5|hdf5?|img|iso|jar|jp2|jpe?g|laz|mp[34]"
    r"|nc4?|np[yz]|onnx|parquet|pdf|pkl|png|pth?|rpm|safetensors|tar|t[bgx]z|tiff?|wav|whl|xz"
    r"|zip|zst)\Z",
    re.IGNORECASE,
)


def has_data_suffix(path: str) -> bool:
    """Whether the name promises binary data."""
    return _DATA_SUFFIX.search(path) is not None
