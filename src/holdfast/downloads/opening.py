"""Opening the journal of a directory, and saying what its errors mean."""

from __future__ import annotations

import os
import posixpath
from contextlib import contextmanager
from typing import TYPE_CHECKING

from holdfast.downloads.failures import DownloadError
from holdfast.downloads.rebuild import Rebuilt, finish, rebuild_if_broken
from holdfast.downloads.store import Store
from holdfast.runtime.files import files
from holdfast.storage.journal import MEMORY, JournalBroken, JournalFull, JournalNewer
from holdfast.storage.lock import Held

if TYPE_CHECKING:
    from collections.abc import Iterator

JOURNAL = ".holdfast.db"


def journal_path(into: str, journal: str | os.PathLike[str] | None) -> str:
    """Return where the journal of a directory lies. journal: somewhere else, or None."""
    if journal is None:
        return posixpath.normpath(posixpath.join(into, JOURNAL))
    path = os.fspath(journal)
    return path if path == MEMORY else posixpath.normpath(path)


def open_store(into: str, journal: str) -> Store:
    """Make the directory, and open or create its journal. Raises DownloadError."""
    try:
        files().makedirs(into)
    except OSError as error:
        text = f"`{into}`: the output directory cannot be made ({error.strerror})"
        raise DownloadError("bad-output", text) from None
    with _opening(journal):
        finish(journal)
        store = Store(journal)
    try:
        _check_place(store, into, journal)
    except BaseException:
        store.close()
        raise
    return store


def rebuild_journal(
    into: str | os.PathLike[str], journal: str | os.PathLike[str] | None = None
) -> Rebuilt | None:
    """Put a new journal in the place of one that cannot be trusted; None if it can be.

    What can still be read and is true goes on: items with their sources and promises, and
    those bytes of unfinished files that are on disk as the journal has them. The old journal
    is moved aside (`Rebuilt.broken`). into, journal: as of `Downloads`.
    Raises DownloadError: HF-1005 if a process works on it, HF-1006 if it is a database of
    another program, HF-1007 if a newer version wrote it.
    """
    into = posixpath.normpath(os.fspath(into))
    path = journal_path(into, journal)
    with _opening(path):
        finish(path)
        return rebuild_if_broken(into, path)


@contextmanager
def _opening(journal: str) -> Iterator[None]:
    """Say what it means if a journal cannot be opened."""
    try:
        with refusing():
            yield
    except Held as error:
        text = f"`{journal}`: another process works on this journal (pid: {error.pid})"
        raise DownloadError("journal-busy", text, exit_code=75) from None
    except OSError as error:
        text = f"`{journal}`: the journal cannot be written ({error.strerror})"
        raise DownloadError("bad-output", text) from None


def _check_place(store: Store, into: str, journal: str) -> None:
    """Refuse a journal that lies apart from its directory and belongs to another one."""
    if journal == MEMORY or (posixpath.dirname(journal) or ".") == into:
        return
    place = os.path.abspath(into)  # noqa: PTH100 - links stay as they are
    known = store.meta("into")
    if known is None:
        store.set_meta("into", place)
    elif known != place:
        raise DownloadError("bad-output", f"`{journal}`: this journal is of `{known}`")


@contextmanager
def refusing() -> Iterator[None]:
    """Say what the errors of a journal mean for downloads."""
    try:
        yield
    except JournalNewer as error:
        raise DownloadError("journal-newer", str(error)) from None
    except JournalBroken as error:
        next_step = (
            "Add `--rebuild-journal` (`rebuild=True`) to keep what can be trusted of it, or move "
            f"it away (mv {error.path} {error.path}.broken) and start again."
        )
        raise DownloadError("journal-broken", str(error), next_step=next_step) from None
    except JournalFull as error:
        raise DownloadError("disk", str(error), exit_code=3) from None
