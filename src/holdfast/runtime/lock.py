"""One short lock for all decisions, and the delivery of what they say once it is free.

A decision takes a few microseconds and runs under the GIL anyway, so one lock for the whole
process costs nothing and permits objects (budgets) that several policies share. It is
re-entrant because a garbage collection inside a decision may close a forgotten attempt,
which is a decision of its own.

The fast paths of the drivers take no lock. Between the last call they make (asking the
clock) and the next (entering the function) they run straight-line bytecode without calls or
loops, where CPython with a GIL does not switch threads: a test disassembles them and checks
that. Without a GIL they are not used.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from holdfast.core.bulkhead import Ticket
from holdfast.runtime.hub import hub

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.core.events import Event

deciding = threading.RLock()


def deliver(outbox: Sequence[Event | Ticket]) -> None:
    """Wake who got a permit, and publish events; called without the lock."""
    for item in outbox:
        if isinstance(item, Ticket):
            wake = item.wake
            if wake is not None:
                wake()
        else:
            hub.publish(item)
