"""Tokens that clients show: one of those that are configured, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.wire.requests import RequestHead

FIELDS = frozenset({b"authorization", b"x-api-key", b"api-key"})
"""Where SDKs put a key, and so a token of ours."""
_BEARER = b"bearer "


class Tokens:
    """The tokens of which a client must show one. Empty: there are none, and none is right.

    Digests are kept and compared, so the time says nothing of a token's length either.
    """

    __slots__ = ("_digests",)

    def __init__(self, tokens: Iterable[str] = ()) -> None:
        self._digests = tuple(_digest(token.encode()) for token in tokens)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def admits(self, head: RequestHead) -> bool:
        """Say whether a request carries one of them."""
        return sum(self._knows(value) for value in _shown(head)) > 0

    def _knows(self, value: bytes) -> bool:
        digest = _digest(value)
        # All are compared, whichever is found: the time must not tell which one it was.
        return sum(hmac.compare_digest(digest, one) for one in self._digests) > 0


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _shown(head: RequestHead) -> list[bytes]:
    found: list[bytes] = []
    for name, value in head.fields:
        lower = name.lower()
        if lower not in FIELDS:
            continue
        if lower != b"authorization":
            found.append(value.strip())
        elif value[: len(_BEARER)].lower() == _BEARER:
            found.append(value[len(_BEARER) :].strip())
    return found
