"""The files of a download: its part, aria2's control file beside it, and its final name."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from holdfast.downloads.aria2.item import split_path
from holdfast.downloads.names import part_path
from holdfast.runtime.files import files
from holdfast.storage.publish import publish

if TYPE_CHECKING:
    from holdfast.downloads.aria2.item import Item

CONTROL = ".aria2"
MAX_CONTROL = 64 * 1024 * 1024
"""Bytes of a control file; one for 1 TiB has a tenth of it."""


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
        return files().stat(item.part) is not None and _says_something(item.part + CONTROL)

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


def _says_something(path: str) -> bool:
    """Whether a control file is whole and names bytes that are there.

    On a full disk aria2 leaves an empty one, and then refuses to start with it.
    """
    if files().stat(path) is None:
        return False
    file = files().open(path)
    try:
        return _has_pieces(file.pread(MAX_CONTROL, 0))
    finally:
        file.close()


def _has_pieces(control: bytes) -> bool:
    """Read a control file; False for one that is cut short or of a version we do not know.

    Source: aria2, "Technical notes", control file format, version 1 (network byte order):
    version 2, extension 4, hash length 4, hash, piece length 4, total 8, uploaded 8, bitfield
    length 4, bitfield, number of pieces in flight 4, and for each of these index 4, length 4,
    bitfield length 4, bitfield.
    """
    try:
        version, hash_length = struct.unpack_from("!H4xI", control)
        at = 10 + hash_length + 20
        (length,) = struct.unpack_from("!I", control, at)
        bits = control[at + 4 : at + 4 + length]
        at += 4 + length
        (pieces,) = struct.unpack_from("!I", control, at)
        at += 4
        for _ in range(pieces):
            (length,) = struct.unpack_from("!8xI", control, at)
            bits += control[at + 12 : at + 12 + length]
            at += 12 + length
    except struct.error:
        return False
    return version == 1 and at <= len(control) and any(bits)
