r"""Lists of files to fetch: aria2's form, and JSON lines.

    # a comment
    https://a.example/x.nc<TAB>https://b.example/x.nc      mirrors after a TAB
      out=2021/x.nc                                        options: indented, for the line above
      checksum=sha-256=9f86d081...
      header=Accept-Language: en
    {"url": "https://a.example/y.nc", "path": "y.nc", "size": 4096, "md5": "..."}

UTF-8, with or without a byte order mark, lines ended by LF or CRLF. A list may have been
written by anybody and be of any length, so nothing here grows with it: a line ends at 64 KiB,
an entry has at most 100 options, and bad lines are counted but only the first 20 are kept.
What is wrong is said per line, and all of it at once; what a line holds (tokens, passwords in
headers and URLs) is not repeated.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from holdfast.downloads.failures import DownloadError
from holdfast.downloads.names import name_from_url
from holdfast.downloads.nearest import hint
from holdfast.transfer.verify import Digest
from holdfast.wire.http1 import request_head
from holdfast.wire.urls import BadUrl, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from holdfast.wire.urls import Url

MAX_LINE = 64 * 1024
MAX_OPTIONS = 100
MAX_SHOWN = 20
_OPTIONS = ("out", "dir", "checksum", "header")
_KEYS = ("url", "mirrors", "path", "size", "sha256", "md5", "headers")
_NAME = re.compile(r"[a-z0-9-]{1,40}\Z")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a list.

    path: as written, or made of `dir` and the URL; not yet made safe (see `names`). None: the
    name is the URL's own.  line: where it begins, from 1.
    typed: the user of this machine named it; False for what came from elsewhere.
    """

    url: str = field(repr=False)
    mirrors: tuple[str, ...] = field(default=(), repr=False)
    path: str | None = None
    size: int | None = None
    digests: tuple[Digest, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    line: int = 0
    typed: bool = True


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be used, from 1, and why. What it holds is not repeated."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


class Readable(Protocol):
    """A binary file, or the binary side of standard input."""

    def readline(self, limit: int, /) -> bytes:
        """Return the next line, at most `limit` bytes of it; empty at the end."""
        ...


class _Bad(Exception):
    """The reason why a line cannot be used."""


def lines_of(file: Readable) -> Iterator[bytes]:
    """Yield the lines of a file; of one that is too long, 64 KiB and a byte."""
    while line := file.readline(MAX_LINE + 1):
        yield line
        while len(line) > MAX_LINE and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE + 1)


def read_list(lines: Iterable[bytes]) -> Iterator[Entry | BadLine]:
    """Yield what the lines say, in their order; memory does not grow with their number.

    An entry whose options are wrong is not yielded, only what is wrong with it.
    """
    open_entry: _Open | None = None
    for number, raw in enumerate(lines, 1):
        try:
            text = _decoded(raw, first=number == 1)
            if not text.strip() or text.lstrip().startswith("#"):
                continue
            if not text.startswith((" ", "\t")):
                if open_entry is not None:
                    yield from open_entry.closed()
                open_entry = _Open(number)
                open_entry.begin(text)
            else:
                _option_of(open_entry, text.strip())
        except _Bad as bad:
            if open_entry is not None:
                open_entry.is_bad = True
            yield BadLine(number, str(bad))
    if open_entry is not None:
        yield from open_entry.closed()


def checked(
    found: Iterable[Entry | BadLine], name: str, *, skip: Callable[[BadLine], None] | None = None
) -> Iterator[Entry]:
    """Yield the entries; at the end, refuse the list for all its bad lines at once.

    So the caller uses nothing of what it took before the end is reached: a file is read
    twice, or the entries go into one transaction.
    skip: called with each bad line instead.
    Raises DownloadError (HF-1009), naming the list by `name` and its first 20 bad lines.
    """
    bad: list[BadLine] = []
    count = 0
    for one in found:
        if isinstance(one, Entry):
            yield one
        elif skip is not None:
            skip(one)
        else:
            count += 1
            if len(bad) < MAX_SHOWN:
                bad.append(one)
    if bad:
        raise refusal(name, bad, count)


def refusal(name: str, bad: Iterable[BadLine], count: int) -> DownloadError:
    """Return the error for a list with `count` bad lines, of which `bad` are shown."""
    shown = list(bad)
    head = "1 line cannot be used" if count == 1 else f"{count} lines cannot be used"
    rest = [f"  and {count - len(shown)} more"] if count > len(shown) else []
    return DownloadError(
        "bad-list", "\n".join([f"`{name}`: {head}", *(f"  {b}" for b in shown), *rest])
    )


def _option_of(entry: _Open | None, text: str) -> None:
    if entry is None:
        raise _Bad("an option without a URL above it; options are indented, URLs are not")
    entry.option(text)


def _decoded(raw: bytes, *, first: bool) -> str:
    if first:
        if raw.startswith(_UTF16):
            raise _Bad("the list is UTF-16; save it as UTF-8")
        raw = raw.removeprefix(_BOM)
    if len(raw.rstrip(b"\r\n")) > MAX_LINE:
        raise _Bad(f"the line is longer than {MAX_LINE} bytes")
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise _Bad(f"byte {error.start + 1} is not UTF-8; save the list as UTF-8") from None


class _Open:
    """An entry whose options may still follow."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.is_bad = False
        self._urls: list[str] = []
        self._source: Url | None = None
        self._given: dict[str, str] = {}
        self._digests: list[Digest] = []
        self._headers: dict[str, str] = {}
        self._options = 0
        self._from_json: Entry | None = None

    def begin(self, text: str) -> None:
        """Take the line of the URL, or the whole entry in JSON."""
        if text.startswith("{"):
            self._from_json = _from_json(text, self.line)
            return
        urls = [part.strip() for part in text.split("\t") if part.strip()]
        self._urls = urls
        self._source, *_ = [_url(url) for url in urls]

    def option(self, text: str) -> None:
        """Take an indented line."""
        self._options += 1
        if self._options > MAX_OPTIONS:
            raise _Bad(f"more than {MAX_OPTIONS} options for one URL")
        if self._from_json is not None:
            raise _Bad("an option below a JSON line; write it inside the braces")
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not _NAME.match(name):
            raise _Bad("not an option; write it as `name=value`")
        if name not in _OPTIONS:
            raise _Bad(f"the option `{name}` is not known; {hint(name, _OPTIONS)}")
        if not value:
            raise _Bad(f"the option `{name}` is empty")
        if name == "checksum":
            self._digests.append(_checksum(value))
        elif name == "header":
            _add_header(self._headers, value)
            self._check_headers()
        elif name in self._given:
            raise _Bad(f"the option `{name}` is there twice")
        else:
            self._given[name] = value

    def _check_headers(self) -> None:
        if self._source is not None:
            _check_headers(self._source, self._headers)

    def closed(self) -> Iterator[Entry | BadLine]:
        """Yield the entry, now that nothing more belongs to it."""
        if self.is_bad:
            return
        if self._from_json is not None:
            yield self._from_json
        elif self._source is not None:
            try:
                digests = _consistent(self._digests)
            except _Bad as bad:
                yield BadLine(self.line, str(bad))
                return
            url, *mirrors = self._urls
            yield Entry(
                url,
                tuple(mirrors),
                self._path(self._source),
                digests=digests,
                headers=self._headers,
                line=self.line,
            )

    def _path(self, source: Url) -> str | None:
        out, folder = self._given.get("out"), self._given.get("dir")
        if folder is None:
            return out
        return f"{folder.rstrip('/')}/{out or name_from_url(source)}"


def _url(text: str) -> Url:
    try:
        return parse(text)
    except BadUrl as error:
        raise _Bad(str(error)) from None


def _checksum(text: str) -> Digest:
    algorithm, equals, value = text.partition("=")
    if not equals:
        raise _Bad("a checksum is written as `checksum=sha-256=HEX`")
    return _digest(algorithm.strip().lower().replace("-", ""), value)


def _digest(algorithm: str, value: str) -> Digest:
    try:
        return Digest(algorithm[:20], value.strip().lower(), "list")
    except ValueError as error:
        raise _Bad(str(error)) from None


def _consistent(digests: Iterable[Digest]) -> tuple[Digest, ...]:
    """Return them without repetitions; two of one kind that differ cannot both be right."""
    found: dict[str, Digest] = {}
    for digest in digests:
        if found.setdefault(digest.algorithm, digest) != digest:
            raise _Bad(f"two different {digest.algorithm} digests")
    return tuple(found.values())


def _add_header(headers: dict[str, str], text: str) -> None:
    name, colon, value = text.partition(":")
    name = name.strip()
    if not colon or not name:
        raise _Bad("a header is written as `header=Name: value`")
    known = next((one for one in headers if one.lower() == name.lower()), None)
    if known is None:
        headers[name] = value.strip()
    else:  # RFC 9110, 5.3: a repeated field is a list
        headers[known] += f", {value.strip()}"


def _check_headers(url: Url, headers: Mapping[str, str]) -> None:
    try:
        request_head(url, headers)
    except ValueError:
        # Its text has the name, which is where a value stands if the colon is misplaced.
        raise _Bad("a header has a character that may not stand in a header") from None


# -- JSON ------------------------------------------------------------------------------------------


def _from_json(text: str, line: int) -> Entry:
    record = _object(text)
    for key in record:
        if key not in _KEYS:
            shown = key if _NAME.match(key.lower()) else "..."
            raise _Bad(f"the key `{shown}` is not known; {hint(key, _KEYS)}")
    url = _text(record, "url")
    if url is None:
        raise _Bad("the key `url` is missing")
    source = _url(url)
    mirrors = _texts(record.get("mirrors", []))
    for mirror in mirrors:
        _url(mirror)
    headers = _mapping(record.get("headers", {}))
    if headers:
        _check_headers(source, headers)
    return Entry(
        url.strip(),
        tuple(mirror.strip() for mirror in mirrors),
        _text(record, "path"),
        _size(record.get("size")),
        tuple(
            _digest(algorithm, value)
            for algorithm in ("sha256", "md5")
            if (value := _text(record, algorithm)) is not None
        ),
        headers,
        line,
    )


def _object(text: str) -> dict[str, object]:
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        record = dict(pairs)
        if len(record) != len(pairs):
            raise _Bad("a key is there twice")
        return record

    try:
        record = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise _Bad(f"not JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError):  # a number of 5,000 digits; 10,000 brackets
        raise _Bad("not JSON that is meant for a list") from None
    if not isinstance(record, dict):
        raise _Bad("not a JSON object")
    return record


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not _SURROGATE.search(value)


def _text(record: Mapping[str, object], key: str) -> str | None:
    value = record.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not _is_text(value):
        raise _Bad(f"`{key}` must be a text")
    return value


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(_is_text(one) for one in value):
        raise _Bad("`mirrors` must be a list of texts")
    return value


def _mapping(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_OPTIONS:
        raise _Bad(f"`headers` must be an object of at most {MAX_OPTIONS} texts")
    if not all(_is_text(name) and _is_text(text) for name, text in value.items()):
        raise _Bad("`headers` must be an object of texts")
    return value


def _size(value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise _Bad("`size` must be a number of bytes")
    return value
