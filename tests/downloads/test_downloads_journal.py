"""The journal's care: what is altered or broken is refused, or rebuilt; never acted on."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from downloads_rig import downloads, names_in

import holdfast as hf
import holdfast.downloads.rebuild
import holdfast.transfer.extents
import holdfast.transfer.part
from holdfast.downloads import DownloadError
from holdfast.downloads import rebuild as rebuild_module
from holdfast.downloads.downloads import read_status
from holdfast.downloads.opening import rebuild_journal
from holdfast.runtime.random import SeededRandom
from holdfast.transfer.plane import Timeouts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

KIB = 1024


@pytest.fixture(autouse=True)
def small_extents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a small file is then several extents."""
    shrink(monkeypatch)


def shrink(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(holdfast.transfer.extents, "EXTENT_SIZE", 16 * KIB)
    patch.setattr(holdfast.transfer.part, "CHECKPOINT_BYTES", 16 * KIB)


@pytest.mark.parametrize("plane", ["threads", "asyncio"])
@pytest.mark.parametrize(
    "change",
    ["UPDATE item SET path = 'y'", "UPDATE source SET url = replace(url, '/x', '/y')"],
)
def test_a_new_row_that_was_altered_is_not_acted_on(
    change: str, plane: str, tmp_path: Path
) -> None:
    into = tmp_path / "into"
    objects = (hf.chaos.Object("/x", 100 * KIB), hf.chaos.Object("/y", 100 * KIB))
    with hf.chaos.server(*objects) as server:
        with downloads(into) as d:
            d.add(server.url("/x"))
        with closing(sqlite3.connect(into / ".holdfast.db")) as db:
            db.execute(change)
            db.commit()
        with (
            downloads(into, plane=plane, space_check=False) as d,
            pytest.raises(DownloadError, match="makes no sense"),
        ):
            d.run()
        assert server.stats.requests == 0
    assert names_in(into) == []


def half_fetched(into: Path, server: hf.chaos.Server) -> None:
    """Leave a journal with one item, half of which is on disk."""
    server.use(hf.chaos.Reset(after_bytes=60 * KIB, limit=1), hf.chaos.Status(404, skip=1))
    with downloads(into) as d:
        d.add(server.url("/x"))
        assert d.run().exit_code == 1
    server.use()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE item SET path = 'y'",
        "UPDATE source SET url = replace(url, '/x', '/y')",
        "DELETE FROM source",
        "UPDATE extent SET off = 8388608 WHERE off = 16384",
        "UPDATE extent SET len = len - 1 WHERE off = 16384",
        "UPDATE extent SET crc32 = crc32 + 1 WHERE off = 16384",
    ],
)
@pytest.mark.parametrize("plane", ["threads", "asyncio"])
def test_a_row_that_was_altered_is_not_acted_on(change: str, plane: str, tmp_path: Path) -> None:
    into = tmp_path / "into"
    objects = (hf.chaos.Object("/x", 100 * KIB), hf.chaos.Object("/y", 100 * KIB))
    with hf.chaos.server(*objects) as server:
        half_fetched(into, server)
        with closing(sqlite3.connect(into / ".holdfast.db")) as db:
            assert db.execute(change).rowcount == 1
            db.commit()
        asked = server.stats.requests
        with (
            downloads(into, plane=plane) as d,
            pytest.raises(DownloadError, match="makes no sense") as refused,
        ):
            d.retry_failed()
            d.run()
        assert refused.value.code == "HF-1006"
        assert server.stats.requests == asked
    assert [name for name in names_in(into) if not name.endswith(".part")] == []


# -- rebuilt ---------------------------------------------------------------------------------------

GOOD = [
    f"/{kind}{n}.nc"
    for kind, count in (("done", 12), ("half", 3), ("queued", 4))
    for n in range(count)
]


class Scene:
    """A directory as a killed process leaves it: files, parts, a journal and its WAL."""

    def __init__(self, server: hf.chaos.Server, root: Path) -> None:
        self.server = server
        self.root = root
        self.template = root / "template"
        with downloads(self.template) as d:
            self.add(d, GOOD[:8])
            assert d.run().done == 8
        half = [path for path in GOOD if path.startswith("/half")]
        with downloads(self.template, timeouts=Timeouts()) as d:
            self.add(d, GOOD[8:12])
            d.add(server.url("/absent.nc"))
            assert d.run().done == 4
            self.add(d, half)
            server.use(hf.chaos.Stall(after_bytes=70 * KIB))
            running = threading.Thread(target=d.run)
            running.start()
            wait_until(lambda: [item.kept for item in d.status().items[-3:]] == [70 * KIB] * 3)
            d.stop()
            running.join()
            server.use()
            self.add(d, GOOD[15:])
            self.killed = root / "killed"
            shutil.copytree(self.template, self.killed)
        assert (self.killed / ".holdfast.db-wal").stat().st_size > 20 * KIB
        (self.killed / ".holdfast.db.lock").unlink()

    def add(self, d: hf.Downloads, paths: Iterable[str]) -> None:
        for n, path in enumerate(paths):
            sha256 = self.server.expected_sha256(path) if n % 2 else None
            d.add(self.server.url(path), sha256=sha256)

    def copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.killed, self.root / name))

    def check_files(self, into: Path, *, whole: bool) -> None:
        """Assert that there is no wrong file, and if `whole` that every one is there."""
        found = [name for name in names_in(into) if not name.endswith(".part")]
        for name in found:
            assert f"/{name}" in GOOD, name
            assert (into / name).read_bytes() == self.server.expected_bytes(f"/{name}"), name
        if whole:
            assert sorted(found) == sorted(path[1:] for path in GOOD)

    def size(self, path: str) -> int:
        return 100 * KIB + GOOD.index(path)

    def run(self, into: Path, **options: object) -> hf.downloads.Report:
        with downloads(into, **options) as d:
            self.add(d, GOOD)
            return d.run()


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    root = tmp_path_factory.mktemp("journals")
    objects = [hf.chaos.Object(path, 100 * KIB + n) for n, path in enumerate(GOOD)]
    with hf.chaos.server(*objects) as server:
        with pytest.MonkeyPatch.context() as patch:
            shrink(patch)
            made = Scene(server, root)
        yield made


def break_page(path: Path, table: str) -> None:
    """Overwrite the root page of a table of a journal that is closed."""
    with closing(sqlite3.connect(path)) as db:
        size = db.execute("PRAGMA page_size").fetchone()[0]
        root = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek((root[0] - 1) * size)
        file.write(b"\xee" * size)


def test_a_broken_journal_is_rebuilt_on_request(scene: Scene) -> None:
    into = scene.copy("rebuilt")
    break_page(into / ".holdfast.db", "item_by_state")
    with pytest.raises(DownloadError) as refused:
        downloads(into)
    assert refused.value.code == "HF-1006"
    assert "--rebuild-journal" in refused.value.next_step
    before = scene.server.stats
    with downloads(into, rebuild=True) as d:
        made = d.rebuilt
        assert made is not None
        assert (made.items, made.done, made.kept) == (20, 12, 3 * 70 * KIB)
        assert made.broken == f"{into}/.holdfast.db.broken"
        assert sqlite3.connect(made.broken).execute("SELECT count(*) FROM meta") is not None
        scene.add(d, GOOD)
        report = d.run()
    assert (report.done, report.skipped, report.exit_code) == (7, 12, 0)
    # What is done is not asked for, and of what is half there only the rest.
    after = scene.server.stats
    assert after.requests - before.requests == 7
    assert report.fetched == sum(scene.size(path) for path in GOOD[12:]) - 3 * 70 * KIB
    scene.check_files(into, whole=True)
    assert [item.failure.reason for item in read_status(str(into)).items if item.failure] == [
        "not-found"
    ]


def test_a_journal_that_can_be_trusted_is_not_rebuilt(scene: Scene) -> None:
    into = scene.copy("trusted")
    with downloads(into, rebuild=True) as d:
        assert d.rebuilt is None
        assert d.status().counts["done"] == 12
    assert not (into / ".holdfast.db.broken").exists()
    assert rebuild_journal(into) is None
    assert rebuild_journal(into / "nothing is here") is None


def test_what_no_row_tells_is_recognised_by_the_files(scene: Scene) -> None:
    """Of rubbish nothing can be read; finished files with a digest are skipped all the same."""
    into = scene.copy("rubbish")
    (into / ".holdfast.db").write_bytes(b"rubbish" * 5000)
    (into / ".holdfast.db-wal").write_bytes(b"rubbish" * 5000)
    before = scene.server.stats.requests
    with downloads(into, rebuild=True) as d:
        assert d.rebuilt is not None
        assert d.rebuilt.items == 0
        for path in GOOD[:12]:
            d.add(scene.server.url(path), sha256=scene.server.expected_sha256(path))
        report = d.run()
        assert (report.skipped, scene.server.stats.requests) == (12, before)
        scene.add(d, GOOD[12:])
        assert d.run().exit_code == 0
    scene.check_files(into, whole=True)
    assert (into / ".holdfast.db.broken").read_bytes() == b"rubbish" * 5000
    assert not [name for name in names_in(into) if name.endswith(".part")]


def test_an_extent_is_believed_only_if_its_bytes_are_there(scene: Scene) -> None:
    into = scene.copy("other bytes")
    break_page(into / ".holdfast.db", "item_by_name")
    for part in into.glob(".half*.part"):
        with part.open("r+b") as file:
            file.seek(20 * KIB)
            file.write(b"other bytes")
    with downloads(into, rebuild=True) as d:
        assert d.rebuilt is not None
        assert d.rebuilt.kept == 3 * (70 - 16) * KIB
    assert scene.run(into).exit_code == 0
    scene.check_files(into, whole=True)


def test_a_finished_file_that_was_changed_is_not_called_done(scene: Scene) -> None:
    into = scene.copy("changed")
    break_page(into / ".holdfast.db", "item_by_state")
    (into / "done0.nc").write_bytes(b"mine now")
    (into / "done1.nc").unlink()
    with downloads(into, rebuild=True) as d:
        assert d.rebuilt is not None
        assert d.rebuilt.done == 10
        report = d.run()
    assert [item.path for item in report.failed] == ["done0.nc"]
    assert (into / "done0.nc").read_bytes() == b"mine now"
    assert (into / "done1.nc").read_bytes() == scene.server.expected_bytes("/done1.nc")


def test_a_database_of_another_program_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE mine (x)")
    content = path.read_bytes()
    with pytest.raises(DownloadError, match="another program"):
        downloads(tmp_path / "d", journal=path, rebuild=True)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["j.db"]


def test_a_journal_in_use_is_not_rebuilt(tmp_path: Path) -> None:
    with downloads(tmp_path), pytest.raises(DownloadError) as refused:
        rebuild_journal(tmp_path)
    assert refused.value.code == "HF-1005"


@pytest.mark.parametrize("call", range(1, 10))
def test_a_death_while_it_is_rebuilt_loses_nothing(
    call: int, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each step that changes a name. The next start finishes, or begins again."""
    into = scene.copy(f"died {call}")
    break_page(into / ".holdfast.db", "item_by_state")
    calls = 0

    def dying(original: Callable[..., None]) -> Callable[..., None]:
        def step(*args: Any, **options: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == call:
                raise KeyboardInterrupt
            original(*args, **options)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(holdfast.downloads.rebuild, "_remove", dying(rebuild_module._remove))
        patch.setattr(holdfast.downloads.rebuild, "publish", dying(rebuild_module.publish))
        patch.setattr(shutil, "copyfile", dying(shutil.copyfile))
        try:
            downloads(into, rebuild=True).close()
        except KeyboardInterrupt:
            died = True
        else:
            died = False
    assert died == (call <= 7)
    # Once the new journal is whole, nobody has to ask for it again.
    assert (into / ".holdfast.db.rebuilt").exists() == (call in {6, 7})
    report = scene.run(into) if call > 5 else scene.run(into, rebuild=True)
    assert (report.skipped, report.done, report.exit_code) == (12, 7, 0)
    scene.check_files(into, whole=True)
    assert not list(into.glob(".holdfast.db.rebuil*"))


# -- corrupted -------------------------------------------------------------------------------------


def corrupt(into: Path, draws: SeededRandom) -> str:
    """Damage the journal or its WAL somehow; return what was done."""
    name = ".holdfast.db"
    if (into / ".holdfast.db-wal").exists() and draws.draw() < 0.6:
        name = ".holdfast.db-wal"
    path = into / name
    # Behind its frames the WAL is room for more.
    data = bytearray(path.read_bytes().rstrip(b"\0"))
    at = int(draws.draw() * len(data))
    kind = int(draws.draw() * 7)
    if kind == 0:
        data[at] ^= 1 << int(draws.draw() * 8)
    elif kind == 1:
        for _ in range(8):
            data[int(draws.draw() * len(data))] = int(draws.draw() * 256)
    elif kind == 2:
        data[at : at + 512] = bytes(512)
    elif kind == 3:
        del data[at:]
    elif kind == 4:
        other = int(draws.draw() * (len(data) // 4096)) * 4096
        data[at // 4096 * 4096 : at // 4096 * 4096 + 4096] = data[other : other + 4096]
    elif kind == 5:
        data[at : at + 16] = bytes(int(draws.draw() * 256) for _ in range(16))
    else:  # within the text of the rows
        letters = [i for i, byte in enumerate(data) if 0x2D <= byte <= 0x7A]
        data[letters[int(draws.draw() * len(letters))]] ^= 1 << int(draws.draw() * 5)
    path.write_bytes(data)
    return f"{name} {('bit', 'bytes', 'zeros', 'cut', 'page', 'run', 'letter')[kind]} {at}"


def survive(scene: Scene, seed: int) -> str:
    """Run on a corrupted journal, then rebuild it; return what came of it."""
    into = scene.copy(f"corrupt {seed}")
    if seed % 3:  # else most pages are in the WAL, and the journal's own are not looked at
        with closing(sqlite3.connect(into / ".holdfast.db")) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    told = corrupt(into, SeededRandom(f"corrupt {seed}"))
    try:
        report = scene.run(into)
    except DownloadError as error:
        assert error.code == "HF-1006", told  # noqa: PT017 - either end is fine
        came = "refused"
    else:
        came = "used"
        scene.check_files(into, whole=report.exit_code == 0)
    scene.check_files(into, whole=False)
    scene.run(into, rebuild=True)
    report = scene.run(into)
    # A digest that is still one but was altered is a promise that no file keeps.
    assert {item.reason for item in report.failed} <= {"digest"}, told
    assert report.exit_code == bool(report.failed), told
    scene.check_files(into, whole=not report.failed)
    shutil.rmtree(into)
    return came


def test_a_corrupted_journal_is_refused_or_used_rightly(scene: Scene) -> None:
    came = Counter(survive(scene, seed) for seed in range(40))
    assert came["refused"] > 5
    assert came["used"] > 5


@pytest.mark.long
@pytest.mark.parametrize("first", range(1000, 2000, 100))
def test_a_thousand_corrupted_journals(first: int, scene: Scene) -> None:
    came = Counter(survive(scene, seed) for seed in range(first, first + 100))
    assert came["refused"] > 10
