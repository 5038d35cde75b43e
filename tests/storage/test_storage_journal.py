"""The journal: what it keeps, what it refuses, and who may write."""

from __future__ import annotations

import os
import pickle
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from holdfast.storage.journal import (
    MEMORY,
    RESERVE,
    Journal,
    JournalBroken,
    JournalFull,
    JournalNewer,
)
from holdfast.storage.lock import Held, ProcessLock

FORM = ("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)",)
SECOND = (*FORM, "ALTER TABLE t ADD COLUMN c TEXT; CREATE TABLE u (x)")


def add(journal: Journal, text: str) -> None:
    with journal.write() as db:
        db.execute("INSERT INTO t (b) VALUES (?)", (text,))


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "j.db")


def test_what_was_committed_is_there_again(path: str) -> None:
    with closing(Journal(path, FORM)) as journal:
        add(journal, "x")
    with closing(Journal(path, FORM)) as journal:
        assert journal.read("SELECT b FROM t") == [("x",)]


def test_a_block_that_raises_leaves_nothing(path: str) -> None:
    with closing(Journal(path, FORM)) as journal:
        with pytest.raises(KeyError), journal.write() as db:
            db.execute("INSERT INTO t (b) VALUES ('x')")
            raise KeyError
        assert journal.read("SELECT * FROM t") == []


def test_a_block_inside_a_block_is_one_transaction(path: str) -> None:
    with closing(Journal(path, FORM)) as journal:
        with pytest.raises(KeyError), journal.write():
            add(journal, "inner")
            raise KeyError
        assert journal.read("SELECT * FROM t") == []


def test_threads_write_one_after_another(path: str) -> None:
    with closing(Journal(path, FORM)) as journal:

        def twenty() -> None:
            for _ in range(20):
                add(journal, "x")

        threads = [threading.Thread(target=twenty) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert journal.read("SELECT count(*) FROM t") == [(80,)]


def test_an_older_form_is_brought_up_to_date(path: str) -> None:
    with closing(Journal(path, FORM)) as journal:
        add(journal, "kept")
    with closing(Journal(path, SECOND)) as journal:
        assert journal.read("SELECT b, c FROM t") == [("kept", None)]
        assert journal.read("SELECT * FROM u") == []


def test_a_newer_form_is_refused(path: str) -> None:
    Journal(path, SECOND).close()
    with pytest.raises(JournalNewer, match="form 2, known: 1"):
        Journal(path, FORM)


def test_a_database_of_somebody_else_is_refused(path: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE mine (x)")
    with pytest.raises(JournalBroken, match="another program"):
        Journal(path, FORM)


def test_a_file_that_is_no_database_is_refused(path: str) -> None:
    Path(path).write_bytes(b"not a database at all, but long enough to be looked at" * 100)
    with pytest.raises(JournalBroken):
        Journal(path, FORM)


def test_damage_is_found_or_harmless(path: str) -> None:
    with closing(Journal(path, FORM)) as journal, journal.write() as db:
        db.executemany("INSERT INTO t (b) VALUES (?)", [(f"text {n}",) for n in range(2000)])
    sound = Path(path).read_bytes()
    refused = 0
    for at in range(0, len(sound), 997):
        Path(path).write_bytes(sound[:at] + bytes(40) + sound[at + 40 :])
        try:
            with closing(Journal(path, FORM)) as journal:
                journal.read("SELECT * FROM t")
        except JournalBroken:
            refused += 1
    assert refused > 5


def test_errors_go_through_a_pickle() -> None:
    for error in (JournalBroken("p", "why"), Held("p", 7)):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))


def test_a_full_disk_is_told_apart(path: str) -> None:
    with closing(Journal(path, FORM)) as journal:
        journal.read("PRAGMA max_page_count = 4")
        with pytest.raises(JournalFull), journal.write() as db:
            db.executemany("INSERT INTO t (b) VALUES (?)", [("x" * 4000,)] * 50)
        assert journal.read("SELECT count(*) FROM t") == [(0,)]


def test_memory_needs_no_file() -> None:
    with closing(Journal(MEMORY, FORM)) as journal:
        add(journal, "x")
        assert journal.read("SELECT b FROM t") == [("x",)]


def test_a_reader_looks_on_while_another_writes(path: str) -> None:
    with closing(Journal(path, FORM)) as journal:
        add(journal, "x")
        with closing(Journal(path, FORM, read_only=True)) as reader:
            assert reader.read("SELECT b FROM t") == [("x",)]
            add(journal, "y")
            assert reader.read("SELECT count(*) FROM t") == [(2,)]
            with pytest.raises(JournalBroken, match="readonly"), reader.write() as db:
                db.execute("DELETE FROM t")


def test_a_reader_of_an_empty_file_is_told_so(path: str) -> None:
    Path(path).touch()
    with pytest.raises(JournalBroken, match="empty"):
        Journal(path, FORM, read_only=True)


def test_a_place_that_cannot_be_written_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Journal(str(tmp_path / "absent" / "j.db"), FORM)


def test_a_second_process_is_refused_with_the_pid(path: str) -> None:
    code = (
        "import sys\nfrom holdfast.storage.journal import Journal\n"
        "from holdfast.storage.lock import Held\n"
        f"try:\n    Journal({path!r}, {FORM!r})\n"
        "except Held as error:\n    print(error.pid)"
    )
    with closing(Journal(path, FORM)):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout == f"{os.getpid()}\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_the_lock_ends_with_its_process(path: str) -> None:
    code = (
        "import os, signal\nfrom holdfast.storage.journal import Journal\n"
        f"j = Journal({path!r}, {FORM!r})\n"
        "with j.write() as db: db.execute(\"INSERT INTO t (b) VALUES ('x')\")\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -9
    with closing(Journal(path, FORM)) as journal:
        assert journal.read("SELECT b FROM t") == [("x",)]


def test_nothing_but_the_journal_is_left(path: str, tmp_path: Path) -> None:
    with closing(Journal(path, FORM)) as journal:
        add(journal, "x")
    assert [p.name for p in tmp_path.iterdir()] == ["j.db"]


def test_a_link_at_the_locks_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        ProcessLock(str(tmp_path / "l")).acquire()
    assert not (tmp_path / "elsewhere").exists()


def test_a_lock_is_given_from_hand_to_hand(tmp_path: Path) -> None:
    path = str(tmp_path / "l")
    taken = 0

    def contend() -> None:
        nonlocal taken
        for _ in range(200):
            lock = ProcessLock(path)
            try:
                lock.acquire()
            except Held:
                continue
            taken += 1
            inside.append(1)
            assert len(inside) == 1
            inside.pop()
            lock.release()

    inside: list[int] = []
    threads = [threading.Thread(target=contend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken > 0
    assert not Path(path).exists()


def test_an_index_that_has_lost_rows_is_found_by_who_writes(path: str) -> None:
    form = ("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT); CREATE INDEX t_b ON t (b)",)
    with closing(Journal(path, form)) as journal:
        add(journal, "x")
    with closing(sqlite3.connect(path)) as db:
        # Without its line in the schema the index takes no part in the insertion.
        db.execute("PRAGMA writable_schema = ON")
        kept = db.execute("SELECT * FROM sqlite_schema WHERE name = 't_b'").fetchone()
        db.execute("DELETE FROM sqlite_schema WHERE name = 't_b'")
        db.commit()
    with closing(sqlite3.connect(path)) as db:
        db.execute("INSERT INTO t (b) VALUES ('y')")
        db.execute("PRAGMA writable_schema = ON")
        db.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", kept)
        db.commit()
    with pytest.raises(JournalBroken, match="damaged"):
        Journal(path, form)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    "change", ["sql = replace(sql, 'REFERENCES t', 'REFERENCES s')", "sql = replace(sql, 'x', 'y')"]
)
def test_tables_that_are_not_those_of_the_form_are_found_at_once(
    path: str, change: str, *, read_only: bool
) -> None:
    form = (*FORM, "CREATE TABLE u (x INTEGER REFERENCES t (a))")
    Journal(path, form).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute(f"UPDATE sqlite_schema SET {change} WHERE name = 'u'")
        db.commit()
    with pytest.raises(JournalBroken, match="tables"):
        Journal(path, form, read_only=read_only)


def test_room_for_commits_is_taken_before_the_disk_is_full(path: str) -> None:
    with closing(Journal(path, FORM)) as journal:
        wal = Path(f"{path}-wal")
        taken = wal.stat()
        assert taken.st_blocks * 512 >= RESERVE
        for n in range(20):
            add(journal, f"x{n}")
        assert wal.stat().st_size == taken.st_size
    assert not wal.exists()
    with closing(Journal(path, FORM)) as journal:
        assert len(journal.read("SELECT b FROM t")) == 20
