"""The files of a download: its part, aria2's control file beside it, and its final name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.downloads.aria2.item import split_path
from holdfast.downloads.names import part_path
from holdfast.runtime.files import files
from holdfast.storage.publish import publish

if TYPE_CHECKING:
    from holdfast.downloads.aria2.item import Item

CONTROL = ".aria2"


class Parts:
    """What is done to files. shared: we see those of the service; else nothing is."""

    def __init__(self, *, shared: bool) -> None:
        self.shared = shared

    def part_for(self, path: str, gid: str) -> str:
        """Return where aria2 writes what will be `path`."""
        return part_path(path, gid) if self.shared else path

    def is_taken(self, item: Item) -> bool:
        """Whether a file that must not be replaced has the final name."""
        return self.shared and not item.overwrite and files().stat(item.path) is not None

    def is_there(self, item: Item) -> bool:
        """Whether the finished file is as we left it."""
        if not self.shared:
            return True
        found = files().stat(item.path)
        return found is not None and (found.size, found.mtime) == (item.total, item.mtime)

    def has_data(self, item: Item) -> bool:
        """Whether there are bytes that aria2 can tell from what was only allocated."""
        if not self.shared:
            return item.completed > 0
        stat = files().stat
        return stat(item.part) is not None and stat(item.part + CONTROL) is not None

    def clear(self, item: Item) -> None:
        """Remove part and control file: nobody vouches for what is in them."""
        if self.shared:
            for path in (item.part, item.part + CONTROL):
                if files().stat(path) is not None:
                    files().unlink(path)

    def has_room(self, item: Item, margin: int) -> bool:
        """Whether the disk has room for what is missing, and `margin` bytes more.

        Where we cannot look, the answer is yes: aria2 will find out.
        """
        if not self.shared:
            return True
        try:
            free = files().free_space(split_path(item.path)[0])
        except OSError:
            return True
        return free >= max(0, item.total - item.completed) + margin

    def publish(self, item: Item) -> tuple[str, str] | None:
        """Give the finished part its name; return aria2's code and a text if that may not be.

        It syncs the file, which may take seconds: not for an event loop. Raises OSError.
        """
        if not self.shared:
            return None
        found = files().stat(item.part)
        if found is None:
            return self._published_before(item)
        if found.size != item.total:
            return "7", f"the part has {found.size} bytes, expected: {item.total}"
        if self.is_taken(item):
            return "13", "another file has this name; it was not touched"
        file = files().open(item.part, write=True)
        try:
            file.datasync()
        finally:
            file.close()
        publish(item.part, item.path)
        self._remember(item)
        return None

    def _published_before(self, item: Item) -> tuple[str, str] | None:
        """Tell a kill between the rename and its commit from a part that was taken away."""
        found = files().stat(item.path)
        if found is None or found.size != item.total:
            return "7", "the part is gone"
        self._remember(item)
        return None

    def _remember(self, item: Item) -> None:
        found = files().stat(item.path)
        if found is not None:
            item.mtime = found.mtime
