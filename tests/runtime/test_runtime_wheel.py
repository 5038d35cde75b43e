from __future__ import annotations

import asyncio
import math

import pytest

from holdfast.runtime.clock import clock
from holdfast.runtime.random import SeededRandom
from holdfast.runtime.wheel import HORIZON, TICK, Due, Wheel
from holdfast.testing import sim_run


class Bell(Due):
    __slots__ = ("rung",)

    def __init__(self):
        super().__init__()
        self.rung = []

    def on_due(self, now):
        self.rung.append(now)


def simulate(main):
    async def run(sim):
        wheel = Wheel(asyncio.get_running_loop())
        try:
            await main(wheel)
        finally:
            wheel.close()

    sim_run(run, 1)


def test_a_limit_rings_once_and_hardly_late():
    async def main(wheel):
        bell, start = Bell(), clock.monotonic()
        wheel.set(bell, start + 1.0)
        await asyncio.sleep(3)
        assert len(bell.rung) == 1
        assert 1.0 <= bell.rung[0] - start <= 1.0 + 2 * TICK
        assert bell.due == math.inf
        assert wheel.size == 0

    simulate(main)


def test_an_owner_that_raises_keeps_no_other_from_its_limit():
    class Broken(Bell):
        def on_due(self, now):
            super().on_due(now)
            raise RuntimeError("broken")

    async def main(wheel):
        told = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        now = clock.monotonic()
        bells = [Bell(), Broken(), Bell()]
        for n in (1, 2):
            for bell in bells:
                wheel.set(bell, now + n)
            await asyncio.sleep(1.1)
            assert [len(bell.rung) for bell in bells] == [n, n, n]
        assert [str(one["exception"]) for one in told] == ["broken"] * 2

    simulate(main)


def test_a_limit_that_is_put_off_rings_at_its_last_time():
    async def main(wheel):
        bell, start = Bell(), clock.monotonic()
        for n in range(100):
            wheel.set(bell, start + n * 0.1 + 1)
            await asyncio.sleep(0.1)
            assert wheel.size == 1
        await asyncio.sleep(5)
        assert [round(at - start, 1) for at in bell.rung] == [10.9]

    simulate(main)


def test_a_limit_that_is_brought_forward_rings_at_its_new_time():
    async def main(wheel):
        bell, start = Bell(), clock.monotonic()
        wheel.set(bell, start + 10)
        wheel.set(bell, start + 1)
        await asyncio.sleep(20)
        assert [round(at - start, 1) for at in bell.rung] == [1.0]
        assert wheel.size == 0

    simulate(main)


def test_a_limit_that_is_taken_back_never_rings():
    async def main(wheel):
        bell = Bell()
        wheel.set(bell, clock.monotonic() + 1)
        wheel.set(bell, math.inf)
        await asyncio.sleep(5)
        assert bell.rung == []
        assert wheel.size == 0

    simulate(main)


def test_one_that_rings_may_set_itself_again():
    class Again(Bell):
        __slots__ = ("wheel",)

        def on_due(self, now):
            super().on_due(now)
            if len(self.rung) < 3:
                self.wheel.set(self, now + 0.5)

    async def main(wheel):
        bell = Again()
        bell.wheel = wheel
        wheel.set(bell, clock.monotonic() + 0.5)
        await asyncio.sleep(5)
        assert len(bell.rung) == 3

    simulate(main)


def test_a_limit_in_the_past_rings_in_the_next_turn():
    async def main(wheel):
        bell = Bell()
        wheel.set(bell, clock.monotonic() - 5)
        await asyncio.sleep(3 * TICK)
        assert len(bell.rung) == 1

    simulate(main)


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_sets_rings_what_is_due_and_nothing_else(seed):
    async def main(wheel):
        rng = SeededRandom(seed)
        bells = [Bell() for _ in range(50)]
        expected = {}
        for _ in range(600):
            bell = bells[rng.between(0, 49)]
            due = clock.monotonic() + rng.draw() * 3 if rng.draw() < 0.9 else math.inf
            wheel.set(bell, due)
            expected[bell] = due
            if rng.draw() < 0.3:
                await asyncio.sleep(rng.draw() * 0.2)
            for one in bells:  # what has rung was due, and what is overdue has rung
                while one.rung:
                    assert one.rung[0] >= expected[one]
                    one.rung.pop(0)
                    expected[one] = math.inf
                assert expected.get(one, math.inf) > clock.monotonic() - 2 * TICK
        await asyncio.sleep(4)
        assert wheel.size == 0

    simulate(main)


def test_an_owner_whose_limit_was_taken_back_is_not_kept_until_then():
    async def main(wheel):
        gone, there = Bell(), Bell()
        wheel.set(gone, clock.monotonic() + 3600)
        wheel.set(there, clock.monotonic() + 2 * HORIZON)
        wheel.set(gone, math.inf)
        await asyncio.sleep(HORIZON + 2 * TICK)
        assert wheel.size == 1
        await asyncio.sleep(HORIZON)
        assert (len(there.rung), len(gone.rung), wheel.size) == (1, 0, 0)

    simulate(main)
