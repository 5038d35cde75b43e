"""The fake clock: one thread, several threads, real asyncio loops, simulated loops."""

import _thread
import asyncio
import contextlib
import threading
import time

import pytest

import holdfast as hf
from holdfast.runtime.clock import SystemClock
from holdfast.runtime.clock import clock as seam
from holdfast.runtime.random import rng
from holdfast.testing import ClockStuck, RealSleep, SimDeadlock, SimLoop, clock


@pytest.fixture(autouse=True)
def _takes_no_real_time():
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < 10, "the test waited in real time"


# -- one thread ------------------------------------------------


def test_sleep_returns_at_once_and_time_has_moved():
    with clock() as fake:
        seam.sleep(3)
        seam.sleep(3600.5)

        assert seam.monotonic() == fake.now == 3603.5
        assert fake.slept == [3, 3600.5]


def test_clock_is_put_back_after_the_block():
    with clock():
        pass
    assert isinstance(seam.installed, SystemClock)
    assert abs(seam.monotonic() - time.monotonic()) < 1


def test_a_clock_is_not_entered_twice():
    with clock() as fake, pytest.raises(RuntimeError, match="in use"):
        fake.__enter__()


def test_wait_for_an_event_that_nobody_sets_takes_its_timeout():
    with clock() as fake:
        assert seam.wait(threading.Event(), 7) is False
        assert fake.now == 7
        assert fake.slept == [7]


def test_wait_for_a_set_event_takes_no_time():
    event = threading.Event()
    event.set()
    with clock() as fake:
        assert seam.wait(event, 7) is True
        assert fake.now == 0
        assert fake.slept == []


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_nonsense_durations_are_refused(seconds):
    with clock(), pytest.raises(ValueError, match="must be a number >= 0"):
        seam.sleep(seconds)


def test_wall_steps_change_no_wait():
    with clock() as fake:
        before = seam.wall()
        fake.step_wall(86400)
        seam.sleep(5)

        assert seam.wall() == before + 86400 + 5
        assert fake.now == 5


def test_suspension_moves_both_clocks_at_once():
    with clock() as fake:
        before = seam.wall()
        fake.suspend(8 * 3600)

        assert fake.now == 8 * 3600
        assert seam.wall() == before + 8 * 3600
        assert fake.slept == []


def test_draws_repeat_from_run_to_run():
    draws = []
    for _ in range(2):
        with clock():
            draws.append([rng.draw() for _ in range(5)] + [rng.token(4)])
    assert draws[0] == draws[1]
    assert len(set(draws[0])) == 6


def test_draws_can_be_fixed_or_seeded():
    with clock() as fake:
        fake.random(1.0)
        assert [rng.draw(), rng.draw()] == [1.0, 1.0]
        fake.random(seed=7)
        first = rng.draw()
        fake.random(seed=7)
        assert rng.draw() == first != 1.0
        assert rng.buggify("anything", 1.0) is False
        with pytest.raises(ValueError, match="either"):
            fake.random()


# -- policies ------------------------------------------------


def flaky(times: int):
    left = [times]

    def call() -> str:
        if left[0]:
            left[0] -= 1
            raise ConnectionResetError
        return "ok"

    return call


RETRIES = (hf.Deadline(600), hf.Retry(4, backoff=hf.Exponential(base=1, cap=30)))


def test_policy_waits_are_listed_and_take_no_time():
    with clock() as fake:
        fake.random(1.0)
        assert hf.policy(*RETRIES).call(flaky(3)) == "ok"
        assert fake.slept == [1, 2, 4]
        assert fake.now == 7


def test_asynchronous_policy_waits_are_the_same():
    async def main() -> str:
        call = flaky(3)

        async def acall() -> str:
            return call()

        return await hf.policy(*RETRIES).acall(acall)

    with clock() as fake:
        fake.random(1.0)
        assert asyncio.run(main()) == "ok"
        assert fake.slept == [1, 2, 4]
        assert fake.now == 7


def test_deadline_interrupts_a_hanging_task_at_its_virtual_time():
    async def main() -> None:
        with pytest.raises(hf.DeadlineExceeded):
            await hf.policy(hf.Deadline(1)).acall(asyncio.sleep, 3)

    with clock() as fake:
        asyncio.run(main())
        assert fake.now == 1


def test_deadline_leaves_a_hanging_worker_thread_at_its_virtual_time():
    hanging = threading.Event()
    try:
        with clock() as fake:
            with pytest.raises(hf.DeadlineExceeded):
                hf.policy(hf.Deadline(60)).call(hanging.wait)
            assert fake.now == 60
    finally:
        hanging.set()


def test_time_does_not_pass_while_a_worker_thread_computes():
    def compute() -> int:
        total = 0
        for i in range(300_000):
            total += i
        return total

    limited = hf.policy(hf.Deadline(0.5))
    assert limited.call(compute)  # now a worker thread exists that the clock did not see start
    with clock() as fake:
        for _ in range(5):
            assert limited.call(compute)
        assert fake.now == 0


def test_the_plugin_fixture_is_this_clock(holdfast_clock):
    seam.sleep(60)
    assert holdfast_clock.now == 60


# -- several threads ------------------------------------------------


def run_threads(*targets) -> None:
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_wake_in_the_order_of_their_time():
    woken: list[tuple[str, float]] = []
    with clock() as fake:
        begin = threading.Barrier(2)

        def sleeper(name: str, seconds: float):
            def run() -> None:
                begin.wait()
                for _ in range(3):
                    seam.sleep(seconds)
                    woken.append((name, fake.now))

            return run

        run_threads(sleeper("a", 10), sleeper("b", 14))

    assert woken == [("a", 10), ("b", 14), ("a", 20), ("b", 28), ("a", 30), ("b", 42)]


def test_an_event_set_by_another_thread_ends_a_wait_before_its_timeout():
    event = threading.Event()
    seen = []
    with clock() as fake:

        def waiter() -> None:
            seen.append((seam.wait(event, 100), fake.now))

        def setter() -> None:
            seam.sleep(30)
            event.set()

        run_threads(waiter, setter)
    assert seen == [(True, 30)]


def test_time_stands_still_while_a_thread_runs():
    with clock() as fake:
        started = threading.Event()
        times = []

        def busy() -> None:
            started.set()
            end = time.monotonic() + 0.1
            while time.monotonic() < end:
                times.append(fake.now)

        thread = threading.Thread(target=busy)
        thread.start()
        started.wait()
        seam.sleep(5)
        thread.join()
    assert set(times) <= {0}


def start_sleeper(fake, woken: list[float], *naps: float) -> threading.Thread:
    """Return a thread that sleeps already."""

    def sleeper() -> None:
        for seconds in naps:
            seam.sleep(seconds)
            woken.append(fake.now)

    thread = threading.Thread(target=sleeper)
    thread.start()
    while not fake.slept:
        time.sleep(0.001)
    return thread


def test_by_hand_only_advance_wakes_a_thread():
    woken: list[float] = []
    with clock(auto=False) as fake:
        thread = start_sleeper(fake, woken, 1, 2, 3)
        fake.advance(0.5)
        assert woken == []
        fake.advance(0.5)
        assert woken == [1]
        fake.advance(10)
        thread.join()
        assert fake.now == 11
    assert woken == [1, 3, 6]


def test_by_hand_the_only_thread_must_not_sleep():
    with clock(auto=False), pytest.raises(ClockStuck, match="auto=True"):
        seam.sleep(3)


def test_a_thread_that_python_did_not_begin_is_no_party():
    shown, end = threading.Event(), threading.Event()

    def foreign():
        threading.current_thread()  # from now on it is among all threads
        shown.set()
        end.wait(30)

    with clock(auto=False):
        _thread.start_new_thread(foreign, ())
        assert shown.wait(5)
        try:
            with pytest.raises(ClockStuck, match="auto=True"):
                seam.sleep(3)
        finally:
            end.set()


def test_threads_that_still_sleep_are_let_go_at_the_end():
    with clock(auto=False) as fake:
        thread = start_sleeper(fake, [], 100)
    thread.join(5)
    assert not thread.is_alive()


# -- real event loops ------------------------------------------------


def test_tasks_wake_in_the_order_of_their_time():
    order = []

    async def sleeper(name: str, seconds: float) -> None:
        await seam.asleep(seconds)
        order.append((name, seam.monotonic()))

    async def main() -> None:
        await asyncio.gather(sleeper("c", 3e5), sleeper("a", 1), sleeper("b", 2))

    with clock() as fake:
        asyncio.run(main())
        assert fake.slept == [3e5, 1, 2]
    assert order == [("a", 1), ("b", 2), ("c", 3e5)]


def test_asyncio_itself_follows_the_clock():
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(7)
        return asyncio.get_running_loop().time()

    with clock() as fake:
        assert asyncio.run(main()) == fake.now == 5


def test_a_clock_inside_a_running_loop_puts_its_timers_back():
    async def main() -> tuple[float, float]:
        rest = asyncio.create_task(asyncio.sleep(0.05))
        await asyncio.sleep(0)
        with clock() as fake:
            await seam.asleep(0.02)
            moved = fake.now
        begin = time.monotonic()
        await rest
        return moved, time.monotonic() - begin

    moved, real = asyncio.run(main())
    assert moved == 0.02
    assert 0.02 <= real < 5


def test_timers_through_the_seam_can_be_cancelled():
    rung = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        seam.call_later(loop, 1, lambda: rung.append(seam.monotonic()))
        seam.call_later(loop, 2, lambda: rung.append(0)).cancel()
        await asyncio.sleep(3)

    with clock():
        asyncio.run(main())
    assert rung == [1]


def test_time_waits_for_real_io():
    async def main() -> float:
        async def serve(reader, writer) -> None:
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        async with asyncio.timeout(5):
            writer.write(b"hello\n")
            assert await reader.read() == b"hello\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return seam.monotonic()

    with clock():
        assert asyncio.run(main()) == 0


def test_time_waits_for_executor_threads():
    async def main() -> None:
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(sum, range(300_000)) > 0
        await asyncio.sleep(2)

    with clock() as fake:
        asyncio.run(main())
        assert fake.now == 2


def test_by_hand_advance_fires_timers_when_the_loop_runs_again():
    async def main() -> float:
        task = asyncio.create_task(seam.asleep(5))
        await asyncio.sleep(0)
        fake.advance(4)
        await asyncio.sleep(0)
        assert not task.done()
        fake.advance(1)
        await task
        return seam.monotonic()

    with clock(auto=False) as fake:
        assert asyncio.run(main()) == 5


def test_by_hand_aadvance_lets_tasks_run_on_the_way():
    times = []

    async def sleeper() -> None:
        for _ in range(3):
            await seam.asleep(1)
            times.append(seam.monotonic())

    async def main() -> None:
        task = asyncio.create_task(sleeper())
        await fake.aadvance(2.5)
        assert times == [1, 2]
        assert fake.now == 2.5
        await fake.aadvance(2.5)
        assert task.done()

    with clock(auto=False) as fake:
        asyncio.run(main())
    assert times == [1, 2, 3]


def test_by_hand_a_loop_that_nobody_can_wake_is_said():
    with clock(auto=False), pytest.raises(ClockStuck, match="auto=True"):
        asyncio.run(asyncio.sleep(1))


def test_loops_in_two_threads_share_the_time():
    times = {}
    with clock():
        begin = threading.Barrier(2)

        def run(name: str, seconds: float):
            async def main() -> None:
                begin.wait()
                await asyncio.sleep(seconds)
                times[name] = seam.monotonic()

            return lambda: asyncio.run(main())

        run_threads(run("a", 3), run("b", 4))
    assert times == {"a": 3, "b": 4}


def test_clocks_nest_on_one_loop():
    async def main() -> None:
        await asyncio.sleep(5)
        with clock() as inner:
            await asyncio.sleep(3)
            assert inner.now == 3
        assert seam.monotonic() == outer.now == 5
        await asyncio.sleep(1)

    with clock() as outer:
        asyncio.run(main())
        assert outer.now == 6


# -- simulated loops ------------------------------------------------


def test_clock_inside_a_simulated_loop():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(5)
        with clock() as fake:
            await seam.asleep(2)
            await asyncio.sleep(1)
            assert fake.now == loop.time() == 3
        assert loop.time() == 8
        await asyncio.sleep(1)
        assert loop.time() == 9

    with asyncio.Runner(loop_factory=SimLoop) as runner:
        runner.run(main())


def test_by_hand_inside_a_simulated_loop_nobody_can_wake_it():
    async def main() -> None:
        with clock(auto=False) as fake:
            await fake.aadvance(10)
            await asyncio.sleep(1)

    with (
        asyncio.Runner(loop_factory=SimLoop) as runner,
        pytest.raises(SimDeadlock, match="moved by hand"),
    ):
        runner.run(main())


# -- real sleeps ------------------------------------------------


def as_product(source: str) -> object:
    """Run `source` as if it stood in a module of Holdfast's own."""
    names: dict[str, object] = {"__name__": "holdfast.somewhere"}
    exec(source, names)  # a module made up for the test
    return names["run"]


@pytest.mark.parametrize(
    "source",
    [
        "import time\ndef run(): time.sleep(0.01)",
        "import threading\ndef run(): threading.Event().wait(0.01)",
        "import asyncio\ndef run(): asyncio.sleep(0.01)",
    ],
)
def test_a_real_sleep_of_the_product_is_an_error_that_names_the_place(source):
    run = as_product(source)
    with pytest.raises(RealSleep, match=r"in holdfast\.somewhere, line 2"), clock():
        run()
    assert time.sleep.__module__ == "time"


def test_a_swallowed_real_sleep_is_said_at_the_end():
    run = as_product("import time\ndef run(): time.sleep(0.01)")

    def swallowing() -> None:
        with contextlib.suppress(AssertionError):
            run()

    with pytest.raises(RealSleep, match="real sleep"), clock():
        swallowing()


def test_the_code_under_test_may_sleep_in_real_time():
    with clock() as fake:
        time.sleep(0.001)
        threading.Event().wait(0.001)
        assert fake.now == 0
