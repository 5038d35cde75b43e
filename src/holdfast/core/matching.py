"""`on=`: which failures a strategy concerns, as kinds and exception types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

from holdfast.core.verdict import Kind, Verdict

On: TypeAlias = "Kind | type[BaseException] | tuple[Kind | type[BaseException], ...]"


@dataclass(frozen=True, slots=True)
class Matcher:
    """The compiled form of `on=`."""

    kinds: Kind
    types: tuple[type[BaseException], ...]

    def matches(self, verdict: Verdict, error: BaseException | None) -> bool:
        """Say whether this failure is meant. CANCELLED only if it was named."""
        return bool(verdict.kind & self.kinds) or (
            error is not None and isinstance(error, self.types)
        )


def compile_on(owner: str, on: On) -> Matcher:
    """Check and compile `on=`.

    TRANSIENT also means CONNECT and TIMEOUT; THROTTLED also means CONCURRENCY.
    Raises ValueError for Exception and BaseException, which would repeat programming errors,
    and for anything that is neither a kind nor an exception type.
    """
    kinds = Kind(0)
    types: list[type[BaseException]] = []
    for item in on if isinstance(on, tuple) else (on,):
        if isinstance(item, Kind):
            kinds |= item
        elif item is Exception or item is BaseException:
            raise ValueError(
                f"`{owner}(on={item.__name__})` would repeat programming errors too: name kinds "
                "(`hf.TRANSIENT | hf.THROTTLED`) or the exception types you mean"
            )
        elif _is_error_type(item):
            types.append(item)
        else:
            raise ValueError(f"`{owner}(on=...)` takes kinds and exception types: {item!r}")
    if Kind.TRANSIENT & kinds:
        kinds |= Kind.CONNECT | Kind.TIMEOUT
    if Kind.THROTTLED & kinds:
        kinds |= Kind.CONCURRENCY
    return Matcher(kinds, tuple(types))


def _is_error_type(item: object) -> TypeGuard[type[BaseException]]:
    return isinstance(item, type) and issubclass(item, BaseException)
