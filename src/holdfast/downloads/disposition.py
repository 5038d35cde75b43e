r"""The name that a server proposes: `Content-Disposition` (RFC 6266, RFC 8187).

    attachment; filename="a.nc"
    attachment; filename*=UTF-8''na%C3%AFve.nc; filename="naive.nc"      the first one counts

Only the last component is taken (RFC 6266, 4.3), by both kinds of slash; where the file lies is
not for the server to say. What comes out is still somebody else's text: see `names.safe_path`.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

MAX_FIELD = 8 * 1024
_PARAMETER = re.compile(
    r""";\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))"""
)
_EXTENDED = re.compile(
    r"(utf-8|iso-8859-1)'[A-Za-z0-9-]*'((?:[^%']|%[0-9A-Fa-f]{2})+)\Z", re.IGNORECASE
)


def filename_in(value: str) -> str:
    """Return the file name that a header proposes, or empty. Never raises.

    value: as read from the wire, Latin-1.
    """
    plain = ""
    for name, quoted, token in _PARAMETER.findall(value[:MAX_FIELD]):
        if name.lower() == "filename*":
            found = _EXTENDED.match(token)
            if found:
                return _last(unquote_to_bytes(found[2]).decode(found[1], "replace"))
        elif name.lower() == "filename" and not plain:
            plain = re.sub(r"\\(.)", r"\1", quoted) if quoted else token
    return _last(_as_meant(plain))


def _as_meant(text: str) -> str:
    # RFC 6266 says Latin-1; what most servers send is UTF-8.
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _last(name: str) -> str:
    return re.split(r"[/\\]", name)[-1].strip()
