"""What somebody may have meant: the known word that is most like the one that was given."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_WORD = 200


def nearest(word: str, known: Iterable[str], *, count: int = 1, alike: float = 0.5) -> list[str]:
    """Return up to `count` of `known` that are like `word`, the most alike first.

    alike: 0 to 1, how much of the two must agree.
    """
    import difflib  # noqa: PLC0415 - only needed once something is mistyped

    return difflib.get_close_matches(word[:MAX_WORD], list(known), n=count, cutoff=alike)


def hint(word: str, known: Iterable[str]) -> str:
    """Return what to add to a refusal: the nearest word, else all of them."""
    words = list(known)
    found = nearest(word, words)
    if found:
        return f"did you mean `{found[0]}`?"
    return "known: " + ", ".join(f"`{name}`" for name in words)
