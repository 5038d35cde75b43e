"""The watchdog ends blocking socket calls at their moment, whatever the peer does."""

from __future__ import annotations

import math
import os
import socket
import threading
import time

import pytest

import holdfast as hf
from holdfast.wire.watchdog import Watchdog, watchdog


@pytest.fixture
def pair():
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def test_a_blocked_read_returns_at_the_moment(pair):
    near, _ = pair
    guard = Watchdog().guard(0.05)
    guard.watch(near)
    began = time.monotonic()
    assert near.recv(1) == b""
    assert guard.fired
    assert 0.04 < time.monotonic() - began < 2


def test_a_peer_that_drips_does_not_hold_the_reader(pair):
    near, far = pair
    stop = threading.Event()

    def drip():
        while not stop.wait(0.01):
            far.send(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        guard = Watchdog().guard(0.1)
        guard.watch(near)
        got = 0
        while near.recv(1):
            got += 1
        assert guard.fired
        assert got > 1
    finally:
        stop.set()
        thread.join()


def test_the_earlier_of_two_guards_goes_first_whatever_their_order(pair):
    dog = Watchdog()
    late = dog.guard(30)
    soon = dog.guard(0.05)
    soon.watch(pair[0])
    assert pair[0].recv(1) == b""
    assert soon.fired
    assert not late.fired
    late.close()


def test_a_closed_guard_does_nothing(pair):
    near, far = pair
    dog = Watchdog()
    guard = dog.guard(0.03)
    guard.watch(near)
    guard.close()
    other = dog.guard(0.06)  # when this one is over the first one's moment has passed
    while not other.fired:
        time.sleep(0.005)
    far.send(b"still open")
    assert near.recv(20) == b"still open"
    assert not guard.fired


def test_a_moved_guard_fires_at_its_new_moment(pair):
    guard = Watchdog().guard(0.03)
    guard.watch(pair[0])
    guard.move(0.15)
    began = time.monotonic()
    assert pair[0].recv(1) == b""
    assert time.monotonic() - began > 0.1


def test_a_guard_can_be_moved_to_never(pair):
    dog = Watchdog()
    guard = dog.guard(0.03)
    guard.move(math.inf)
    other = dog.guard(0.06)
    while not other.fired:
        time.sleep(0.005)
    assert not guard.fired


def test_a_socket_named_after_the_moment_is_shut_down_at_once(pair):
    guard = Watchdog().guard(0.001)
    while not guard.fired:
        time.sleep(0.001)
    guard.watch(pair[0])
    assert pair[0].recv(1) == b""


def test_an_infinite_guard_costs_no_thread():
    dog = Watchdog()
    before = threading.active_count()
    dog.guard(math.inf).close()
    assert threading.active_count() == before


def test_it_works_in_real_time_under_a_fake_clock(pair):
    with hf.testing.clock():
        guard = Watchdog().guard(0.05)
        guard.watch(pair[0])
        assert pair[0].recv(1) == b""
        assert guard.fired


def test_one_thread_serves_many_guards_and_closed_ones_are_not_kept(pair):
    dog = Watchdog()
    before = threading.active_count()
    guards = [dog.guard(30) for _ in range(500)]
    assert threading.active_count() == before + 1
    for guard in guards:
        guard.close()
    assert not dog._guards


def test_a_closed_socket_does_not_stop_the_watchdog(pair):
    near, far = socket.socketpair()
    dog = Watchdog()
    dead = dog.guard(0.02)
    dead.watch(near)
    near.close()
    far.close()
    live = dog.guard(0.05)
    live.watch(pair[0])
    assert pair[0].recv(1) == b""
    assert dead.fired
    assert live.fired


@pytest.mark.filterwarnings("ignore:This process")  # forking beside threads is the point
def test_a_forked_child_has_a_watchdog_of_its_own(pair):
    waiting = watchdog.guard(30)  # the thread runs in the parent
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        guard = watchdog.guard(0.05)
        guard.watch(pair[0])
        os._exit(0 if pair[0].recv(1) == b"" and guard.fired else 1)
    _, status = os.waitpid(child, 0)
    waiting.close()
    assert os.waitstatus_to_exitcode(status) == 0
