"""Look-ups: bounded, shared, cancelled, remembered for half a minute."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import contextmanager

import pytest

import holdfast as hf
from holdfast.wire import resolve
from holdfast.wire.cancel import Cancel
from holdfast.wire.resolve import Resolver


def info(address: str, port: int = 80):
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))


class Names:
    """A resolver's resolver that counts, and can be made to hang."""

    def __init__(self, **known: str) -> None:
        self.known = known
        self.asked: list[str] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, host: str, port: int):
        self.asked.append(host)
        self.free.wait(10)
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [info(self.known[host], port)]

    @contextmanager
    def hanging(self):
        self.free.clear()
        try:
            yield
        finally:
            self.free.set()


def look_up(resolver: Resolver, host: str, *, timeout: float = 5, cancel: Cancel | None = None):
    return resolver.look_up(host, 80, timeout=timeout, cancel=cancel or Cancel())


def test_a_name_that_is_asked_again_soon_is_remembered() -> None:
    names = Names(a="10.0.0.1")
    resolver = Resolver(names)
    with hf.testing.clock() as clock:
        assert look_up(resolver, "a") == look_up(resolver, "a") == [info("10.0.0.1")]
        assert names.asked == ["a"]
        clock.advance(30.1)
        names.known["a"] = "10.0.0.2"
        assert look_up(resolver, "a") == [info("10.0.0.2")]


def test_an_error_is_not_remembered() -> None:
    names = Names()
    resolver = Resolver(names)
    with pytest.raises(socket.gaierror):
        look_up(resolver, "a")
    names.known["a"] = "10.0.0.1"
    assert look_up(resolver, "a") == [info("10.0.0.1")]


def test_each_port_is_a_question_of_its_own() -> None:
    resolver = Resolver(Names(a="10.0.0.1"))
    assert look_up(resolver, "a")[0][4] == ("10.0.0.1", 80)
    assert resolver.look_up("a", 443, timeout=5, cancel=Cancel())[0][4] == ("10.0.0.1", 443)


def test_a_resolver_that_hangs_is_left_at_the_limit() -> None:
    names = Names(a="10.0.0.1")
    with names.hanging():
        before = time.monotonic()
        with pytest.raises(TimeoutError, match=r"within 0\.2 s"):
            look_up(Resolver(names), "a", timeout=0.2)
        assert 0.15 < time.monotonic() - before < 2


def test_a_cancel_is_heard_while_the_resolver_hangs() -> None:
    names, cancel = Names(a="10.0.0.1"), Cancel()
    with names.hanging():
        timer = threading.Timer(0.1, cancel.set)
        timer.start()
        before = time.monotonic()
        with pytest.raises(OSError, match="cancel"):
            look_up(Resolver(names), "a", timeout=30, cancel=cancel)
        timer.join()
        assert time.monotonic() - before < 2


def test_all_who_ask_for_one_name_share_one_look_up() -> None:
    names = Names(a="10.0.0.1")
    resolver = Resolver(names)
    found = []
    with names.hanging():
        asking = [
            threading.Thread(target=lambda: found.append(look_up(resolver, "a"))) for _ in "1234"
        ]
        for thread in asking:
            thread.start()
        while len(names.asked) < 1:
            time.sleep(0.001)
    for thread in asking:
        thread.join()
    assert found == [[info("10.0.0.1")]] * 4
    assert names.asked == ["a"]


def test_one_who_left_spoils_nothing_for_the_others() -> None:
    names = Names(a="10.0.0.1")
    resolver = Resolver(names)
    with names.hanging():
        with pytest.raises(TimeoutError):
            look_up(resolver, "a", timeout=0.05)
        late = resolver.ask("a", 80)
        assert not late.done()
    assert late.result(5) == [info("10.0.0.1")]
    assert names.asked == ["a"]


def test_a_task_that_is_cancelled_takes_the_answer_from_nobody() -> None:
    names = Names(a="10.0.0.1")
    resolver = Resolver(names)

    async def ask_and_leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(resolver.ask("a", 80)), 0.05)

    with names.hanging():
        asyncio.run(ask_and_leave())
        other = resolver.ask("a", 80)
    assert other.result(5) == [info("10.0.0.1")]


def test_threads_are_bounded_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "MOST_THREADS", 3)
    names = Names(**{f"h{n}": f"10.0.0.{n}" for n in range(20)})
    resolver = Resolver(names)
    with names.hanging():
        futures = [resolver.ask(f"h{n}", 80) for n in range(20)]
        while len(names.asked) < 3:
            time.sleep(0.001)
        time.sleep(0.02)
        assert len(names.asked) == 3
    assert [future.result(5)[0][4][0] for future in futures] == [f"10.0.0.{n}" for n in range(20)]
    until = time.monotonic() + 5
    while any(t.name == "holdfast-resolve" for t in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.001)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "MOST_KEPT", 2)
    names = Names(a="10.0.0.1", b="10.0.0.2", c="10.0.0.3")
    resolver = Resolver(names)
    for host in "abcca":
        look_up(resolver, host)
    assert names.asked == ["a", "b", "c", "a"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "0x7f000001", "::1"])
def test_an_address_needs_no_thread(host: str) -> None:
    before = threading.active_count()
    found = Resolver().look_up(host, 80, timeout=5, cancel=Cancel())
    assert found[0][4][0] in {"127.0.0.1", "::1"}
    assert threading.active_count() == before


def test_the_machines_resolver_is_the_default() -> None:
    found = look_up(Resolver(), "localhost")
    assert {one[4][0] for one in found} <= {"127.0.0.1", "::1"}
    assert found
