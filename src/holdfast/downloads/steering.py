"""What of `Downloads` changes what is under way: for any thread, also while `run` works."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from holdfast.downloads.fetch import WISHED
from holdfast.downloads.leavings import sweep_after_aria2
from holdfast.downloads.opening import refusing
from holdfast.downloads.planning import Planning
from holdfast.downloads.states import TRANSITIONS, Input, State, after
from holdfast.downloads.store import MOST_AT_ONCE
from holdfast.downloads.wishes import Wish

if TYPE_CHECKING:
    from holdfast.downloads.engine import Engine
    from holdfast.downloads.items import FailedItem, Item


class Steering(Planning):
    """Pause, resume, cancel, retry, and the list of what failed."""

    _engine: Engine | None = None

    def pause(self, item_id: str | None = None) -> int:
        """Stop an item, or all, until `resume`; return how many. What was received is kept."""
        return self._steer(item_id, Input.PAUSE)

    def cancel(self, item_id: str | None = None) -> int:
        """Give an item up, or all, with what was received of it; return how many.

        Files that are done stay. With all, listings that were interrupted are given up, too.
        """
        if item_id is None:
            with refusing():
                self._listings.cancel()
        return self._steer(item_id, Input.CANCEL)

    def resume(self, item_id: str | None = None) -> int:
        """Take up an item that was paused, or all of them; return how many.

        A run that works takes them up at once; one that has ended has to be started again.
        """
        with refusing():
            held = [item for item in self._chosen(item_id, State.PAUSED) if item.is_held]
            for item in held:
                self._store.update(item.id, state=State.QUEUED.value, reason="", text="")
                engine, queued = self._engine, self._store.item(item.id)
                if engine is not None and queued is not None:
                    engine.resume(queued)
            return len(held)

    def retry_failed(self) -> int:
        """Put all that failed into the plan again, counters afresh; return how many.

        What was kept of their bytes is used by the next run; `run(only_failed=True)` does these
        alone. A source that brought nothing is listed again by it. A bad line of a list stays.
        """
        count = 0
        failed = self._store.items(State.FAILED)
        with refusing():
            while batch := list(islice(failed, MOST_AT_ONCE)):
                files = [Wish(replace(item, failure=None)) for item in batch if item.is_file]
                sources = [item for item in batch if not item.is_file and item.listing]
                with self._store.together():
                    self._adder.take(files)
                    self._store.mark_retried(wish.item.id for wish in files)
                    for item in sources:
                        self._listings.reopen(item)
                count += len(files) + len(sources)
        return count

    def failed(self) -> tuple[FailedItem, ...]:
        """Return all that ended without its file, with the reasons."""
        with refusing():
            return tuple(self._store.failed_list())

    def _chosen(self, item_id: str | None, *states: State) -> list[Item]:
        if item_id is None:
            return list(self._store.items(*states))
        item = self._store.item(item_id)
        return [item] if item is not None and item.state in states else []

    def _steer(self, item_id: str | None, wish: Input) -> int:
        states = [state for state in State if (state, wish) in TRANSITIONS]
        count = 0
        with refusing():
            for item in self._chosen(item_id, *states):
                if item.is_held and wish is Input.PAUSE:
                    continue
                count += 1
                engine = self._engine
                if engine is not None and engine.steer(item.id, wish):
                    continue  # the thread that has it sees to the rest
                self._store.ended(item.id, after(item.state, wish), WISHED[wish])
                if wish is Input.CANCEL:
                    self._adder.sweep(item.part)
                    sweep_after_aria2(self.into, item)
                if engine is not None:
                    engine.steer(item.id, wish)  # a thread may have taken it just now
        return count
