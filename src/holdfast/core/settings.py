"""Settings from a file or a program: checked as a whole, every error told with its path.

A group of settings is a frozen dataclass whose fields are made by `setting`:

    @dataclass(frozen=True)
    class Limits:
        '''What a client may send.'''
        head_max: int = setting(Size(1024, 1 << 20), "32KiB", "bytes of a request's head")

`read(Limits, {"head_max": "8KiB"}, "gateway.main")` gives the object, or a list of `Problem`: a
wrong type, a value out of range, a key that is not known with the nearest one that is. Nothing
is guessed and nothing is left out in silence, because a setting that was mistyped is one that
does not hold.
"""

from __future__ import annotations

import math
import re
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_T = TypeVar("_T")

_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(ms|s|m|h|d)?\Z")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_SIZE = re.compile(r"(\d+) ?([KMGT])?(i)?B?\Z", re.IGNORECASE)


class Problem(NamedTuple):
    """One error. path: of the setting, `gateway.main.listen`.  nearest: a key that is known."""

    path: str
    text: str
    nearest: str = ""

    def __str__(self) -> str:
        hint = f"; did you mean `{self.nearest}`?" if self.nearest else ""
        return f"`{self.path}`: {self.text}{hint}"


class Wrong(Exception):
    """A value that a kind does not take; the message says what it would."""


class Kind(Protocol):
    """What a setting may be."""

    def read(self, value: object) -> object:
        """Return the value as the program uses it. Raises Wrong."""
        ...

    def __str__(self) -> str:
        """Say what it takes, as in `a number from 0 to 1`."""
        ...


def setting(kind: Kind, default: object = MISSING, doc: str = "") -> Any:  # noqa: ANN401 - of the field's own type
    """Return a field of a group. default: as it would be written; without one it is required."""
    meta = {"kind": kind, "doc": doc, "default": default}
    if default is MISSING:
        return field(metadata=meta)
    value = kind.read(default)
    if isinstance(value, list | dict):
        return field(default_factory=value.copy, metadata=meta)
    return field(default=value, metadata=meta)


class Result(NamedTuple, Generic[_T]):
    """What `read` found. value: None if there are problems."""

    value: _T | None
    problems: list[Problem]


def read(group: type[_T], data: object, path: str = "") -> Result[_T]:
    """Check a table against a group, and build it."""
    if not isinstance(data, dict):
        return Result(
            None, [Problem(path or "the file", f"a table is wanted, not {name_of(data)}")]
        )
    known = {one.name: one for one in fields(group)}  # type: ignore[arg-type]  # a dataclass
    problems = [
        Problem(_join(path, key), "not known", nearest(str(key), known))
        for key in data
        if key not in known
    ]
    values: dict[str, object] = {}
    for name, one in known.items():
        if name in data:
            found, wrong = _value(one.metadata["kind"], data[name], _join(path, name))
            problems += wrong
            values[name] = found
        elif one.default is MISSING and one.default_factory is MISSING:
            problems.append(Problem(_join(path, name), "missing"))
    if problems:
        return Result(None, problems)
    try:
        return Result(group(**values), [])
    except ValueError as error:  # what the group says of its fields together
        return Result(None, [Problem(path, str(error))])


def _value(kind: Kind, value: object, path: str) -> tuple[object, list[Problem]]:
    if isinstance(kind, Group):
        return read(kind.group, value, path)
    if isinstance(kind, Groups):
        return _values(kind, value, path)
    try:
        return kind.read(value), []
    except Wrong as wrong:
        return None, [Problem(path, str(wrong))]


def _values(kind: Groups, value: object, path: str) -> tuple[object, list[Problem]]:
    if not isinstance(value, list):
        return None, [
            Problem(path, f"a list of tables is wanted, `[[{path}]]`, not {name_of(value)}")
        ]
    results: list[Result[object]] = [
        read(kind.group, one, f"{path}[{n}]") for n, one in enumerate(value, 1)
    ]
    return [one.value for one in results], [p for one in results for p in one.problems]


def _join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def nearest(word: str, known: Sequence[str] | Mapping[str, object]) -> str:
    """Return the known word that is most like `word`, or an empty text."""
    import difflib  # noqa: PLC0415 - for errors only

    found = difflib.get_close_matches(word.lower().replace("-", "_"), list(known), 1, 0.6)
    return found[0] if found else ""


def name_of(value: object) -> str:
    """Return what a value is, for people, and nothing of what it holds: it may be a secret."""
    names: dict[type, str] = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "a table",
        type(None): "nothing",
    }
    return names.get(type(value), f"a {type(value).__name__}")


# -- kinds -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """A number. whole: without a fraction."""

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False

    def read(self, value: object) -> float:
        """Check it."""
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # noqa: PLR0124 - NaN
            raise Wrong(f"{self} is wanted, not {name_of(value)}")
        if self.whole and not isinstance(value, int):
            raise Wrong(f"{self} is wanted, not {value}")
        if not self.low <= value <= self.high:
            raise Wrong(f"{value}: {self} is wanted")
        return value

    def __str__(self) -> str:
        return f"a {'whole ' if self.whole else ''}number{_range(self.low, self.high)}"


def _range(low: float, high: float) -> str:
    if high < math.inf:
        return f" from {low:.15g} to {high:.15g}"
    return f" of at least {low:.15g}" if low > -math.inf else ""


@dataclass(frozen=True)
class Seconds:
    """A duration: seconds as a number, or text such as `250ms`, `30s`, `5m`, `2h`.

    words: texts that mean something of their own, such as `auto`.
    """

    low: float = 0.0
    high: float = 86400.0 * 30
    words: tuple[str, ...] = ()

    def read(self, value: object) -> float | str:
        """Return seconds, or one of the words."""
        if isinstance(value, str):
            if value in self.words:
                return value
            found = _DURATION.match(value)
            if found is None:
                raise Wrong(f"{self} is wanted, not a text of this form")
            value = float(found[1]) * _UNITS[found[2]]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Wrong(f"{self} is wanted, not {name_of(value)}")
        if not self.low <= value <= self.high:
            raise Wrong(f"{value:g} s: {self} is wanted")
        return float(value)

    def __str__(self) -> str:
        words = "".join(f", or `{word}`" for word in self.words)
        return f'seconds{_range(self.low, self.high)} (30, "250ms", "5m"){words}'


@dataclass(frozen=True)
class Size:
    """Bytes: a whole number, or text such as `64KiB`, `20M`; all units are powers of 1024."""

    low: int = 0
    high: int = 1 << 62

    def read(self, value: object) -> int:
        """Return bytes."""
        if isinstance(value, str):
            found = _SIZE.match(value)
            if found is None:
                raise Wrong(f"{self} is wanted, not a text of this form")
            value = int(found[1]) << 10 * " KMGT".index((found[2] or " ").upper())
        if isinstance(value, bool) or not isinstance(value, int):
            raise Wrong(f"{self} is wanted, not {name_of(value)}")
        if not self.low <= value <= self.high:
            raise Wrong(f"{value} bytes: {self} is wanted")
        return value

    def __str__(self) -> str:
        high = self.high if self.high < 1 << 62 else math.inf
        return f'bytes{_range(self.low, high)} (65536, "64KiB")'


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def read(self, value: object) -> bool:
        """Check it."""
        if not isinstance(value, bool):
            raise Wrong(f"{self} is wanted, not {name_of(value)}")
        return value

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Text:
    """A text. form: a regular expression that all of it must match; what: what that means."""

    form: str = ""
    what: str = "a text"

    def read(self, value: object) -> str:
        """Check it."""
        if not isinstance(value, str):
            raise Wrong(f"{self} is wanted, not {name_of(value)}")
        if self.form and not re.fullmatch(self.form, value):
            raise Wrong(f"{self} is wanted")
        return value

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]

    def read(self, value: object) -> str:
        """Check it."""
        if not isinstance(value, str):
            raise Wrong(f"{self} is wanted, not {name_of(value)}")
        if value not in self.words:
            near = nearest(value, self.words)
            raise Wrong(f"{self} is wanted" + (f"; did you mean `{near}`?" if near else ""))
        return value

    def __str__(self) -> str:
        return "one of " + ", ".join(f"`{word}`" for word in self.words)


@dataclass(frozen=True)
class SecretRef:
    """Where a secret is: `env:NAME` or `file:PATH`. The secret itself may not stand in a file."""

    def read(self, value: object) -> str:
        """Check the form; the secret is not looked up."""
        if not isinstance(value, str) or not re.fullmatch(r"(env:[A-Za-z_]\w*|file:.+)", value):
            raise Wrong(f"{self} is wanted; a secret is never written into a configuration")
        return value

    def __str__(self) -> str:
        return "`env:NAME` or `file:PATH`"


@dataclass(frozen=True)
class Many:
    """A list of values of one kind. single: one alone may stand without its list."""

    kind: Kind
    single: bool = False
    most: int = 10_000

    def read(self, value: object) -> tuple[object, ...]:
        """Check each."""
        if self.single and not isinstance(value, list | tuple):
            value = [value]
        if not isinstance(value, list | tuple):
            raise Wrong(f"{self} is wanted, not {name_of(value)}")
        if len(value) > self.most:
            raise Wrong(f"{len(value)} values: at most {self.most} are taken")
        found = []
        for n, one in enumerate(value, 1):
            try:
                found.append(self.kind.read(one))
            except Wrong as wrong:
                raise Wrong(f"number {n}: {wrong}") from None
        return tuple(found)

    def __str__(self) -> str:
        return f"a list, each of it {self.kind}"


@dataclass(frozen=True)
class Texts:
    """A table of names and texts."""

    def read(self, value: object) -> dict[str, str]:
        """Check each."""
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise Wrong(f"{self} is wanted")
        return dict(value)

    def __str__(self) -> str:
        return "a table of texts"


@dataclass(frozen=True)
class Either:
    """The first of several kinds that takes the value."""

    kinds: tuple[Kind, ...]

    def read(self, value: object) -> object:
        """Try each."""
        for kind in self.kinds:
            try:
                return kind.read(value)
            except Wrong:
                continue
        raise Wrong(f"{self} is wanted")

    def __str__(self) -> str:
        return ", or ".join(str(kind) for kind in self.kinds)


@dataclass(frozen=True)
class Group:
    """A table that is a group of its own."""

    group: type

    def read(self, value: object) -> object:
        """Build it, for a default."""
        found: Result[object] = read(self.group, value)
        if found.problems:
            raise Wrong(str(found.problems[0]))
        return found.value

    def __str__(self) -> str:
        return "a table"


@dataclass(frozen=True)
class Groups:
    """A list of tables, each a group."""

    group: type

    def read(self, value: object) -> list[object]:
        """Build them, for a default."""
        found, problems = _values(self, value, "")
        if problems or not isinstance(found, list):
            raise Wrong(str(problems[0]))
        return found

    def __str__(self) -> str:
        return "a list of tables"
