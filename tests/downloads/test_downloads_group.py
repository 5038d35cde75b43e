"""The thread that ends groups: what comes at an awkward moment is not left lying."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import holdfast.downloads.group
from holdfast.downloads.group import Group
from holdfast.downloads.rows import Small
from holdfast.downloads.store import Store
from holdfast.runtime import clock as clock_seam
from holdfast.runtime import files as seam
from holdfast.testing.files import SimFiles
from holdfast.testing.virtual import VirtualClock
from holdfast.transfer.wanted import Whole
from holdfast.wire.http1 import Head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Bench:
    """A group, run on this thread, with something that happens at its n-th look at the time."""

    def __init__(self) -> None:
        self.store = Store(":memory:")
        self.done: list[str] = []
        self.group = Group(
            self.store,
            "/d",
            durable=True,
            ended=lambda group: self.done.extend(done.id for done in group),
            refused=lambda _: None,
            stuck=lambda *_: None,
            room=lambda: None,
        )

    def bring(self, n: int) -> None:
        item = Small(f"{n:016x}", str(n), "http://h", f"/{n}", None, (), typed=True)
        head, whole = Head(200), Whole(3, "size-only")
        self.group.put(self.group.write(item, head, whole, b"abc"))


@pytest.fixture
def bench() -> Iterator[Bench]:
    files = SimFiles()
    files.makedirs("/d")
    with seam.install(files):
        made = Bench()
        made.group.open()
        yield made
        made.store.close()


@pytest.mark.parametrize("look", [1, 2])
def test_what_comes_at_any_moment_is_seen_at_once(
    look: int, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment is each look at the clock; another thread brings a file just then."""
    monkeypatch.setattr(holdfast.downloads.group, "MOST", 1)
    clock = VirtualClock()
    looks = 0
    original: Callable[[float], float | None] = bench.group._due

    def due(now: float) -> float | None:
        nonlocal looks
        found = original(now)
        looks += 1
        if looks == look:
            bench.bring(7)
        if looks >= look and bench.done:
            bench.group.close()
        return found

    monkeypatch.setattr(bench.group, "_due", due)
    bench.bring(1)
    with clock_seam.install(clock):
        bench.group.run()
    assert sorted(bench.done) == [f"{1:016x}", f"{7:016x}"]
    assert clock.slept == []


def test_a_few_files_wait_a_second_for_more(bench: Bench) -> None:
    clock = VirtualClock()
    bench.bring(1)
    with clock_seam.install(clock):
        bench.group._since = clock.monotonic()
        bench.group.close = lambda: None  # type: ignore[method-assign] # not needed here
        original = bench.group.flush

        def flush() -> None:
            original()
            bench.group._closing = True

        bench.group.flush = flush  # type: ignore[method-assign] # to end it
        bench.group.run()
    assert bench.done == [f"{1:016x}"]
    assert clock.slept == [1.0]


def test_it_is_full_when_a_whole_group_waits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdfast.downloads.group, "MOST", 3)
    for n in range(3):
        assert not bench.group.is_full
        bench.bring(n)
    assert bench.group.is_full
    assert len(bench.group) == 3
