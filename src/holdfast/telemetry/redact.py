r"""Redaction: what may be shown of headers, URLs, bodies and free text.

    text(line)      a log line, an error's words
    url(address)    userinfo and the values of parameters that sign or authorise
    headers(pairs)  the values of headers that authorise
    data(body)      JSON-like values, nested
    error(exc)      an exception with its notes, as one line

Each takes anything, never raises, changes nothing that holds no secret, gives the same when it
is applied twice, and takes time proportional to its input: no pattern below can start a long
run at more than one of its characters (possessive `++`, or a look-behind for the run's start).

A *name* decides where there is one (`api_key=...`), a *shape* elsewhere (`sk-...`, a JWT), and
the text of each living `Secret` is masked wherever it stands. Too much is masked rather than
too little; a mask is `***`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any
from urllib.parse import unquote_plus

from holdfast.telemetry.secret import MASK, Secret, known_forms

MAX_NODES = 10_000
"""Values of one body that are looked at; the rest is masked."""

MAX_DEPTH = 32
"""Levels of one body that are looked at; what lies deeper is masked."""

# -- names ---------------------------------------------------------------------------------

# Compared without case and without `-`, `_`, `.` and the like: `X-Api-Key`, `apiKey` and
# `api_key` are one name.
_ENDINGS = (
    "token", "secret", "signature", "signature256", "credential", "credentials", "authorization",
    "cookie", "cookies", "apikey", "accesskey", "accesskeyid", "secretkey", "privatekey",
    "subscriptionkey", "functionskey", "customerkey", "encryptionkey", "accountkey", "signingkey",
    "masterkey", "sessionid", "sessid", "passwd", "passphrase",
)  # fmt: skip
_PARTS = ("password", "apikey")
_WHOLE = frozenset({"sig", "pwd", "auth", "jwt", "pin", "otp", "hmac"})
# Cursors of listings (S3, Google): they open nothing and are needed to understand a log.
_HARMLESS = frozenset(
    {"continuationtoken", "nextcontinuationtoken", "pagetoken", "nextpagetoken", "nexttoken"}
)
_URL_ONLY = frozenset({"key", "awsaccesskeyid", "googleaccessid", "keypairid"})
_SEPARATORS = re.compile(r"[^0-9a-z]+")


def is_secret(name: str) -> bool:
    """Say whether the value under this name (of a header, field, variable) is a secret."""
    return _known_name(name) if len(name) <= _SHORT else _known_name.__wrapped__(name)


_SHORT = 64  # characters; the names that come again and again are short


@lru_cache(maxsize=1024)
def _known_name(name: str) -> bool:
    plain = _plain(name)
    if plain in _HARMLESS:
        return False
    return plain in _WHOLE or plain.endswith(_ENDINGS) or any(part in plain for part in _PARTS)


def _plain(name: str) -> str:
    return _SEPARATORS.sub("", name.lower())


# -- text ----------------------------------------------------------------------------------

# Where a word may begin; `%3D` before it is an encoded `=`.
_START = r"(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f]{2}))"

_SCHEMED = re.compile(
    rf"(?i){_START}(bearer|basic|negotiate|token)( {{1,4}}|%20|\+)([A-Za-z0-9._~+/=-]{{8,}}+)"
)
_SHAPES = re.compile(
    rf"""{_START}(?:
      (?:AKIA|ASIA)[A-Z0-9]{{16}}(?![A-Za-z0-9])       # AWS access key ids
    | (?:sk|rk|pk)[-_][A-Za-z0-9_-]{{16,}}+            # OpenAI, Anthropic, Stripe
    | eyJ[A-Za-z0-9_-]{{6,}}+\.[A-Za-z0-9_-]{{4,}}+(?:\.[A-Za-z0-9_-]*+)?   # JWT
    | gh[pousr]_[A-Za-z0-9]{{20,}}+ | github_pat_[A-Za-z0-9_]{{20,}}+
    | glpat-[A-Za-z0-9_-]{{20,}}+ | hf_[A-Za-z0-9]{{20,}}+ | AIza[A-Za-z0-9_-]{{35}}
    | xox[abeoprs]-[A-Za-z0-9-]{{10,}}+ | ya29\.[A-Za-z0-9_-]{{20,}}+
    )""",
    re.VERBOSE,
)
_PRIVATE_KEY = re.compile(r"(-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----)[^-]++")

# Userinfo, in the clear and inside a parameter of another URL (percent-encoded).
_USERINFO = re.compile(r"""(?<=://)[^\s/?#"'<>`\\]*@""")
_USERINFO_ENCODED = re.compile(r"""(?i)(?<=%3A%2F%2F)(?:[^\s/?#&"'<>`\\%]++|%(?!2F|40))++(?=%40)""")
_PARAMETER = re.compile(r"""([?&#])([\w.~%+-]++)=(?!\*{3})([^\s&#"'<>`\\]++)""")
_PARAMETER_ENCODED = re.compile(
    r"""(?i)(%3F|%26|%23)([\w.~-]++)%3D(?!\*{3})((?:[^\s&#"'<>`\\%]++|%(?!26|23))++)"""
)

# `name = value` in all its dresses: JSON, a dict's repr, a list of pairs, a header line, a
# keyword argument. The name is judged by `is_secret`.
_PAIR = re.compile(
    r"""(?<![\w.%-])(?P<name>[\w.%-]++)
    (?:(?P<between>\\?["']?\s{0,3}(?!://)[:=]\s{0,3}b?) | (?P<comma>\\?["'],\s{0,3}b?(?=\\?["'])))
    (?P<quote>\\?["']|[(\[])?""",
    re.VERBOSE,
)
_PAIR_OPENS = re.compile(r"""[(\[]\s{0,3}b?\\?["']\Z""")
_PAIR_CLOSES = re.compile(r"""\\?["']\s{0,3}[)\]]""")
_BARE = re.compile(r"[^\s,;&\"'<>(){}\[\]\\]*+")
_SCHEME_NAMES = frozenset({"bearer", "basic", "digest", "negotiate", "token"})
_WORD = re.compile(r" {1,3}([^\s,;&\"'<>(){}\[\]\\]++)")
# The value of these has spaces and quotes inside: the whole line, or all of a quoted line.
_LINE_HEADERS = ("authorization", "cookie")
_LINES = {
    "": re.compile(r"(?:[^\r\n\\]++|\\(?![rn]|x0[ad]))*+"),
    '"': re.compile(r'(?:[^\r\n\\"]++|\\(?![rn"]|x0[ad]))*+'),
    "'": re.compile(r"(?:[^\r\n\\']++|\\(?![rn']|x0[ad]))*+"),
}
_QUOTED = {
    '"': re.compile(r'(?:[^"\\]++|\\.)*+', re.DOTALL),
    "'": re.compile(r"(?:[^'\\]++|\\.)*+", re.DOTALL),
    '\\"': re.compile(r'[^"\\]*+'),
    "\\'": re.compile(r"[^'\\]*+"),
    "(": re.compile(r"[^)]*+"),  # `auth=("user", "password")`
    "[": re.compile(r"[^\]]*+"),
}
_NOTHING = frozenset({"", "None", "null", "True", "False", "true", "false"})


def text(value: object) -> str:
    """Return `value` as text without its secrets."""
    found = _as_text(value)
    for form in known_forms():
        if form in found:
            found = found.replace(form, MASK)
    low = found.lower()
    for marks, hide in _PASSES:
        for mark in marks:
            if mark in low:
                found = hide(found)
                break
    return found


def visible(value: object) -> str:
    r"""Return `text(value)` on one line: control characters written out (`\x1b`)."""
    shown = text(value)
    line = shown.translate(_WRITTEN_OUT)
    return shown if line == shown else text(line)  # `cookie:\t` has a value now


def error(exc: BaseException) -> str:
    """Return an exception and its notes on one line: `ReadError: reset (3 attempts in 4 s)`."""
    said, name = visible(exc), type(exc).__name__
    notes = "; ".join(visible(note) for note in getattr(exc, "__notes__", ()))
    return (f"{name}: {said}" if said else name) + (f" ({notes})" if notes else "")


def url(value: object) -> str:
    """Return an address without userinfo and without the values of secret parameters.

    Parameters keep their names, so a log still says that the address was signed. The
    fragment is read like a query (`#access_token=...`).
    """
    address = text(value)
    scheme = _SCHEME.match(address)
    start = 0 if scheme is None else scheme.end()
    found = _AUTHORITY_END.search(address, start)
    end = len(address) if found is None else found.start()
    # In a text, a blank or a quote would end the address; here they are part of it.
    _, at, host = address[start:end].rpartition("@")
    return f"{address[:start]}{MASK}@{host}{address[end:]}" if at else address


_SCHEME = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*+:)?//")
_AUTHORITY_END = re.compile(r"[/?#]")
# C0, DEL, C1, the line ends that are none in a file, and halves of surrogate pairs.
_WRITTEN_OUT = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0xD800, 0xE000))
}


def _as_text(value: object) -> str:
    try:
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value).decode("utf-8", "backslashreplace")
        return value if type(value) is str else str(value)
    except Exception:  # noqa: BLE001 - a broken `__str__` must not break an error path
        return f"<{type(value).__name__}>"


def _parameter(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}={MASK}" if _opens(match[1], match[2]) else match[0]


def _parameter_encoded(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}%3D{MASK}" if _opens(match[1], match[2]) else match[0]


def _opens(mark: str, name: str) -> bool:
    """Say whether a parameter is secret: in a URL Google's key is `key`, ours is `#t=`."""
    if "%" in name or "+" in name:
        name = unquote_plus(name)
    return is_secret(name) or _plain(name) in _URL_ONLY or (mark == "#" and name == "t")


def _pairs(found: str) -> str:
    """Mask the values of pairs whose name says that they are secret."""
    out: list[str] = []
    done = at = 0
    while (match := _PAIR.search(found, at)) is not None:
        at = match.end("name")  # what follows a harmless name may be a name: `a=token=...`
        if not is_secret(match["name"]):
            continue
        start, end = match.end(), _end_of_value(found, match)
        if found[start:end] in _NOTHING or not _is_pair(found, match, end):
            continue
        out += (found[done:start], MASK)
        if found[start:end].lower() in _SCHEME_NAMES and (word := _WORD.match(found, end)):
            out += (found[end : word.start(1)], MASK)
            end = word.end()
        done = at = end
    return "".join([*out, found[done:]])


def _is_pair(found: str, match: re.Match[str], end: int) -> bool:
    """Tell `("cookie", "a=b")` from a list of words."""
    if match["comma"] is None:
        return True
    before = found[max(0, match.start() - 8) : match.start()]
    return bool(_PAIR_OPENS.search(before) and _PAIR_CLOSES.match(found, end))


def _end_of_value(found: str, match: re.Match[str]) -> int:
    quote, at = match["quote"], match.end()
    if quote is not None:
        pattern = _QUOTED[quote]
    elif _plain(match["name"]).endswith(_LINE_HEADERS) and ":" in (match["between"] or ""):
        before = found[max(0, match.start() - 1) : match.start()]
        pattern = _LINES.get(before, _LINES[""])
    else:
        pattern = _BARE
    value = pattern.match(found, at)
    return at if value is None else value.end()


def _looks_random(word: str) -> bool:
    """Tell a credential from a word of a sentence: it has digits, or capitals inside."""
    return any(c.isdigit() for c in word) or not (word[1:].islower() or word.isupper())


def _schemed(match: re.Match[str]) -> str:
    if not _looks_random(match[3]) and len(match[3]) < 32:
        return match[0]
    return f"{match[1]}{match[2]}{MASK}"


def _shaped(match: re.Match[str]) -> str:
    return MASK if any(c.isdigit() for c in match[0]) else match[0]


# What to do, and what a text must hold (in lower case) for it to be worth a look: most texts
# hold nothing. The order matters for being idempotent: a later pass must not take away what
# bounds a match of an earlier one. Userinfo is last, as it is bounded by what others may mask.
_PASSES: tuple[tuple[tuple[str, ...], Callable[[str], str]], ...] = (
    (("private key",), partial(_PRIVATE_KEY.sub, rf"\1{MASK}")),
    (
        ("akia", "asia", "sk-", "sk_", "rk-", "rk_", "pk-", "pk_", "eyj", "gh", "github_pat_",
         "glpat-", "hf_", "aiza", "xox", "ya29."),
        partial(_SHAPES.sub, _shaped),
    ),
    (("bearer", "basic", "negotiate", "token"), partial(_SCHEMED.sub, _schemed)),
    (("=",), partial(_PARAMETER.sub, _parameter)),
    (("%3d",), partial(_PARAMETER_ENCODED.sub, _parameter_encoded)),
    (
        ("token", "secret", "signature", "credential", "auth", "cookie", "key", "sess", "pass",
         "sig", "pwd", "jwt", "pin", "otp", "hmac"),
        _pairs,
    ),
    (("%3a%2f%2f",), partial(_USERINFO_ENCODED.sub, MASK)),
    (("://",), partial(_USERINFO.sub, f"{MASK}@")),
)  # fmt: skip


# -- headers and bodies --------------------------------------------------------------------


def headers(pairs: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> list[tuple[str, str]]:
    """Return (name, value) pairs of headers that may be shown, in their order.

    pairs: a mapping, or pairs, of str or bytes. What cannot be read gives no pair.
    """
    try:
        found = list(pairs.items() if isinstance(pairs, Mapping) else pairs)
    except Exception:  # noqa: BLE001 - whatever it is, it is no header
        return []
    return [_header(*pair) for pair in found if isinstance(pair, tuple | list) and len(pair) == 2]


def _header(name: object, value: object) -> tuple[str, str]:
    shown = text(name)
    return shown, MASK if is_secret(shown) else text(value)


def data(value: object) -> object:
    """Return a JSON-like value without its secrets: dicts, lists and tuples are rebuilt.

    Under a secret name everything is masked but None, True and False. Numbers stay. What
    JSON does not know becomes text. At most `MAX_NODES` values and `MAX_DEPTH` levels.
    """
    return _Walk().value(value, MAX_DEPTH)


class _Walk:
    def __init__(self) -> None:
        self.left = MAX_NODES

    def value(self, value: object, depth: int) -> object:
        self.left -= 1
        if self.left < 0 or depth < 0 or isinstance(value, Secret):
            return MASK
        if value is None or isinstance(value, bool | int | float):
            return value
        try:
            return self._container(value, depth)
        except Exception:  # noqa: BLE001 - a container that cannot be read is shown by its type
            return f"<{type(value).__name__}>"

    def _container(self, value: object, depth: int) -> object:
        if isinstance(value, Mapping):
            return dict(self._entry(key, item, depth) for key, item in value.items())
        if isinstance(value, list):
            return [self.value(item, depth - 1) for item in value]
        if isinstance(value, tuple):
            return tuple(self.value(item, depth - 1) for item in value)
        return text(value)

    def _entry(self, key: object, item: object, depth: int) -> tuple[object, object]:
        if key is None or isinstance(key, bool | int | float):
            return key, self.value(item, depth - 1)
        shown = text(key)
        if is_secret(shown):
            return shown, item if item is None or isinstance(item, bool) else MASK
        return shown, self.value(item, depth - 1)
