"""Signs the requests for objects of a bucket, in whatever process they are made.

A listing that was signed says so in the journal, and nothing more: the credentials are found
anew. What S3 says against a request is read: a clock that is wrong is set by the server's, a
session token that has expired is looked for once more. What cannot be put right leaves the
file as it is, to go on when there are credentials.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from holdfast.downloads.failures import DownloadError
from holdfast.downloads.listing import read_error
from holdfast.downloads.s3_answers import ABOUT_CREDENTIALS
from holdfast.transfer.failures import Reason, TransferFailed, permanent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast.downloads.s3 import Bucket
    from holdfast.wire.http1 import Head
    from holdfast.wire.urls import Url

_STALE = frozenset({"ExpiredToken", "TokenRefreshRequired", "InvalidToken"})


class S3Access:
    """Vouches for requests to one bucket (an `Access`). For any thread.

    opened: makes the bucket when it is first needed; raises DownloadError for want of
    credentials.
    """

    def __init__(self, opened: Callable[[], Bucket]) -> None:
        self._opened = opened
        self._lock = threading.Lock()
        self._known: Bucket | None = None

    def headers(self, url: Url) -> Mapping[str, str]:
        """Return headers that prove who asks, good for some minutes."""
        try:
            return self._bucket().headers_for(url.full(), checksums=True)
        except DownloadError as error:
            raise _nobody(str(error)) from None

    def refused(self, head: Head, body: bytes) -> bool:
        """Put right what can be, by what S3 says; whether to ask once more."""
        code = read_error(body).code
        try:
            bucket = self._bucket()
            if code == "RequestTimeTooSkewed":
                return bucket.set_clock(head.headers)
            if code not in _STALE or not bucket.is_signed:
                return False
            if bucket.renew():
                return True
        except DownloadError as error:
            raise _nobody(str(error), head.status) from None
        raise _nobody(ABOUT_CREDENTIALS.get(code, code), head.status)

    def _bucket(self) -> Bucket:
        with self._lock:
            if self._known is None:
                self._known = self._opened()
            return self._known


def _nobody(text: str, status: int = 0) -> TransferFailed:
    return TransferFailed(Reason.CREDENTIALS, text, permanent("credentials"), status=status)
