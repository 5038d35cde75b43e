"""Runs of small files in simulation: every invariant, and which defects would be found."""

import threading

import pytest

from holdfast.downloads.group import Group
from holdfast.runtime.clock import clock
from holdfast.testing.baton import Baton
from holdfast.testing.scenarios import downloads_small
from holdfast.testing.simulation import sim_run
from holdfast.transfer.plane_async import Line
from seeds import assert_repeats, kinds_found, run_seeds

SCENARIO = downloads_small.SCENARIO


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_small_files_are_right_or_in_the_failed_list(first):
    assert sum(run_seeds(SCENARIO, first, 20)) >= 100


@pytest.mark.long
@pytest.mark.parametrize("first", range(1000, 3000, 100))
def test_two_thousand_seeds_of_small_files(first):
    run_seeds(SCENARIO, first, 100)


def test_the_same_seed_gives_the_same_trace():
    assert all(result.faults > 3 for result in assert_repeats(SCENARIO, 3, 24))


def test_a_group_that_is_not_synced_is_caught(monkeypatch):
    monkeypatch.setattr(Group, "_sync", lambda *_: None)
    assert "wrong bytes" in kinds_found(SCENARIO, 40)


def test_a_group_that_is_renamed_before_it_is_committed_is_caught(monkeypatch):
    def finish(self, group):
        pairs = [pair for done in group if (pair := self._named(done)) is not None]
        self._ended([done for done, _ in pairs])

    monkeypatch.setattr(Group, "_finish", finish)
    assert kinds_found(SCENARIO, 20)


def test_a_body_that_is_taken_though_it_was_cut_is_caught(monkeypatch):
    def broken(self, error):
        if self.head is None:
            original(self, error)
        else:
            self.may_reuse = False
            self._at = 6
            self.end, self.fault, self.text = downloads_small.End.COMPLETE, None, ""
            self._told(self)

    original = Line._broken
    monkeypatch.setattr(Line, "_broken", broken)
    assert "wrong bytes" in kinds_found(SCENARIO, 40)


def test_an_answer_that_is_not_the_object_is_caught(monkeypatch):
    monkeypatch.setattr(
        "holdfast.downloads.small.is_plain", lambda head, _: head.status in {200, 503}
    )
    monkeypatch.setattr("holdfast.downloads.small.wants", lambda _: True)
    assert "wrong bytes" in kinds_found(SCENARIO, 40)


# -- the baton -------------------------------------------------------------------------------------


def test_threads_take_turns_in_virtual_time():
    said = []

    async def main(sim):
        baton = Baton(sim)
        event = threading.Event()

        def other():
            clock.sleep(5)
            said.append(("other", sim.clock.now))
            event.set()

        def work():
            hand = baton.start(other, "other")
            assert not clock.wait(event, 2)
            said.append(("work", sim.clock.now))
            assert clock.wait(event, None)
            hand.join()
            return "done"

        with baton.installed():
            assert await baton.run(work) == "done"

    sim_run(main)
    assert [name for name, _ in said] == ["work", "other"]
    assert [at for _, at in said] == pytest.approx([2.0, 5.0])


def test_what_a_thread_raises_is_raised_by_run():
    async def main(sim):
        baton = Baton(sim)

        async def fails():
            raise KeyError("inside")

        def work():
            with pytest.raises(KeyError):
                baton.run_coroutine(fails())
            raise ValueError("outside")

        with baton.installed(), pytest.raises(ValueError, match="outside"):
            await baton.run(work)

    sim_run(main)
