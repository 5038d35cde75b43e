"""A secret as a value: it works where it is needed and shows `***` everywhere else.

While a `Secret` lives, `redact` also looks for its very text, so a key of no known shape is
masked in the error of an upstream that echoes it. Looked for are the text itself and its
percent-encoded and base64 forms, since those are how it travels.
"""

from __future__ import annotations

import base64
import hmac
import itertools
import threading
import weakref
from typing import NoReturn
from urllib.parse import quote

MASK = "***"
"""What stands where a secret was."""

LOOKED_FOR = 8
"""Characters. The text of a shorter secret is not looked for: it would mask common words."""

_lock = threading.RLock()  # re-entrant: a finalizer may run inside any allocation
_numbers = itertools.count()
_alive: dict[int, tuple[str, ...]] = {}
_forms: tuple[str, ...] = ()


class Secret:
    """A text that no repr, log, event, page or journal shows.

    `str`, `repr` and every format give `***`; `reveal()` gives the text. Two are compared in
    constant time. A copy is the object itself. It cannot be pickled (TypeError): a secret
    is passed on as a reference such as `env:NAME`, not inside a file or a message.
    """

    __slots__ = ("__weakref__", "_text")

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"`Secret(...)` takes a str: {type(text).__name__}")
        self._text = text
        # A `*` could join with a mask to something that looks like the secret again.
        if len(text) >= LOOKED_FOR and "*" not in text:
            number = next(_numbers)
            _remember(number, _forms_of(text))
            weakref.finalize(self, _forget, number).atexit = False

    def reveal(self) -> str:
        """Return the text."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return MASK  # width and precision would tell the length

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_encoded(self._text), _encoded(other._text))

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret is not pickled: pass on where it comes from, such as `env:NAME`")


def known_forms() -> tuple[str, ...]:
    """Return all forms of the secrets that are alive, longest first."""
    return _forms


def _forms_of(text: str) -> tuple[str, ...]:
    raw = _encoded(text)
    # The base64 form depends on what stands before the secret ("user:"): there are three, less
    # the characters at either end that mix with a neighbour.
    mixed = []
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + raw).decode("ascii").rstrip("=")
        bits = 8 * (before + len(raw))
        mixed.append(whole[-(-8 * before // 6) : bits // 6])
    safe = [form.translate(_URL_SAFE) for form in mixed]
    return tuple(dict.fromkeys([text, quote(raw, safe=""), quote(raw, safe="/"), *mixed, *safe]))


_URL_SAFE = str.maketrans("+/", "-_")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _remember(number: int, forms: tuple[str, ...]) -> None:
    with _lock:
        _alive[number] = forms
        _rebuild()


def _forget(number: int) -> None:
    with _lock:
        _alive.pop(number, None)
        _rebuild()


def _rebuild() -> None:
    global _forms  # noqa: PLW0603 - a snapshot that readers take without the lock
    found = {form for forms in list(_alive.values()) for form in forms}
    _forms = tuple(sorted(found, key=lambda form: (-len(form), form)))
