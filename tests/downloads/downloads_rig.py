"""What the tests of downloads share: quick policies, runs on a thread, looking at a directory."""

from __future__ import annotations

import hashlib
import threading
import time
from typing import TYPE_CHECKING, Any

import holdfast as hf
from holdfast.transfer.plane import Timeouts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from holdfast.downloads.items import ItemEvent

QUICK = Timeouts(connect=5, first_byte=5, idle=0.5)


def quick_policy(attempts: int = 8) -> hf.Policy:
    """Return a policy as the real one, with waits of milliseconds."""
    backoff = hf.Exponential(base=0.005, cap=0.02)
    retry = hf.Retry(attempts, backoff=backoff, budget=None)
    return hf.policy(retry, name="downloads", key=lambda call: call.host)


class Heard:
    """Collects the events of a run."""

    def __init__(self) -> None:
        self.events: list[ItemEvent] = []

    def __call__(self, event: ItemEvent) -> None:
        self.events.append(event)

    def named(self, name: str) -> list[Any]:
        return [e.event for e in self.events if type(e.event).__name__ == name]

    @property
    def states(self) -> list[str]:
        return [event.state for event in self.named("FileState")]


def downloads(into: Path, **options: Any) -> hf.Downloads:
    options.setdefault("policy", quick_policy())
    options.setdefault("timeouts", QUICK)
    return hf.Downloads(into, **options)


class Running:
    """A run on a thread of its own."""

    def __init__(self, d: hf.Downloads) -> None:
        self.report: hf.downloads.Report | None = None
        self._d = d
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.report = self._d.run()

    def join(self) -> hf.downloads.Report:
        self._thread.join(10)
        assert self.report is not None
        return self.report


def until(holds: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def names_in(directory: Path) -> list[str]:
    """Return what lies there, the journal apart."""
    return sorted(p.name for p in directory.iterdir() if not p.name.startswith(".holdfast.db"))
