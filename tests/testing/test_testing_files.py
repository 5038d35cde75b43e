"""The simulated file system: the seam's contract, power cuts, failures on request."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.runtime.files import SystemFiles, install
from holdfast.runtime.files import files as seam
from holdfast.runtime.random import SeededRandom
from holdfast.testing import PowerCut, SimFiles


def write(files, path, data, *, sync=True):
    handle = files.create(path)
    handle.pwrite(data, 0)
    if sync:
        handle.datasync()
    handle.close()


# -- the contract ------------------------------------------------

NAMES = st.sampled_from(["a", "b", "d/c", "missing/x", "d"])
OPS = st.one_of(
    st.tuples(st.just("create"), NAMES),
    st.tuples(st.just("open"), NAMES, st.booleans()),
    st.tuples(st.just("pwrite"), st.binary(max_size=600), st.integers(0, 1500)),
    st.tuples(st.just("pread"), st.integers(0, 2000), st.integers(0, 1500)),
    st.tuples(st.just("truncate"), st.integers(0, 1500)),
    st.tuples(st.just("datasync")),
    st.tuples(st.just("size")),
    st.tuples(st.just("rename"), NAMES, NAMES),
    st.tuples(st.just("unlink"), NAMES),
    st.tuples(st.just("makedirs"), st.sampled_from(["d", "e/f"])),
    st.tuples(st.just("stat"), NAMES),
    st.tuples(st.just("listdir"), st.sampled_from(["", "d", "e"])),
    st.tuples(st.just("sync_dir"), st.sampled_from(["", "d", "e"])),
)
ON_HANDLE = {"pwrite", "pread", "truncate", "datasync", "size"}


def play(files, root, ops):
    """Return what each operation answers; errors by their number."""
    answers, handle, handles = [], None, []
    for name, *arguments in ops:
        try:
            if name in ON_HANDLE:
                answer = None if handle is None else getattr(handle, name)(*arguments)
            elif name == "open":
                answer = handle = files.open(f"{root}/{arguments[0]}", write=arguments[1])
            else:
                paths = [f"{root}/{argument}" for argument in arguments]
                answer = getattr(files, name)(*paths)
                if name == "create":
                    handle = answer
            if answer is handle and handle is not None:
                handles.append(handle)
                answer = "handle"
            if name == "stat" and answer is not None:
                answer = (answer.regular, answer.size if answer.regular else 0)
        except OSError as error:
            answer = type(error).__name__, error.errno
        answers.append((name, answer))
    for opened in handles:
        opened.close()
    return answers


@given(ops=st.lists(OPS, max_size=25))
def test_answers_are_those_of_the_real_file_system(ops, tmp_path_factory):
    ops = [op for op in ops if not (op[0] == "open" and op[1] == "d")]  # directories may be read
    ops = [op for op in ops if not (op[0] == "rename" and "d" in op[1:])]  # the seam renames files
    root = tmp_path_factory.mktemp("files")
    sim = SimFiles()
    sim.makedirs("/root")
    assert play(sim, "/root", ops) == play(SystemFiles(), str(root), ops)


def test_links_and_directories_in_the_way_are_refused():
    sim = SimFiles()
    sim.plant("/link", "link")
    sim.plant("/folder", "directory")
    for call in (lambda: sim.open("/link"), lambda: sim.open("/link", write=True)):
        with pytest.raises(OSError, match="symbolic") as caught:
            call()
        assert caught.value.errno == errno.ELOOP
    assert sim.stat("/link").regular is False
    assert sim.stat("/folder").regular is False
    with pytest.raises(IsADirectoryError):
        sim.unlink("/folder")


def test_it_is_installed_through_the_seam():
    sim = SimFiles()
    with install(sim):
        write(seam(), "/x", b"1")
        assert seam().free_space("/") == sim.capacity - 512
    assert sim.read("/x") == b"1"


def test_open_handles_are_known():
    sim = SimFiles()
    handle = sim.create("/x")
    assert sim.left() == ["/x"]
    handle.close()
    handle.close()
    assert sim.left() == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        handle.pread(1, 0)


# -- power cuts ------------------------------------------------


def test_unsynced_bytes_vanish():
    sim = SimFiles()
    write(sim, "/x", b"old")
    sim.sync_dir("/")
    handle = sim.open("/x", write=True)
    handle.pwrite(b"new and longer", 0)

    sim.crash()

    assert sim.read("/x") == b"old"
    with pytest.raises(OSError, match="Bad file descriptor"):
        handle.datasync()


def test_a_synced_file_without_its_name_vanishes():
    sim = SimFiles()
    write(sim, "/x", b"data")
    sim.crash()
    assert sim.stat("/x") is None


def test_a_rename_is_durable_after_sync_dir_only():
    for synced in (False, True):
        sim = SimFiles()
        write(sim, "/x.part", b"data")
        sim.sync_dir("/")
        sim.rename("/x.part", "/x")
        if synced:
            sim.sync_dir("/")
        sim.crash()
        assert sim.listdir("/") == (["x"] if synced else ["x.part"])


def test_a_renamed_file_whose_bytes_were_not_synced_is_empty():
    sim = SimFiles()
    write(sim, "/x.part", b"data", sync=False)
    sim.rename("/x.part", "/x")
    sim.sync_dir("/")
    sim.crash()
    assert sim.read("/x") == b""


def test_an_unlinked_name_comes_back_until_synced():
    sim = SimFiles()
    sim.put("/x", b"data")
    sim.unlink("/x")
    sim.crash()
    assert sim.read("/x") == b"data"


def test_a_rename_across_directories_is_whole_or_not_at_all():
    both = set()
    for seed in range(40):
        sim = SimFiles()
        sim.put("/a/x", b"data")
        sim.makedirs("/b")
        sim.rename("/a/x", "/b/x")
        sim.crash(SeededRandom(seed))
        both.add((tuple(sim.listdir("/a")), tuple(sim.listdir("/b"))))
    assert both == {(("x",), ()), ((), ("x",))}


def test_writes_tear_at_sectors():
    images = set()
    for seed in range(60):
        sim = SimFiles()
        sim.put("/x", b"o" * 1536)
        sim.open("/x", write=True).pwrite(b"n" * 1536, 0)
        sim.crash(SeededRandom(seed))
        images.add(sim.read("/x"))
    assert images == {
        bytes(a + b + c)
        for a in (b"o" * 512, b"n" * 512)
        for b in (b"o" * 512, b"n" * 512)
        for c in (b"o" * 512, b"n" * 512)
    }


def test_synced_data_survives_every_draw():
    for seed in range(30):
        sim = SimFiles()
        write(sim, "/x", b"safe" * 500)
        sim.sync_dir("/")
        sim.open("/x", write=True).pwrite(b"later", 5000)
        sim.crash(SeededRandom(seed))
        assert sim.read("/x")[:2000] == b"safe" * 500


def test_power_can_fail_before_any_call():
    def program(files):
        write(files, "/x.part", b"data")
        files.sync_dir("/")
        files.rename("/x.part", "/x")
        files.sync_dir("/")

    calls, found = 6, []
    for cut in range(1, calls + 1):
        sim = SimFiles()
        sim.cut_at(cut)
        with pytest.raises(PowerCut):
            program(sim)
        sim.crash()
        found.append(sim.listdir("/"))
        assert not found[-1] or sim.read("/" + found[-1][0]) == b"data"
    sim = SimFiles()
    program(sim)
    assert sim.calls == calls
    assert found == [[], [], [], [], ["x.part"], ["x.part"]]
    assert [op for op, _ in sim.log] == [
        "create", "pwrite", "datasync", "sync_dir", "rename", "sync_dir",
    ]  # fmt: skip


# -- failures on request ------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_the_nth_call_fails(number):
    sim = SimFiles()
    sim.fail(3, number)
    handle = sim.create("/x")
    handle.pwrite(b"1", 0)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        handle.pwrite(b"2", 1)
    assert (caught.value.errno, caught.value.filename) == (number, "/x")
    handle.pwrite(b"2", 1)
    assert sim.read("/x") == b"12"


def test_failures_count_the_operations_that_were_named():
    sim = SimFiles()
    sim.fail(2, errno.EIO, "pwrite", onwards=True)
    handle = sim.create("/x")
    assert handle.pwrite(b"1", 0) == 1
    for _ in range(3):
        with pytest.raises(OSError, match="Input/output"):
            handle.pwrite(b"2", 1)
    assert handle.pread(10, 0) == b"1"
    sim.heal()
    assert handle.pwrite(b"2", 1) == 1


def test_a_write_can_be_short():
    sim = SimFiles()
    sim.short(2)
    handle = sim.create("/x")
    assert [handle.pwrite(b"x" * 10, 0) for _ in range(3)] == [10, 5, 10]


def test_after_a_failed_sync_the_bytes_are_read_but_never_durable():
    sim = SimFiles()
    handle = sim.create("/x")
    sim.sync_dir("/")
    handle.pwrite(b"lost", 0)
    sim.fail(1, errno.EIO, "datasync")
    with pytest.raises(OSError, match="Input/output"):
        handle.datasync()
    handle.datasync()  # reports success, as Linux does
    assert handle.pread(10, 0) == b"lost"
    sim.crash()
    assert sim.read("/x") == b""


def test_a_full_disk_takes_what_fits():
    sim = SimFiles(capacity=1024)
    handle = sim.create("/x")
    handle.truncate(1 << 20)  # a hole costs nothing
    assert sim.free_space("/") == 1024
    assert handle.pwrite(b"x" * 3000, 100) == 924
    assert handle.pwrite(b"y" * 100, 0) == 100  # sectors that are there already
    with pytest.raises(OSError, match="No space") as caught:
        handle.pwrite(b"z", 2048)
    assert caught.value.errno == errno.ENOSPC
    sim.unlink("/x")
    assert sim.free_space("/") == 1024


def test_room_that_is_taken_is_gone_until_the_file_is_cut():
    sim = SimFiles(capacity=4096)
    handle = sim.create("/x")
    assert handle.allocate(2000) is True
    assert (handle.size(), sim.free_space("/")) == (0, 2048)
    assert handle.pwrite(b"x" * 2000, 0) == 2000  # its room is there already
    assert sim.free_space("/") == 2048
    other = sim.create("/y")
    with pytest.raises(OSError, match="No space") as caught:
        other.allocate(3000)
    assert caught.value.errno == errno.ENOSPC
    assert sim.free_space("/") == 2048  # all of it or nothing
    handle.truncate(0)
    assert sim.free_space("/") == 4096
