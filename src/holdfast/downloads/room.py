"""What a run would fetch, and whether there is room for it."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from holdfast.downloads.failures import DownloadError
from holdfast.downloads.items import Item, Plan
from holdfast.downloads.states import State
from holdfast.runtime.files import files

if TYPE_CHECKING:
    from holdfast.downloads.store import Store


def is_there(item: Item, into: str) -> bool:
    """Whether the file of a finished item is there as it was published.

    Another mtime means that somebody wrote to it. A digest that was promised since then must
    have been the one that was checked.
    """
    info = files().stat(f"{into}/{item.path}")
    if info is None or not info.regular:
        return False
    same = info.size == item.known_size and info.mtime == item.mtime
    promised = {digest.hex for digest in item.digests}
    return same and promised <= {item.digest}


def plan_of(store: Store, into: str) -> Plan:
    """Return what a run would do. Memory does not grow with the journal."""
    total = store.totals()
    gone = [0, 0]
    for item in store.items(State.DONE, State.SKIPPED, session=store.session):
        if not is_there(item, into):
            gone[0] += 1
            gone[1] += item.known_size or 0
    count = total.files + gone[0]
    lacking = total.bytes + gone[1] - _on_disk(store, into)
    return Plan(
        files=count,
        bytes=total.bytes + gone[1],
        unknown_sizes=total.unknown_sizes,
        collisions=total.collisions,
        free=files().free_space(into),
        needed=max(0, lacking),
        requests=count,
    )


def _on_disk(store: Store, into: str) -> int:
    """Return how many bytes of open files have their place on the disk already.

    That is what a part has taken, not what is kept in it: its room was taken at once.
    """
    placed = 0
    for item in store.begun_items():
        info = files().stat(posixpath.join(into, item.part))
        placed += min(max(item.kept, info.taken if info else 0), item.known_size or 0)
    return placed


def check_room(store: Store, into: str) -> None:
    """Refuse what cannot fit. Raises DownloadError (HF-1012).

    What has the size of a file that lies there already is not counted: it will be skipped.
    A file system that does not answer refuses nothing here: the files will meet its error,
    each for itself, and it is recorded with them.
    """
    try:
        # Even if all that is finished had gone: then no file has to be looked at.
        if store.totals().bytes + store.finished_bytes() <= files().free_space(into):
            return
        plan = plan_of(store, into)
        if plan.fits:
            return
        needed = plan.needed - _there_already(store, into)
    except OSError:
        return
    if needed <= plan.free:
        return
    raise no_room(plan, into, needed)


def no_room(plan: Plan, into: str, needed: int) -> DownloadError:
    """Return the error of a plan that does not fit. needed: bytes."""
    files_of_it = "1 file" if plan.files == 1 else f"{plan.files} files"
    text = (
        f"`{into}`: there is no room for {files_of_it} "
        f"(needed: {_size(needed)}, free: {_size(plan.free)})"
    )
    if plan.unknown_sizes:
        text += f"; {plan.unknown_sizes} of them, of unknown size, are not counted"
    return DownloadError("no-room", text)


def _there_already(store: Store, into: str) -> int:
    total = 0
    for item in store.open_items():
        info = files().stat(posixpath.join(into, item.path))
        if info is not None and info.regular and info.size == item.known_size:
            total += info.size
    return total


def _size(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" or n >= 100 else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"
