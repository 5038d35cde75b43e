"""The simulated event loop: virtual time, deadlocks with stacks, one order of everything."""

import asyncio
import contextvars
import os
import subprocess
import sys
import threading

import pytest

from holdfast.testing import SimDeadlock, SimLoop, SimTimeout, VirtualClock


def run(main, **options):
    with asyncio.Runner(loop_factory=lambda: SimLoop(**options)) as runner:
        return runner.run(main)


def test_a_year_takes_no_time():
    async def main():
        await asyncio.sleep(365 * 86400)
        return asyncio.get_running_loop().time()

    assert run(main()) == 365 * 86400


def test_short_sleeps_work_after_a_long_time():
    # Past 10**7 s a nanosecond is less than the distance of two floats.
    async def main():
        await asyncio.sleep(3e8)
        for _ in range(10):
            await asyncio.sleep(0.1)
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(3e8 + 1)


def test_timers_run_in_order_and_at_their_time():
    seen = []

    async def main():
        loop = asyncio.get_running_loop()
        for seconds in (3, 1, 2):
            loop.call_later(seconds, lambda: seen.append(loop.time()))
        loop.call_later(1.5, seen.append, "cancelled").cancel()
        await asyncio.sleep(4)

    run(main())
    assert seen == [1, 2, 3]


def test_timeouts_task_groups_and_cancellation_work():
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        assert loop.time() == 5
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                sleeper = group.create_task(asyncio.sleep(100))
                group.create_task(fail_after(1))
        assert sleeper.cancelled()
        assert loop.time() == 6
        return await asyncio.wait_for(asyncio.sleep(1, "value"), 2)

    async def fail_after(seconds):
        await asyncio.sleep(seconds)
        raise ValueError

    assert run(main()) == "value"


def test_context_variables_follow_tasks():
    variable = contextvars.ContextVar("variable", default=0)

    async def child():
        variable.set(variable.get() + 1)
        await asyncio.sleep(1)
        return variable.get()

    async def main():
        variable.set(10)
        return await asyncio.gather(child(), child()), variable.get()

    assert run(main()) == ([11, 11], 10)


def test_executor_runs_inline():
    async def main():
        loop = asyncio.get_running_loop()
        here = asyncio.to_thread(os.getpid)
        assert await here == os.getpid()
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, lambda: 1 // 0)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await loop.run_in_executor(None, next, iter(()))

    run(main())


def test_deadlock_is_said_at_once_with_the_stacks_of_all_tasks():
    async def main():
        event, queue = asyncio.Event(), asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            group.create_task(waits_for_event(event), name="waiter")
            group.create_task(waits_for_item(queue), name="consumer")

    async def waits_for_event(event):
        await event.wait()

    async def waits_for_item(queue):
        await deeper(queue)

    async def deeper(queue):
        await queue.get()

    with pytest.raises(SimDeadlock) as caught:
        run(main())
    text = str(caught.value)
    assert text.startswith("deadlock at t=0.000000 s: nothing is ready and nothing is scheduled")
    assert len(caught.value.stacks) == 3
    assert "task waiter:" in text
    assert "waits_for_event" in text
    assert text.index("waits_for_item") < text.index("in test_deadlock") or "deeper" in text
    assert "deeper" in text
    assert "Queue.get" in text
    assert "0x" not in text


def test_endless_timers_end_at_the_horizon():
    async def main():
        while True:  # noqa: ASYNC110 - a heartbeat that nothing stops
            await asyncio.sleep(15)

    with pytest.raises(SimTimeout, match="beyond 3600"):
        run(main(), horizon=3600)


def test_spinning_without_time_ends_at_the_step_limit():
    async def main():
        while True:  # noqa: ASYNC110 - spins on purpose
            await asyncio.sleep(0)

    with pytest.raises(SimTimeout, match="1000 loop steps"):
        run(main(), max_steps=1000)


def test_sets_of_tasks_and_futures_have_one_order():
    async def main():
        tasks = [asyncio.create_task(asyncio.sleep(0, i)) for i in range(50)]
        futures = [asyncio.get_running_loop().create_future() for _ in range(50)]
        assert list(set(tasks)) == tasks
        assert list(set(futures)) == futures
        done, _ = await asyncio.wait(tasks)
        return [task.result() for task in done]

    assert run(main()) == list(range(50))


def test_a_sweep_can_cancel_at_every_step():
    cancelled_at = []

    async def worker():
        for _ in range(3):
            await asyncio.sleep(1)

    def sweep(k):
        async def main():
            loop = asyncio.get_running_loop()
            task = asyncio.create_task(worker())
            begin = loop.steps
            loop.on_step = lambda n: n == begin + k and task.cancel()
            await asyncio.wait([task])
            loop.on_step = None
            if task.cancelled():
                cancelled_at.append((k, loop.time()))
            return task.cancelled()

        return run(main())

    k = 1
    while sweep(k):
        k += 1
    assert [time for _, time in cancelled_at] == sorted(time for _, time in cancelled_at)
    assert {time for _, time in cancelled_at} >= {0.0, 1.0, 2.0}
    assert k > 3


def test_unhandled_errors_of_callbacks_are_kept():
    async def main():
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: 1 // 0)
        await asyncio.sleep(0)
        return loop.unhandled

    (note,) = run(main())
    assert "ZeroDivisionError" in note


def test_the_clock_can_be_given_and_stepped():
    clock = VirtualClock()
    clock.advance(100)

    async def main():
        clock.step_wall(-86400)
        await asyncio.sleep(1)

    before = clock.wall()
    run(main(), clock=clock)
    assert clock.now == 101
    assert clock.wall() == before - 86400 + 1


def test_a_thread_that_was_left_behind_does_not_sleep_on_a_simulations_clock():
    clock, refused = VirtualClock(), []

    def left_behind(sleep):
        with pytest.raises(RuntimeError, match="sleeps on the clock of another thread") as error:
            sleep()
        refused.append(str(error.value))

    for sleep in (lambda: clock.sleep(3), lambda: clock.wait(threading.Event(), 3)):
        thread = threading.Thread(target=left_behind, args=[sleep], name="old worker")
        thread.start()
        thread.join()
    assert [text.split("`")[1] for text in refused] == ["old worker", "old worker"]
    assert (clock.now, clock.slept) == (0, [])
    clock.sleep(3)
    assert (clock.now, clock.slept) == (3, [3])


def test_what_cannot_be_simulated_is_refused():
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(NotImplementedError, match="TLS"):
            await loop.create_connection(asyncio.Protocol, "localhost", 1, ssl=True)
        with pytest.raises(NotImplementedError, match="real socket"):
            await loop.create_server(asyncio.Protocol, sock=object())
        with pytest.raises(NotImplementedError, match="signals"):
            loop.add_signal_handler(15, print)

    run(main())


PROGRAM = """
import asyncio
from holdfast.testing import SimLoop
names = []
async def worker(i):
    await asyncio.sleep(i % 3)
    names.append(i)
    if i == 17:
        raise ValueError
async def main():
    try:
        async with asyncio.TaskGroup() as group:
            for i in range(40):
                group.create_task(worker(i))
    except* ValueError:
        pass
    tasks = {asyncio.create_task(worker(i)) for i in range(20)}
    while tasks:
        done, tasks = await asyncio.wait(tasks, return_when="FIRST_COMPLETED")
        names.append([t.get_name() for t in done])
with asyncio.Runner(loop_factory=SimLoop) as runner:
    try:
        runner.run(main())
    finally:
        print(names)
"""


def test_order_does_not_depend_on_the_hash_seed():
    outputs = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        for seed in ("0", "1", "random")
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) > 100
