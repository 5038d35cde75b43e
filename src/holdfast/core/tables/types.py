"""From an exception type to its row, and from a provider's name to its codes.

A type is found by the qualified names along its MRO: of subclasses the nearest row counts,
and `httpx.ReadError` is never taken for `httpx2.ReadError`. No client library is imported
for that, and the table of a family is loaded when a type of that family is first seen.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from holdfast.core.tables.python import TYPES as _PYTHON
from holdfast.core.tables.row import Provider, Row
from holdfast.core.verdict import UNKNOWN, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

# Top-level package of a type -> the table that has its family.
FAMILIES: Final = {
    "httpx": "httpx",
    "httpx2": "httpx",
    "httpcore": "httpx",
    "httpcore2": "httpx",
    "requests": "requests",
    "urllib3": "requests",
    "aiohttp": "aiohttp",
    "botocore": "botocore",
    "boto3": "botocore",
    "s3transfer": "botocore",
    "anthropic": "anthropic",
}

PROVIDERS: Final = ("anthropic", "aria2", "aws", "kling")

# Types made at run time (a class per call) must not pile up here.
_MAX_CACHED = 1024

_loaded: dict[str, Mapping[str, Row]] = {}
_entries: dict[type, Entry | None] = {}
_providers: dict[str, Provider] = {}


class Entry:
    """A row, found for a type (which may be a subclass of the one that the row names).

    name: qualified name of the row.  verdict: the row as it stands, None if its kind is
    UNKNOWN.  plain: the verdict holds for every instance, nothing else has to be looked at.
    """

    __slots__ = ("name", "plain", "row", "verdict")

    def __init__(self, cls: type, name: str, row: Row) -> None:
        self.name = name
        self.row = row
        self.verdict = None if row.kind is UNKNOWN else _verdict(cls, name, row)
        self.plain = self.verdict is not None and row.by == "type" and not row.inside


def entry_for(cls: type) -> Entry | None:
    """Return the nearest row along the MRO of an exception type, or None."""
    try:
        return _entries[cls]
    except KeyError:
        if len(_entries) >= _MAX_CACHED:
            _entries.clear()
        found = _entries[cls] = _find(cls)
        return found


def provider_for(provider: Provider | str) -> Provider:
    """Return the code table of a provider; ValueError if no table has that name."""
    if isinstance(provider, Provider):
        return provider
    found = _providers.get(provider)
    if found is None:
        if provider not in PROVIDERS:
            raise ValueError(f"provider: {provider!r} is not one of {', '.join(PROVIDERS)}")
        found = import_module(f"holdfast.core.tables.{provider}").PROVIDER
        _providers[provider] = found
    return found


def _find(cls: type) -> Entry | None:
    for base in cls.__mro__:
        module = base.__module__
        family = FAMILIES.get(module.partition(".")[0])
        table = _PYTHON if family is None else _table(family)
        name = f"{module}.{base.__qualname__}"
        row = table.get(name)
        if row is not None:
            return Entry(cls, name, row)
    return None


def _table(family: str) -> Mapping[str, Row]:
    found = _loaded.get(family)
    if found is None:
        found = _loaded[family] = import_module(f"holdfast.core.tables.{family}").TYPES
    return found


def _verdict(cls: type, name: str, row: Row) -> Verdict:
    return Verdict(
        row.kind,
        row.sent,
        reason=cls.__name__,
        local=row.local,
        evidence=f"type {name.removeprefix('builtins.')}",
        not_executed=row.not_executed,
        max_retries=row.max_retries,
    )
