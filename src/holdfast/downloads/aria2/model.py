"""The values that the aria2 client hands out. Snapshots: they do not change any more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """How far one download is.

    gid: its id, 16 hexadecimal digits, the same over all attempts and in aria2.
    status: aria2's words (active, waiting, paused, error, complete, removed), or `suspended`
    while the service is away. `waiting` is also said while a restart is pending.
    total_length, completed_length: bytes; total 0 while unknown.  speeds: bytes per second.
    error_code: aria2's, of the latest failure, as text; empty without one.
    file_path: where the finished file is, or will be.
    """

    gid: str
    status: str
    total_length: int = 0
    completed_length: int = 0
    download_speed: int = 0
    upload_speed: int = 0
    num_pieces: int = 0
    connections: int = 0
    error_code: str = ""
    error_message: str = ""
    file_path: str = ""

    @property
    def progress_percent(self) -> float:
        """From 0 to 100."""
        return _percent(self.completed_length, self.total_length, whole=self.status == "complete")

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to go at this speed; None if that cannot be said, 0 when it is complete."""
        if self.status == "complete":
            return 0.0
        return _eta(self.total_length - self.completed_length, self.download_speed)


@dataclass(frozen=True, slots=True)
class BatchDownloadProgress:
    """How far the downloads of one batch are.

    is_completed: none of them runs, waits, or would be restarted.  failed_count: those with
    status `error`.  active_count: those that are not over.  created_at: seconds since the epoch.
    """

    batch_id: str
    downloads: tuple[DownloadProgress, ...]
    is_completed: bool
    created_at: float

    @property
    def total_size(self) -> int:
        """Bytes, of those whose size is known."""
        return sum(each.total_length for each in self.downloads)

    @property
    def downloaded_size(self) -> int:
        """Bytes that are there."""
        return sum(each.completed_length for each in self.downloads)

    @property
    def total_speed(self) -> int:
        """Bytes per second."""
        return sum(each.download_speed for each in self.downloads)

    @property
    def progress_percent(self) -> float:
        """From 0 to 100."""
        done = bool(self.downloads) and self.completed_count == len(self.downloads)
        return _percent(self.downloaded_size, self.total_size, whole=done)

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to go at this speed; None if that cannot be said, 0 when nothing is left."""
        if self.active_count == 0:
            return 0.0
        return _eta(self.total_size - self.downloaded_size, self.total_speed)

    @property
    def completed_count(self) -> int:
        """Downloads that are there."""
        return sum(each.status == "complete" for each in self.downloads)

    @property
    def failed_count(self) -> int:
        """Downloads that failed."""
        return sum(each.status == "error" for each in self.downloads)

    @property
    def active_count(self) -> int:
        """Downloads that are not over."""
        over = {"complete", "error", "removed"}
        return sum(each.status not in over for each in self.downloads)


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt. at: seconds since the epoch.  code, message: aria2's, or ours.

    delay: seconds waited before the next attempt; 0 for the last one.
    bytes: what was there when it failed.
    """

    at: float
    code: str
    message: str
    delay: float
    bytes: int


@dataclass(frozen=True, slots=True)
class RetryInfo(Mapping[str, object]):
    """What was tried. Fields can also be read as `info["retry_count"]`.

    retry_count: restarts since the last progress.  can_retry: whether one more may follow.
    url: without signature or credentials.  options: without secrets.
    history: the latest 50 failures, oldest first.
    """

    gid: str
    retry_count: int
    max_retries: int
    can_retry: bool
    url: str
    options: Mapping[str, object] = field(default_factory=dict)
    history: tuple[Failure, ...] = ()

    def __getitem__(self, name: str) -> object:
        if name not in set(self):
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return (spec.name for spec in fields(self))

    def __len__(self) -> int:
        return len(fields(self))

    # A Mapping without a hash, like a dict.
    __hash__ = None  # type: ignore[assignment]  # as in dict


def _percent(done: int, total: int, *, whole: bool) -> float:
    if whole:
        return 100.0
    return min(100.0, 100.0 * done / total) if total > 0 else 0.0


def _eta(left: int, speed: int) -> float | None:
    if speed <= 0 or left < 0:
        return None
    return left / speed
