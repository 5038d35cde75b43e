"""The real file system behind the seam: what it refuses, and how handles end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast.runtime.files import SystemFiles


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def files():
    return SystemFiles()


@pytest.mark.parametrize("kind", ["directory", "fifo", "link"])
def test_only_regular_files_are_opened(files, tmp_path, kind):
    path = tmp_path / "thing"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        (tmp_path / "elsewhere").write_bytes(b"x")
        path.symlink_to(tmp_path / "elsewhere")
    before = open_descriptors()
    with pytest.raises(OSError, match="thing"):
        files.open(str(path))
    assert open_descriptors() == before
    assert files.stat(str(path)).regular is False


def test_a_name_that_is_taken_is_not_created_again(files, tmp_path):
    path = str(tmp_path / "new")
    files.create(path).close()
    with pytest.raises(FileExistsError):
        files.create(path)


def test_a_file_is_written_and_read_by_position_without_exec_bits(files, tmp_path):
    path = str(tmp_path / "a")
    file = files.create(path)
    assert file.pwrite(b"world", 6) == 5
    file.pwrite(b"hello ", 0)
    file.datasync()
    assert file.pread(100, 0) == b"hello world"
    file.truncate(5)
    assert file.size() == 5
    file.close()
    file.close()  # a second time is harmless
    assert Path(path).stat().st_mode & 0o111 == 0
    files.rename(path, str(tmp_path / "b"))
    files.sync_dir(str(tmp_path))
    assert files.listdir(str(tmp_path)) == ["b"]
    assert files.stat(path) is None
    assert files.free_space(str(tmp_path)) > 0
    files.unlink(str(tmp_path / "b"))
    files.makedirs(str(tmp_path / "c" / "d"))
    files.makedirs(str(tmp_path / "c" / "d"))
