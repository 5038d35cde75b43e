"""Globs on paths and keys, and which of several rules decides.

    *        any characters but `/`
    **       any characters, `/` too
    **/      at the start of a component: no directory or any number of them
    ?        one character but `/`
    [a-z_]   one of these, [!a-z] none of them; never `/`.  [*] is a star that is meant
    else     itself; upper and lower case differ

A glob must match the whole path. It becomes a regular expression once. Stars written as
`[^/]*` would take time in the power of their number: ten of them over a key of 1,000
characters do not come to an end. So each star but the last is atomic and takes the nearest
place at which what follows it stands. That loses no match: what follows is of fixed length up
to the next star, and whatever the next star reaches from a later place (it may not cross a
`/`, and neither did the way there) it reaches from the nearest one, too. Between two `**` the
same holds for all that stands there. What is left is at worst quadratic in the length of a key,
which S3 ends at 1,024 bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from holdfast.downloads.failures import DownloadError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_PATTERN = 1024
Kind = Literal["include", "exclude"]


def translate(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a glob; use its `match`.

    Raises DownloadError (HF-1003) for a pattern that is empty, longer than 1,024 characters,
    or has a range that runs backwards.
    """
    if not 0 < len(pattern) <= MAX_PATTERN:
        text = f"glob `{pattern[:40]}`: it must have from 1 to {MAX_PATTERN} characters"
        raise DownloadError("bad-option", text)
    groups: list[_Group] = [_Group("")]
    at = 0
    while at < len(pattern):
        if pattern.startswith("**", at):
            starts_component = at == 0 or pattern[at - 1] == "/"
            while pattern.startswith("*", at):
                at += 1
            if starts_component and pattern.startswith("/", at):
                at += 1
                groups.append(_Group("(?:[^/]*+/)*?"))
            else:
                groups.append(_Group(".*?"))
        elif pattern[at] == "*":
            groups[-1].chunks.append("")
            at += 1
        else:
            text, at = _one(pattern, at)
            groups[-1].chunks[-1] += text
    expression = "".join(group.inner() for group in groups[:-1]) + groups[-1].last()
    return re.compile(expression, re.DOTALL)


class _Group:
    """What stands between two `**`: pieces of fixed length, a `*` between each two."""

    def __init__(self, way: str) -> None:
        self.way = way  # how it is reached: nothing at the start, else any way there
        self.chunks = [""]

    def inner(self) -> str:
        """Return the expression of one that another follows: it takes its nearest place."""
        head, *rest = self.chunks
        body = self.way + head + "".join(f"(?>[^/]*?{chunk})" for chunk in rest)
        return f"(?>{body})" if self.way else body

    def last(self) -> str:
        """Return the expression of the last one: its last piece must end the path."""
        head, *rest = self.chunks
        if not rest:
            return f"{self.way}{head}\\Z"
        middle = "".join(f"(?>[^/]*?{chunk})" for chunk in rest[:-1])
        return f"{self.way}{head}{middle}[^/]*{rest[-1]}\\Z"


def _one(pattern: str, at: int) -> tuple[str, int]:
    """Return the expression of one character of the path, and where the pattern goes on."""
    char = pattern[at]
    if char == "?":
        return "[^/]", at + 1
    if char == "[":
        negated = pattern.startswith("!", at + 1)
        start = at + 1 + negated
        end = pattern.find("]", start + 1)  # a bracket right after the opening one is meant
        if end > 0:
            return _set(pattern[start:end], negated=negated), end + 1
    return re.escape(char), at + 1


def _set(members: str, *, negated: bool) -> str:
    found: list[str] = []
    at = 0
    while at < len(members):
        low = high = members[at]
        if members[at + 1 : at + 2] == "-" and at + 2 < len(members):
            high = members[at + 2]
            at += 2
        if low > high:
            text = f"glob: the range `{low}-{high}` runs backwards; write `{high}-{low}`"
            raise DownloadError("bad-option", text)
        found.append(re.escape(low) if low == high else f"{re.escape(low)}-{re.escape(high)}")
        at += 1
    return f"(?!/)[{'^' if negated else ''}{''.join(found)}]"


@dataclass(frozen=True, slots=True)
class Globs:
    """Rules in the order they were given. The last one that matches a path decides on it.

    What no rule matches is taken, unless there is an `include` among the rules.
    """

    rules: tuple[tuple[Kind, str], ...] = ()
    _compiled: tuple[tuple[bool, re.Pattern[str]], ...] = ()

    def __post_init__(self) -> None:
        compiled = tuple((kind == "include", translate(glob)) for kind, glob in self.rules)
        object.__setattr__(self, "_compiled", compiled)

    def takes(self, path: str) -> bool:
        """Whether the rules want `path`."""
        for included, compiled in reversed(self._compiled):
            if compiled.match(path):
                return included
        return not any(included for included, _ in self._compiled)

    def __str__(self) -> str:
        return " ".join(f"--{kind} {glob}" for kind, glob in self.rules)


def globs(
    include: str | Iterable[str] | None = None, exclude: str | Iterable[str] | None = None
) -> Globs:
    """Return the rules for two lists, where the order between them is not known.

    The excludes come last, so that each takes away from what the includes brought.
    """
    rules: list[tuple[Kind, str]] = [("include", glob) for glob in _listed(include)]
    rules += [("exclude", glob) for glob in _listed(exclude)]
    return Globs(tuple(rules))


def _listed(given: str | Iterable[str] | None) -> Iterable[str]:
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else given
