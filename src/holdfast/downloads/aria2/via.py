"""Fetching by aria2 on behalf of somebody who has a plan, a journal and a report of his own.

    with Via.of("aria2://local", "data") as via:
        for progress in via.fetch(url, headers, path, size):
            ...                 # twice a second; when it ends, the file is at `path`

Addresses: `aria2://HOST:PORT` is a service that runs there, `aria2://local` one of our own.
"""

from __future__ import annotations

import logging
import os
import posixpath
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Self

from holdfast.downloads.aria2.core import Core
from holdfast.downloads.aria2.errors import Aria2Error
from holdfast.downloads.aria2.process import Aria2Process
from holdfast.downloads.aria2.states import status_in
from holdfast.downloads.failures import CODES, DownloadError, Failure
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from types import TracebackType

    from holdfast.downloads.aria2.model import DownloadProgress
    from holdfast.telemetry.secret import Secret
    from holdfast.transfer.verify import Digest

SCHEME = "aria2://"
LOCAL = "local"
JOURNAL = ".holdfast-aria2.db"
FIRST, EVERY = 0.02, 0.5
"""Seconds between two looks: short at first, because most files are small."""
_OVER = frozenset({"complete", "error", "removed"})

_REASONS = {
    "2": "stalled",
    "3": "not-found",
    "5": "stalled",
    "8": "changing",
    "9": "disk",
    "13": "exists",
    "15": "file-error",
    "16": "file-error",
    "17": "file-error",
    "18": "file-permission",
    "19": "no-such-host",
    "23": "redirects",
    "24": "unauthorized",
    "28": "bad-option",
    "29": "server-error",
    "32": "digest",
}
_STATUSES = {401: "unauthorized", 403: "forbidden", 404: "not-found", 410: "not-found"}


class ViaFailed(Aria2Error):
    """A file could not be fetched. failure: why, as in the failed list of downloads."""

    code = "HF-1605"

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.failure,))


class Via:
    """A service that fetches files, for any number of threads. Made by `of`.

    shared: we see its files; else whoever uses this cannot verify what it fetched.
    """

    def __init__(self, core: Core, owned: ExitStack) -> None:
        self._core = core
        self._owned = owned

    @classmethod
    def of(
        cls,
        address: str,
        directory: str | os.PathLike[str] = ".",
        *,
        secret: Secret | None = None,
        attempts: int = 8,
        most: int = 5,
    ) -> Self:
        """Return the service at `aria2://HOST:PORT` or `aria2://local`, to be entered or closed.

        directory: where the journal of the service's part lies.  attempts: as of `Downloads`.
        most: files at a time, of a service of our own; another one has its own limit.
        Raises BadUrl, DownloadError, or for `local` Aria2ProcessError.
        """
        place = address.removeprefix(SCHEME)
        if place == address or not place:
            text = f"`{address}`: write `aria2://HOST:PORT` or `aria2://local`"
            raise DownloadError("bad-option", text)
        with ExitStack() as owned:
            if place == LOCAL:
                options = {"max-concurrent-downloads": most}
                process = owned.enter_context(Aria2Process(directory, options=options))
                url, secret = process.rpc_url, process.secret
            else:
                url = f"http://{place}/jsonrpc"
            core = Core(
                url,
                secret,
                level=logging.DEBUG,
                most=max(0, attempts - 1),
                delay=0.5,
                auto=True,
                journal=posixpath.join(os.fspath(directory), JOURNAL),
            )
            owned.callback(core.close)
            core.take_up()
            return cls(core, owned.pop_all())

    @property
    def shared(self) -> bool:
        """Whether we see the service's files."""
        return self._core.shared

    def check(self) -> None:
        """Ask once whether it is there. Raises Aria2Unavailable or Aria2AuthError."""
        self._core.loop.submit(self._core.check()).result()

    def close(self) -> None:
        """Let go of the service; a second call does nothing. What it has under way goes on."""
        self._owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def fetch(
        self,
        url: str | Sequence[str],
        headers: Mapping[str, str],
        path: str,
        size: int | None = None,
        digest: Digest | None = None,
        *,
        stopped: threading.Event | None = None,
    ) -> Generator[DownloadProgress, None, None]:
        """Fetch one file to `path`, and yield how far it is, after a second twice a second.

        url: or several of the same file.  headers: sent along.  size, digest: what it must be.
        A file that is at `path` is replaced. To stop early, close the iterator, or set
        `stopped`, which ends it soon: the bytes are kept, and count next time.
        Raises ViaFailed, BadUrl, or Aria2Error if the service cannot be reached at first.
        """
        options: dict[str, object] = {"allow-overwrite": "true"}
        if headers:
            options["header"] = [f"{name}: {value}" for name, value in headers.items()]
        if digest is not None:
            name = {"sha512": "sha-512", "sha256": "sha-256"}.get(digest.algorithm, "md5")
            options["checksum"] = f"{name}={digest.hex}"
        stopped = stopped or threading.Event()
        adding = self._core.loop.submit(self._core.add(url, path, options))
        while not adding.done():  # a service that is away may be asked for half a minute
            if stopped.is_set():
                adding.cancel()
                return
            clock.wait(stopped, FIRST)
        gid = adding.result()
        over, pause = False, FIRST
        try:
            while (progress := self._core.roster.view[gid]).status not in _OVER:
                yield progress
                if clock.wait(stopped, pause):
                    return
                pause = min(2 * pause, EVERY)
            over = True
            yield progress
            self._check(progress, size)
        finally:
            if not over:
                with suppress(Aria2Error, RuntimeError):  # closed: it ends in any case
                    self._core.loop.submit(self._core.cancel(gid)).result()

    def _check(self, progress: DownloadProgress, size: int | None) -> None:
        if progress.status != "complete":
            raise ViaFailed(failure_of(progress))
        if size is not None and progress.total_length != size:
            text = f"{progress.total_length} bytes, expected: {size}"
            raise ViaFailed(Failure("size", text))


def failure_of(progress: DownloadProgress) -> Failure:
    """Return why a download failed, in the words of the failed list."""
    if progress.status == "removed":
        return Failure("cancelled", CODES["cancelled"].meaning)
    reason = _REASONS.get(progress.error_code, "connection-lost")
    if progress.error_code == "22":
        status = status_in(progress.error_message)
        reason = _STATUSES.get(status, "server-error" if status >= 500 else "status")
        reason = "throttled" if status == 429 else reason
    meaning = CODES[reason].meaning
    text = f"{meaning} (aria2 {progress.error_code}: {progress.error_message})"
    return Failure(reason, text[:500])
