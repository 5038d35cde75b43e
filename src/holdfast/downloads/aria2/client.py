"""`hf.Aria2Client`: the public face."""

from __future__ import annotations

import logging
import os
import posixpath
import weakref
from typing import TYPE_CHECKING, Any, Self

from holdfast.downloads.aria2.core import Core
from holdfast.downloads.aria2.model import BatchDownloadProgress
from holdfast.downloads.failures import DownloadError
from holdfast.telemetry.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    from holdfast.downloads.aria2.model import DownloadProgress, RetryInfo

__all__ = ["Aria2Client"]


class Aria2Client:
    """Downloads by an aria2 service, supervised: restarted, reconciled, remembered.

        client = hf.Aria2Client("http://localhost:6800/jsonrpc", secret=token)
        gid = await client.add_download("https://example.org/a.nc", "data/a.nc")
        client.get_progress(gid).progress_percent

    The methods that do something are coroutines, for any running loop; those that say
    something are plain, for any thread, and read a snapshot without any I/O. All work is done
    on one background thread.

    rpc_url: http, https, ws or wss.  secret (or rpc_secret): the service's `rpc-secret`.
    verbose: log lines (logger `holdfast.aria2`) at INFO rather than DEBUG.
    max_retries: attempts of an RPC call, and restarts of a download without progress; from 1
    for calls (0 counts as 1), from 0 for restarts.
    retry_delay: seconds; call n + 1 follows call n after exactly `retry_delay * 2 ** (n - 1)`;
    a restart after a random time up to that, at most 30 s.
    auto_restart_failed: restart failed downloads by themselves, where that may help.
    journal: path of the journal; default `aria2.db` in the state directory. One client at a
    time uses a journal.

    Raises BadUrl or DownloadError (HF-1003 to HF-1007). Close it with `aclose`, `close`, or a
    `with` block; what aria2 has under way goes on, and the next client takes it up.
    """

    def __init__(
        self,
        rpc_url: str = "http://localhost:6800/jsonrpc",
        secret: str | Secret | None = None,
        verbose: bool = True,  # noqa: FBT001, FBT002 - the order that its users know
        max_retries: int = 3,
        retry_delay: float = 1.0,
        auto_restart_failed: bool = True,  # noqa: FBT001, FBT002 - the same
        journal: str | os.PathLike[str] | None = None,
        *,
        rpc_secret: str | Secret | None = None,
    ) -> None:
        _check("max_retries", max_retries, 0, 1_000_000)
        _check("retry_delay", retry_delay, 0, 86_400)
        token = rpc_secret if secret is None else secret
        self._core = Core(
            rpc_url,
            Secret(token) if isinstance(token, str) and token else token or None,
            level=logging.INFO if verbose else logging.DEBUG,
            most=max_retries,
            delay=retry_delay,
            auto=auto_restart_failed,
            journal=_default_journal() if journal is None else os.fspath(journal),
        )
        # Who never closes a client loses nothing by it; its thread ends with it.
        self._finalizer = weakref.finalize(self, self._core.close)
        self._core.take_up()

    def __repr__(self) -> str:
        return f"Aria2Client({self._core.address!r})"

    async def aclose(self) -> None:
        """End the background thread and close the journal; a second call does nothing."""
        await self._core.aclose()
        self._finalizer.detach()

    def close(self) -> None:
        """Do what `aclose` does, for synchronous code."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    # -- to do something -----------------------------------------------------------------------

    async def add_download(
        self,
        url: str | Sequence[str],
        save_path: str | os.PathLike[str] | None = None,
        options: Mapping[str, object] | None = None,
    ) -> str:
        """Have a file fetched; return its gid when aria2 has accepted it.

        url: or several, mirrors of one object.  save_path: the file; a directory if it ends
        with a slash; default the last part of the URL in the service's own directory.
        options: aria2's, not changed; those that decide names and retries are ours.

        The same URL and path is the same download: adding it again changes nothing while it is
        under way or done, and starts a failed one afresh with the bytes that are there.
        Raises BadUrl, DownloadError (HF-1003, HF-1203), Aria2Unavailable, Aria2AuthError or
        Aria2Refused; then nothing was added.
        """
        return await self._core.loop.run(self._core.add(url, _text(save_path), options))

    async def add_batch_downloads(
        self,
        downloads: Iterable[tuple[str | Sequence[str], str | os.PathLike[str] | None]],
        batch_id: str | None = None,
        options: Mapping[str, object] | None = None,
    ) -> str:
        """Have many files fetched; return the id of the batch when all are in the journal.

        downloads: pairs of url and save_path, as in `add_download`. Raises as that does,
        before anything was added. They are handed to aria2 in the background, so what it
        refuses one by one is in the progress of the batch.
        """
        wanted = [(url, _text(path)) for url, path in downloads]
        return await self._core.loop.run(self._core.add_batch(wanted, batch_id, options))

    async def restart_all_failed_downloads(self) -> int:
        """Restart what failed and may be repeated (`can_retry`); return how many that were.

        The counters go on, so that a loop around this ends.
        """
        return await self._core.loop.run(self._core.restart_all())

    async def _restart_failed_download(self, gid: str) -> str | None:
        """Restart one download that failed; return its gid, None if that may not be."""
        return await self._core.loop.run(self._core.restart_one(gid))

    async def cancel_download(self, gid: str) -> bool:
        """Remove a download; False for one that is unknown or over.

        What is on disk stays, and counts if the same is added again. If the service is away,
        it is told when it is back.
        """
        return await self._core.loop.run(self._core.cancel(gid))

    async def cancel_batch(self, batch_id: str) -> int:
        """Remove all downloads of a batch that are not over; return how many that were."""
        return await self._core.loop.run(self._core.cancel_batch(batch_id))

    async def pause_download(self, gid: str) -> bool:
        """Hold a download; False for one that is unknown or over."""
        return await self._core.loop.run(self._core.pause(gid))

    async def resume_download(self, gid: str) -> bool:
        """Let a paused download go on; False for one that is not paused."""
        return await self._core.loop.run(self._core.resume(gid))

    async def cleanup_completed(self) -> int:
        """Forget what is complete or removed; return how many that were. Files stay."""
        return await self._core.loop.run(self._core.cleanup())

    # -- to say something: snapshots, no I/O -----------------------------------------------------

    def get_progress(self, gid: str, auto_restart: bool | None = None) -> DownloadProgress | None:  # noqa: ARG002, FBT001 - see the text
        """Return how far a download is; None for an unknown id.

        auto_restart: without effect, kept for old callers: reading changes nothing.
        """
        return self._core.roster.view.get(gid)

    def get_batch_progress(self, batch_id: str) -> BatchDownloadProgress | None:
        """Return how far a batch is; None for an unknown id."""
        found = self._core.batches.get(batch_id)
        if found is None:
            return None
        created_at, gids = found
        view, retry = self._core.roster.view, self._core.roster.retry
        downloads = tuple(view[gid] for gid in gids if gid in view)
        over = all(
            each.status in {"complete", "removed"}
            or (each.status == "error" and not retry[each.gid].can_retry)
            for each in downloads
        )
        return BatchDownloadProgress(batch_id, downloads, over, created_at)

    def get_retry_info(self, gid: str) -> RetryInfo | None:
        """Return what was tried for a download; None for an unknown id."""
        return self._core.roster.retry.get(gid)

    def get_all_downloads(self) -> list[DownloadProgress]:
        """Return how far all downloads are, in the order of adding."""
        return list(self._core.roster.view.values())

    def get_global_stats(self) -> dict[str, int]:
        """Return aria2's numbers of the last look: `downloadSpeed`, `numActive`, ...

        Empty before the first look.
        """
        return dict(self._core.service.stats)

    def get_file_path(self, gid: str) -> str | None:
        """Return where the finished file is, or will be; None for an unknown id."""
        found = self.get_progress(gid)
        return None if found is None else found.file_path

    def get_all_file_paths(self) -> dict[str, str]:
        """Return gid -> path of the finished file, of all downloads."""
        return {each.gid: each.file_path for each in self.get_all_downloads()}


def _check(name: str, value: Any, low: float, high: float) -> None:  # noqa: ANN401 - it is checked here
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        text = f"`{name}`: {value!r}: it must be a number from {low} to {high}"
        raise DownloadError("bad-option", text)


def _text(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)


def _default_journal() -> str:
    """Return the journal in the state directory. Source: XDG Base Directory Specification 0.8."""
    directory = os.environ.get("HOLDFAST_STATE_DIR")
    if not directory:
        base = os.environ.get("XDG_STATE_HOME") or posixpath.join(
            os.path.expanduser("~"),  # noqa: PTH111 - text paths, as everywhere in downloads
            ".local/state",
        )
        directory = posixpath.join(base, "holdfast")
    return posixpath.join(directory, "aria2.db")
