"""Who serves, said in a file: locked while it holds, and never trusted by its number alone."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest

from holdfast.gateway import pidfile
from holdfast.gateway.pidfile import (
    AlreadyRuns,
    BadState,
    Handle,
    PidFile,
    Running,
    state_directory,
    ticks_of,
)


@pytest.fixture
def stranger():
    """A process that is none of ours."""
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1)
    yield process
    process.stdin.close()
    assert process.wait(10) == 0  # nobody has signalled it


def running(pid, ticks):
    return Running(pid, ticks, "127.0.0.1", 1, 0.0, "main", "0")


def written(path, found):
    path.write_text(json.dumps(asdict(found)))


def test_who_serves_is_read_and_the_file_is_gone_at_the_end(tmp_path):
    one = PidFile(tmp_path, "main")
    assert one.read() is None
    one.acquire()
    said = one.write("127.0.0.1", 7860)
    assert PidFile(tmp_path, "main").read() == said
    assert set(json.loads(one.path.read_text())) == {
        "pid", "start_ticks", "host", "port", "start_time", "cluster", "version",
    }  # fmt: skip
    assert (said.pid, said.start_ticks) == (os.getpid(), ticks_of(os.getpid()))
    assert one.path.stat().st_mode & 0o777 == 0o600
    one.release()
    one.release()
    assert not one.path.exists()


def test_a_second_one_is_told_the_process_of_the_first(tmp_path):
    first = PidFile(tmp_path, "main")
    first.acquire()
    with pytest.raises(AlreadyRuns, match=f"process {os.getpid()}") as caught:
        PidFile(tmp_path, "main").acquire()
    assert caught.value.pid == os.getpid()
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    PidFile(tmp_path, "other").acquire()  # another name is another gateway
    first.release()


def test_a_file_that_nobody_holds_is_stale_even_if_its_process_lives(tmp_path, stranger):
    one = PidFile(tmp_path, "main")
    written(one.path, running(stranger.pid, ticks_of(stranger.pid)))
    assert one.read() is None
    one.acquire()
    assert one.write("", 0).pid == os.getpid()
    one.release()


def test_a_file_whose_process_began_at_another_moment_is_stale_though_it_is_held(
    tmp_path, stranger, monkeypatch
):
    monkeypatch.setattr(pidfile, "STARTING", 0.05)
    one = PidFile(tmp_path, "main")
    written(one.path, running(stranger.pid, ticks_of(stranger.pid) + 1))
    with one.path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert one.read() is None
        one.acquire()
        assert one.read().pid == os.getpid()
    one.release()


def test_a_start_that_holds_the_lock_and_has_not_written_yet_keeps_the_old_file(tmp_path, stranger):
    one = PidFile(tmp_path, "main")
    written(one.path, running(stranger.pid, ticks_of(stranger.pid) + 1))
    with one.path.open("r+") as held, ThreadPoolExecutor(1) as pool:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = pool.submit(one.acquire)
        time.sleep(0.1)
        assert not second.done()
        held.write(json.dumps(asdict(running(os.getpid(), ticks_of(os.getpid())))))
        held.flush()
        with pytest.raises(AlreadyRuns, match=f"process {os.getpid()}"):
            second.result(10)
        assert os.path.samestat(os.fstat(held.fileno()), one.path.stat())


def test_a_holder_of_another_version_is_known_by_its_process(tmp_path):
    one = PidFile(tmp_path, "main")
    one.path.write_text(json.dumps({"pid": os.getpid(), "start_ticks": ticks_of(os.getpid())}))
    with one.path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(AlreadyRuns, match=f"process {os.getpid()}"):
            one.acquire()


@pytest.mark.parametrize("text", ["", "{", '{"pid": "x", "start_ticks": 2}'])
def test_a_file_that_is_held_and_names_nobody_is_not_taken(tmp_path, monkeypatch, text):
    monkeypatch.setattr(pidfile, "STARTING", 0.05)
    one = PidFile(tmp_path, "main")
    one.path.write_text(text)
    with one.path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BadState, match="does not say who it is"):
            one.acquire()
        assert os.path.samestat(os.fstat(held.fileno()), one.path.stat())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "start_ticks": 2}'])
def test_a_file_of_no_sense_is_replaced(tmp_path, text):
    one = PidFile(tmp_path, "main")
    one.path.write_text(text)
    assert one.read() is None
    one.acquire()
    assert one.read() is not None
    one.release()


def test_a_link_in_its_place_is_not_followed(tmp_path):
    target = tmp_path / "precious"
    target.write_text("mine")
    one = PidFile(tmp_path, "main")
    one.path.symlink_to(target)
    with pytest.raises(OSError, match="symbolic link"):
        one.acquire()
    assert target.read_text() == "mine"


def test_what_is_no_file_is_told(tmp_path):
    one = PidFile(tmp_path, "main")
    one.path.symlink_to(tmp_path)
    with pytest.raises(BadState, match="symbolic link"):
        one.read()
    one.path.unlink()
    os.mkfifo(one.path)
    for ask in (one.read, one.acquire):
        with pytest.raises(BadState, match="is no file"):
            ask()


def test_a_file_of_another_user_is_not_believed(tmp_path, monkeypatch):
    one = PidFile(tmp_path, "main")
    written(one.path, running(os.getpid(), ticks_of(os.getpid())))
    if os.geteuid() == 0:
        os.chown(one.path, 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with one.path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BadState, match="another user"):
            one.read()


def test_reading_takes_the_lock_from_nobody(tmp_path):
    one = PidFile(tmp_path, "main")
    one.acquire()
    for _ in range(10):
        assert one.read() is not None
    with pytest.raises(AlreadyRuns):
        PidFile(tmp_path, "main").acquire()
    one.release()


def test_a_handle_is_of_that_very_process(stranger):
    there = running(stranger.pid, ticks_of(stranger.pid))
    with pytest.raises(ProcessLookupError):
        Handle(replace(there, start_ticks=there.start_ticks - 1))
    with Handle(there) as handle:
        assert not handle.wait(0.01)


def test_a_handle_signals_and_waits_for_the_end():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with Handle(running(process.pid, ticks_of(process.pid))) as handle:
        handle.signal(signal.SIGTERM)
        assert handle.wait(10)
        assert process.wait(10) == -signal.SIGTERM
        handle.signal(signal.SIGKILL)  # it is gone: nothing happens
    with pytest.raises(ProcessLookupError):
        Handle(running(process.pid, 1))
    assert ticks_of(process.pid) == 0


# -- the directory -----------------------------------------------------------------------------


def test_the_directory_is_for_this_user_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_STATE_DIR", str(tmp_path / "a" / "b"))
    assert state_directory() == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_without_a_name_it_is_the_users(tmp_path, monkeypatch):
    monkeypatch.delenv("HOLDFAST_STATE_DIR", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "x"))
    assert state_directory() == tmp_path / "x" / "holdfast"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert state_directory() == tmp_path / "home" / ".local" / "state" / "holdfast"


def test_a_directory_in_which_others_may_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_STATE_DIR", str(tmp_path))
    for mode in (0o777, 0o1777, 0o770):
        tmp_path.chmod(mode)
        with pytest.raises(BadState, match="others may write"):
            state_directory()
    tmp_path.chmod(0o700)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOLDFAST_STATE_DIR", str(tmp_path / "file" / "below"))
    with pytest.raises(BadState, match="cannot be made"):
        state_directory()
