"""The randomness seam: jitter, ids, secrets, and chances taken only in simulation."""

from __future__ import annotations

import random as _random
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_T = TypeVar("_T")


class Source(Protocol):
    """What a source of randomness must offer."""

    def draw(self) -> float:
        """Return a number uniform in [0, 1)."""
        ...

    def token(self, nbytes: int) -> str:
        """Return `nbytes` random bytes in hexadecimal."""
        ...

    def buggify(self, name: str, p: float) -> bool:
        """Return True with chance `p` in a simulation, False otherwise."""
        ...


class SystemRandom:
    """Jitter from the Mersenne Twister, tokens from the operating system, no bugs."""

    draw = staticmethod(_random.random)
    token = staticmethod(secrets.token_hex)

    @staticmethod
    def buggify(name: str, p: float) -> bool:
        """Never: outside a simulation the common path is taken."""
        return False


class SeededRandom:
    """Everything from one seed; children are independent and named.

    seed: any integer or string. Two sources of one seed draw the same numbers, on every
    platform and under every hash seed.
    """

    def __init__(self, seed: int | str) -> None:
        self.seed = seed
        self._rng = _random.Random(str(seed))
        self.draw = self._rng.random

    def token(self, nbytes: int) -> str:
        """Return `nbytes` bytes in hexadecimal, repeatable."""
        return self._rng.randbytes(nbytes).hex()

    def buggify(self, name: str, p: float) -> bool:
        """Return True with chance `p`."""
        return self.draw() < p

    def between(self, low: int, high: int) -> int:
        """Return an integer in [low, high]."""
        return low + int(self.draw() * (high - low + 1))

    def choice(self, options: Sequence[_T]) -> _T:
        """Return one of `options`."""
        return options[int(self.draw() * len(options))]

    def bytes(self, n: int) -> bytes:
        """Return `n` bytes."""
        return self._rng.randbytes(n)

    def child(self, name: str) -> SeededRandom:
        """Return a source of its own, so that more draws here change nothing there."""
        return SeededRandom(f"{self.seed}/{name}")


class _Active:
    __slots__ = ("buggify", "draw", "installed", "token")

    def __init__(self, installed: Source) -> None:
        self.use(installed)

    def use(self, installed: Source) -> None:
        self.installed = installed
        self.draw = installed.draw
        self.token = installed.token
        self.buggify = installed.buggify


rng = _Active(SystemRandom())


@contextmanager
def install(replacement: Source) -> Iterator[None]:
    """Use `replacement` for all policies and surfaces of this process inside the block."""
    before = rng.installed
    rng.use(replacement)
    try:
        yield
    finally:
        rng.use(before)
