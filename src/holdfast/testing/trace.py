"""The trace of a run: every event in order, as one hash.

Two runs of one seed must have the same trace. What goes in is numbers, text and frozen events,
never anything with an address in its `repr`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING

from holdfast.core.events import Unclassified

if TYPE_CHECKING:
    from holdfast.core.events import Event

_FLUSH = 512


class Trace:
    """Collects what happens and hashes it (blake2b, 16 bytes).

    keep: also keep the lines, for a person to read; a long run does not.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._pending: list[tuple[object, ...]] = []
        self._calls: dict[int, int] = {}
        self._fields: dict[type, tuple[str, ...]] = {}
        self.lines: list[str] | None = [] if keep else None
        self.count = 0

    def add(self, *what: object) -> None:
        """Add one entry: a word, then numbers and text."""
        self._pending.append(what)
        if len(self._pending) >= _FLUSH:
            self._flush()

    def event(self, event: Event) -> None:
        """Add one event of the hub.

        `call_id` counts calls of the process, so it is replaced by its order in this run;
        `Unclassified` comes once per process and type, so it is left out.
        """
        kind = type(event)
        if kind is Unclassified:
            return
        names = self._fields.get(kind)
        if names is None:
            names = tuple(
                field.name for field in dataclasses.fields(event) if field.name != "call_id"
            )
            self._fields[kind] = names
        call = self._calls.setdefault(event.call_id, len(self._calls)) if event.call_id else -1
        self.add(kind.__name__, call, *[getattr(event, name) for name in names])

    def hexdigest(self) -> str:
        """Return the hash of all so far."""
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        lines = [repr(what) for what in self._pending]
        self._pending.clear()
        self.count += len(lines)
        if lines:
            self._hash.update(("\n".join(lines) + "\n").encode())
        if self.lines is not None:
            self.lines.extend(lines)
