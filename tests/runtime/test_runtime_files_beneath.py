"""Paths below a root that come from others: no link in them is followed, not even a quick one."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from holdfast.runtime.files import SystemFiles, beneath


@pytest.fixture
def files():
    return SystemFiles()


@pytest.fixture
def root(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "there").write_bytes(b"theirs")
    return tmp_path / "out"


def at(root, path):
    return beneath(str(root), path)


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_directories_are_made_and_files_live_in_them(files, root):
    before = open_descriptors()
    files.makedirs(at(root, "a/b"))
    files.makedirs(at(root, "a/b"))
    file = files.create(at(root, "a/b/part"))
    file.pwrite(b"x", 0)
    file.close()
    files.rename(at(root, "a/b/part"), at(root, "a/b/whole"))
    files.sync_dir(at(root, "a/b"))
    assert files.stat(at(root, "a/b/whole")).size == 1
    assert files.stat(at(root, "a/b/part")) is None
    assert files.stat(at(root, "a/none/part")) is None
    files.open(at(root, "a/b/whole"), write=True).close()
    files.unlink(at(root, "a/b/whole"))
    assert files.listdir(str(root / "a" / "b")) == []
    assert open_descriptors() == before


OPERATIONS = {
    "create": lambda files, path: files.create(path),
    "open": lambda files, path: files.open(path),
    "rename": lambda files, path: files.rename(path, path + "2"),
    "unlink": lambda files, path: files.unlink(path),
    "stat": lambda files, path: files.stat(path),
    "makedirs": lambda files, path: files.makedirs(path),
    "sync_dir": lambda files, path: files.sync_dir(path),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("way", ["link/there", "a/link/there", "link/sub/there"])
def test_a_link_in_the_way_is_never_followed(files, root, operation, way):
    (root / "a").mkdir()
    for place in (root, root / "a"):
        (place / "link").symlink_to(root.parent / "elsewhere")
    before = open_descriptors()
    with pytest.raises(OSError) as raised:  # noqa: PT011 - the number is looked at
        OPERATIONS[operation](files, at(root, way))
    assert raised.value.errno in {errno.ENOTDIR, errno.ELOOP}
    assert [p.name for p in (root.parent / "elsewhere").iterdir()] == ["there"]
    assert open_descriptors() == before


def test_the_root_itself_may_be_a_link(files, root):
    (root.parent / "link").symlink_to(root)
    files.makedirs(at(root.parent / "link", "a"))
    files.create(at(root.parent / "link", "a/x")).close()
    assert (root / "a" / "x").exists()


def test_without_a_mark_a_path_is_what_it_always_was(files, root):
    (root / "link").symlink_to(root.parent / "elsewhere")
    assert files.stat(str(root / "link" / "there")).size == 6


def test_a_link_that_comes_and_goes_lets_nothing_out(files, root):
    """A check before the open would be passed now and then; this one never is."""
    (root / "real").mkdir()
    elsewhere, ended = root.parent / "elsewhere", threading.Event()

    def swap():
        while not ended.is_set():
            os.replace(root / "real", root / "aside")  # noqa: PTH105 - the call that is meant
            os.symlink(elsewhere, root / "real")  # noqa: PTH211 - the same
            os.unlink(root / "real")  # noqa: PTH108 - the same
            os.replace(root / "aside", root / "real")  # noqa: PTH105 - the same

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for n in range(1500):
            with suppress(FileNotFoundError, NotADirectoryError):
                files.create(at(root, f"real/{n}")).close()
    finally:
        ended.set()
        thread.join()
    files.create(at(root, "real/last")).close()
    assert [p.name for p in elsewhere.iterdir()] == ["there"]


# -- room ----------------------------------------------------------------------------------------


def test_room_is_taken_without_a_length(files, tmp_path):
    file = files.create(str(tmp_path / "x"))
    took = file.allocate(1 << 20)
    assert file.size() == 0
    blocks = (tmp_path / "x").stat().st_blocks * 512
    file.close()
    assert not took or blocks >= 1 << 20


def test_no_room_is_needed_for_nothing(files, tmp_path):
    file = files.create(str(tmp_path / "x"))
    assert file.allocate(0) is False
    file.close()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_that_cannot_allocate_is_no_failure(files, tmp_path, number, monkeypatch):
    monkeypatch.setattr("holdfast.runtime.files.fallocate", lambda: lambda *_: number)
    file = files.create(str(tmp_path / "x"))
    assert file.allocate(100) is False
    file.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_no_room_is_said(files, tmp_path, number, monkeypatch):
    monkeypatch.setattr("holdfast.runtime.files.fallocate", lambda: lambda *_: number)
    file = files.create(str(tmp_path / "x"))
    with pytest.raises(OSError) as raised:  # noqa: PT011 - the number is looked at
        file.allocate(100)
    assert raised.value.errno == number
    file.close()


def test_where_there_is_no_such_call_nothing_is_allocated(files, tmp_path, monkeypatch):
    monkeypatch.setattr("holdfast.runtime.files.fallocate", lambda: None)
    file = files.create(str(tmp_path / "x"))
    assert file.allocate(100) is False
    file.close()


def test_what_a_file_takes_is_told_beside_its_size(files, tmp_path):
    file = files.create(str(tmp_path / "x"))
    took = file.allocate(1 << 20)
    info = files.stat(str(tmp_path / "x"))
    file.close()
    assert info.size == 0
    assert not took or info.taken >= 1 << 20


def test_in_memory_it_is_only_looked_whether_there_is_room(files, tmp_path, monkeypatch):
    monkeypatch.setattr("holdfast.runtime.linux._is_in_memory", lambda _: True)
    file = files.create(str(tmp_path / "x"))
    assert file.allocate(1 << 20) is False
    assert (tmp_path / "x").stat().st_blocks == 0
    with pytest.raises(OSError) as raised:  # noqa: PT011 - the number is looked at
        file.allocate(1 << 60)
    assert raised.value.errno == errno.ENOSPC
    file.close()
