"""What S3 answers to a listing: a page, or why there is none."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.core.classify import verdict_for_status
from holdfast.core.errors import HoldfastError
from holdfast.core.verdict import Kind, Sent, Verdict
from holdfast.downloads.failures import Failure
from holdfast.downloads.listing import MAX_ERROR, BadListing, PageReader, S3Error, read_error
from holdfast.runtime.clock import clock
from holdfast.transfer.failures import (
    LONGEST_WAIT,
    Reason,
    TransferFailed,
    captive,
    failed_exchange,
    transient,
)
from holdfast.transfer.plane import End, Received, Take

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from holdfast.downloads.listing import Page
    from holdfast.wire.http1 import Head

PAGE_SECONDS = 120.0
"""Seconds for the body of one page, however slowly it drips."""


class Asked(HoldfastError):
    """The service answered, but not with a page. verdict: what retries are decided by.

    is_token: it is the token that it does not take.
    """

    def __init__(self, reason: str, text: str, verdict: Verdict, *, is_token: bool = False) -> None:
        super().__init__(text)
        self.reason = reason
        self.verdict = verdict
        self.is_token = is_token

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.reason, str(self), self.verdict), self.__dict__)

    def failure(self) -> Failure:
        """Return the record of it; the policy's note says how often it was tried."""
        notes = "; ".join(getattr(self, "__notes__", []))
        tried = f" ({notes})" if notes and self.verdict.kind is not Kind.PERMANENT else ""
        return Failure(self.reason, f"{self}{tried}"[:500])


class Answer:
    """Takes one answer as it comes (a `Sink`). Afterwards `page` is set, or `error`."""

    def __init__(self) -> None:
        self.page: Page | None = None
        self.error = S3Error()
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self._reader: PageReader | None = None
        self._body = bytearray()
        self._until = 0.0

    def accept(self, head: Head) -> Take:
        """Begin."""
        self.status, self.headers = head.status, head.headers
        self._until = clock.monotonic() + PAGE_SECONDS
        if head.status != 200:
            return Take(MAX_ERROR)
        media_type = head.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type == "text/html":
            raise captive(media_type)
        self._reader = PageReader()
        return Take()

    def write(self, data: memoryview) -> None:
        """Take bytes of the body."""
        self._check_time()
        if self._reader is None:
            self._body += data
        else:
            with _judging():
                self._reader.feed(data)

    def lull(self) -> None:
        """Note that nothing comes."""
        self._check_time()

    def take(self, received: Received) -> None:
        """End. Raises TransferFailed for an exchange that broke and Asked for a bad page."""
        if received.end is End.BROKEN:
            raise failed_exchange(received)
        if self._reader is None:
            self.error = read_error(bytes(self._body))
        else:
            with _judging():
                self.page = self._reader.close()

    def _check_time(self) -> None:
        if clock.monotonic() > self._until:
            text = f"a page of the listing did not come within {PAGE_SECONDS:.0f} s"
            raise TransferFailed(Reason.STALL, text, transient("slow page"))


@contextmanager
def _judging() -> Iterator[None]:
    """Say what a page that cannot be read means for retries.

    One that is cut may be whole next time. What is not S3's way of writing may be somebody
    else's answer (a portal, a proxy) and is asked for once more.
    """
    try:
        yield
    except BadListing as error:
        verdict = transient("bad listing")
        if not error.cut:
            verdict = replace(verdict, max_retries=1)
        raise Asked("bad-listing", str(error), verdict) from None


_BY_CODE = {"NoSuchBucket": "no-bucket", "InvalidBucketName": "no-bucket"}
# What services that are not AWS say with a 400 to who does not sign: rclone the first.
_UNSIGNED = {"UnsupportedAlgorithm", "MissingSecurityHeader"}
_BY_STATUS = {401: "unauthorized", 403: "forbidden", 404: "not-found"}
# Who asks is not known, or cannot prove it: then it is not about the bucket.
ABOUT_CREDENTIALS = {
    "InvalidAccessKeyId": "the access key is not known there",
    "SignatureDoesNotMatch": "the signature is wrong: check the secret key",
    "ExpiredToken": "the session token has expired: renew the credentials",
    "InvalidToken": "the session token is not valid",
    "RequestTimeTooSkewed": "the clock of this machine is wrong by more than 15 minutes",
}


def refusal(answer: Answer, source: str, *, note: str, resumes: bool) -> Asked:
    """Return the failure that an answer without a page means.

    note: how no credentials came to be used; empty if the request was signed.
    resumes: a token was sent along.
    """
    status, code = answer.status, answer.error.code
    verdict = _verdict(answer)
    if status < 400:
        verdict = Verdict(Kind.PERMANENT, Sent.YES, f"http {status}", evidence="status")
    if verdict.kind is Kind.THROTTLED:
        reason = "throttled"
    elif note and code in _UNSIGNED:
        reason = "forbidden"
    else:
        reason = _BY_CODE.get(code) or _BY_STATUS.get(status, "")
        reason = reason or ("server-error" if status >= 500 else "status")
    is_token = resumes and status == 400 and code == "InvalidArgument"
    text = f"`{source}`: {_explained(answer, note)}"
    return Asked(reason, text, verdict, is_token=is_token)


def _verdict(answer: Answer) -> Verdict:
    verdict = verdict_for_status(
        answer.status,
        answer.headers,
        now_wall=clock.wall(),
        provider="aws",
        code=answer.error.code or None,
    )
    if (verdict.retry_after or 0) > LONGEST_WAIT:
        verdict = replace(verdict, max_retries=0)
    return verdict


def _explained(answer: Answer, note: str) -> str:
    code = answer.error.code
    word = f"{code}, status: {answer.status}" if code else f"status: {answer.status}"
    if code == "NoSuchBucket":
        return f"there is no such bucket ({word})"
    if code in ABOUT_CREDENTIALS:
        anonymous = "; a public bucket can be read with `--s3-auth anonymous`"
        return f"{ABOUT_CREDENTIALS[code]} ({word}){anonymous}"
    if answer.status in {401, 403} or (note and code in _UNSIGNED):
        if note:
            return (
                f"the listing is refused ({word}): the bucket may need credentials "
                f"(`--s3-auth chain`), or let objects be read but not listed; {note}"
            )
        return f"the credentials may not list this bucket ({word})"
    said = "".join(char if char.isprintable() else "_" for char in answer.error.message)
    return f"the listing is refused ({word}{f': {said[:200]}' if said else ''})"
