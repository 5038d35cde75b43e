"""One item, fetched by aria2: it fills the place of the part, and all else stays ours.

Plan, journal, names, verification, the final rename, the failed list and the report are those of
every other item (see `fetch`). aria2 brings the bytes: it resumes by its own control file beside
a part of its own, whose whole content then becomes our part. Whether the object is still the
same is asked by `aria2.supervisor` before each resume, but nobody can ask that in the middle of
one of aria2's own exchanges. So what no digest vouches for is `unverified`.

A service on another machine writes below its own directory, and we see nothing of it: there is
no part, no rename, and no check.
"""

from __future__ import annotations

import errno
import os
from contextlib import closing
from typing import TYPE_CHECKING, Any

from holdfast.core import events
from holdfast.downloads.aria2.errors import Aria2AuthError, Aria2Unavailable
from holdfast.downloads.aria2.item import with_credentials
from holdfast.downloads.aria2.via import ViaFailed
from holdfast.downloads.fetch import Fetch
from holdfast.downloads.leavings import left_by_aria2, sweep_after_aria2
from holdfast.downloads.present import Stop
from holdfast.downloads.states import Input, State
from holdfast.runtime.clock import clock
from holdfast.runtime.files import files
from holdfast.runtime.hub import hub
from holdfast.transfer.failures import Interrupted, Reason, TransferFailed, permanent, wrong_digest
from holdfast.transfer.verify import Hasher
from holdfast.transfer.wanted import Whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from holdfast.downloads.addresses import Address
    from holdfast.downloads.aria2.model import DownloadProgress
    from holdfast.downloads.aria2.via import Via
    from holdfast.downloads.failures import Failure
    from holdfast.downloads.fetch import Outcome
    from holdfast.transfer.traffic import Flow
    from holdfast.transfer.verify import Digest
    from holdfast.transfer.wanted import Attempt

TELL_EVERY = 0.5
_BLOCK = 1 << 20
_KNOWN = ("sha512", "sha256", "md5")
"""Digests that aria2 can check by itself, the strongest first; then it repairs, too."""


class ByAria2(Fetch):
    """Brings one item to an end by aria2. via: the service."""

    def __init__(self, *given: Any, via: Via, **options: Any) -> None:
        super().__init__(*given, **options)
        self._via = via
        self._resumes = False
        self._base: int | None = None
        self._came = 0
        self._told_at = float("-inf")

    def run(self, attempts: Callable[[str], Iterable[Attempt]]) -> Outcome:
        """Do it (see `Fetch.run`). attempts: not used, the repeats are aria2's supervisor's."""
        try:
            return super().run(attempts)
        finally:
            if self._state is State.CANCELLED:
                sweep_after_aria2(self._into, self.item)

    def _run(self, attempts: Callable[[str], Iterable[Attempt]]) -> Outcome:
        if self._via.shared:
            return super()._run(attempts)
        if self._state is State.FINISHING:
            self._move(Input.LOST)
        self._move(Input.START)
        whole = self._fetch(attempts)
        self._move(Input.PROVEN)
        return self._done(whole.size, whole.verified, "")

    # -- the transfer ------------------------------------------------------------------------------

    def _fetch(self, attempts: Callable[[str], Iterable[Attempt]]) -> Whole:  # noqa: ARG002 - see `run`
        address = self._address
        if address is None:
            text = "its address is signed or had headers, and these are not stored"
            raise TransferFailed(Reason.NEEDS_URL, text, permanent("needs-url"))
        try:
            with self._traffic.flow(address.url.host, self._cancel) as flow:
                size = self._brought(address, flow)
        except ViaFailed as error:
            if error.failure.reason == "disk":  # waited for, as if we had written
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
            raise Stop(error.failure.reason, error.failure.text) from None
        except (Aria2Unavailable, Aria2AuthError) as error:
            raise Stop("no-aria2", str(error)) from None
        self._move(Input.WHOLE)
        return self._verified(size) if self._via.shared else Whole(size, "unverified")

    def _brought(self, address: Address, flow: Flow) -> int:
        """Let aria2 fetch the object to where our part would be; return its size."""
        digest = self._best()
        urls = [with_credentials(address.url)]
        if digest is not None:  # bytes of several addresses are mixed only if they can be checked
            urls += [with_credentials(url) for url in address.mirrors]
        headers: Mapping[str, str] = dict(address.headers)
        if address.access is not None:
            headers = {**headers, **address.access.headers(address.url)}
        self._resumes = self._via.shared and bool(left_by_aria2(self._into, self.item))
        where = self._part_path if self._via.shared else self._target
        fetching = self._via.fetch(
            urls, headers, where, self.item.size, digest, stopped=self._cancel.event
        )
        size = 0
        with closing(fetching):
            for progress in fetching:
                size = progress.total_length
                self._seen(progress, flow, address.url.host)
        if self._cancel.is_set():
            raise Interrupted
        return size

    def _best(self) -> Digest | None:
        known = {digest.algorithm: digest for digest in self._digests}
        return next((known[name] for name in _KNOWN if name in known), None)

    def _seen(self, progress: DownloadProgress, flow: Flow, host: str) -> None:
        """Look at how far it is: count, tell, and end what is not wanted."""
        total, done = progress.total_length, progress.completed_length
        most = self._options.max_size
        if total > most:
            text = f"{total} bytes, the limit is {most}"
            raise TransferFailed(Reason.TOO_BIG, text, permanent("too big"))
        if self._present is not None and total:
            self._present.judge((), total)
        if self._base is None:
            self._base = done if self._resumes else 0  # of an earlier run
        if done - self._base > self._came:
            flow.moved(done - self._base - self._came)
            self._came = done - self._base
        now = clock.monotonic()
        if now - self._told_at < TELL_EVERY or not hub.listening:
            return
        self._told_at = now
        rate = float(progress.download_speed)
        hub.publish(
            events.Progress(
                time=now,
                policy="downloads",
                key=host,
                bytes=done,
                size=total or None,
                rate=rate,
                eta=(total - done) / rate if rate and total else None,
            )
        )

    # -- afterwards --------------------------------------------------------------------------------

    def _verified(self, size: int) -> Whole:
        """Check what came. Raises TransferFailed."""
        info = files().stat(self._part_path)
        if info is None or info.size != size:
            found = "nothing" if info is None else f"{info.size} bytes"
            text = f"aria2 said that it wrote {size} bytes, and there is {found}"
            raise TransferFailed(Reason.SIZE, text, permanent("size"))
        if not self._digests:
            return Whole(size, "unverified")
        hasher = Hasher(digest.algorithm for digest in self._digests)
        with closing(files().open(self._part_path)) as part:
            while data := part.pread(_BLOCK, hasher.position):
                hasher.update(data)
                if self._cancel.is_set():
                    raise Interrupted
        for digest in self._digests:
            found = hasher.hex(digest.algorithm)
            if found != digest.hex:
                files().unlink(self._part_path)
                raise wrong_digest(digest, found, again=False)
        best = self._best() or self._digests[0]
        return Whole(size, best.algorithm, best.hex, best.source)

    def _end(self, happened: Input, failure: Failure) -> Outcome:
        if failure.reason == "no-aria2":
            happened = Input.PAUSE  # it is not the file's fault
        return super()._end(happened, failure)

    @property
    def _received(self) -> int:
        return self._came

    @property
    def _wasted(self) -> int:
        return 0  # what aria2 has received, it keeps
