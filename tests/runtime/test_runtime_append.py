"""Lines that several processes append: whole, rotated once, and nothing lost unsaid."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from holdfast.runtime.append import BLOCK, Appender


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def appender(path):
    made = Appender(str(path), most=1000, kept=2)
    yield made
    made.close()


@contextmanager
def small_files(most):
    """Let writes beyond `most` bytes of a file fail, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_lines_are_written_and_others_are_kept(path, appender):
    path.write_bytes(b"before\n")
    assert appender.write([b"one\n", b"two\n"]) == 2
    assert path.read_bytes() == b"before\none\ntwo\n"


def test_only_the_owner_may_read_what_is_made(path, appender):
    appender.write([b"one\n"])
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_large_file_is_renamed_and_few_are_kept(path, appender):
    for number in range(5):
        appender.write([b"%d" % number * 599 + b"\n"])
    names = sorted(one.name for one in path.parent.iterdir())
    assert names == ["log", "log.1", "log.2", "log.lock"]
    firsts = [path.with_name(name).read_bytes()[:1] for name in ("log", "log.1", "log.2")]
    assert firsts == [b"4", b"3", b"2"]


def test_a_file_that_somebody_else_renamed_is_written_no_more(path, appender):
    appender.write([b"one\n"])
    path.rename(path.with_name("moved"))
    appender.write([b"two\n"])
    assert path.read_bytes() == b"two\n"
    assert path.with_name("moved").read_bytes() == b"one\n"


def test_while_another_rotates_lines_go_on_where_they_went(path, appender):
    appender.write([b"x" * 900 + b"\n"])
    with path.with_name("log.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert appender.write([b"y" * 200 + b"\n"]) == 1
    assert path.stat().st_size == 1102
    assert not path.with_name("log.1").exists()


@pytest.mark.parametrize("places", [["log.lock"], ["log.1", "log.2/full"]])
def test_where_nothing_may_be_renamed_the_file_grows_and_no_line_is_lost(path, appender, places):
    # Directories in the way stand for what is not permitted: root may do anything else.
    appender.write([b"x" * 900 + b"\n"])
    for place in places:
        (path.parent / place).mkdir(parents=True)
    assert appender.write([b"y" * 200 + b"\n"]) == 1
    assert path.stat().st_size == 1102


def test_a_full_disk_is_told_when_not_one_line_was_written():
    full = Appender("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        full.write([b"one\n"])
    full.close()


def test_what_was_written_before_the_disk_was_full_is_counted(path):
    big = Appender(str(path), most=1 << 30)
    line = b"x" * (BLOCK - 1) + b"\n"
    with small_files(2 * BLOCK + 10):
        assert big.write([line] * 4) == 2
    big.close()


def test_a_line_that_was_torn_does_not_tear_the_next(path):
    made = Appender(str(path), most=1 << 30)
    with small_files(6), pytest.raises(OSError, match="too large"):
        made.write([b"0123456789\n"])
    assert made.write([b"next\n"]) == 1
    made.close()
    assert path.read_bytes() == b"012345\nnext\n"


def test_a_descriptor_is_written_and_left_open():
    reading, writing = os.pipe()
    made = Appender("stderr", descriptor=writing)
    made.write([b"one\n"])
    made.close()
    made.write([b"two\n"])
    assert os.read(reading, 100) == b"one\ntwo\n"
    os.close(reading)
    os.close(writing)


WRITER = """
import sys
from holdfast.runtime.append import Appender

made = Appender(sys.argv[1], most=20_000, kept=50)
for number in range(800):
    made.write([b"%s-%d %s\\n" % (sys.argv[2].encode(), number, b"x" * 200)])
made.close()
"""


def test_processes_share_a_file_and_lose_and_tear_no_line(path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "abc"]
    assert [one.wait(50) for one in writers] == [0, 0, 0]
    files = [one for one in path.parent.iterdir() if one.suffix != ".lock"]
    lines = [line for one in files for line in one.read_bytes().splitlines()]
    assert len(files) > 10
    assert {len(line.split(b" ")[1]) for line in lines} == {200}
    names = sorted(line.split(b" ")[0].decode() for line in lines)
    assert names == sorted(f"{name}-{number}" for name in "abc" for number in range(800))
