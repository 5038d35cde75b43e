"""How a transfer fails.

TransferFailed        an attempt, or the whole, failed; `verdict` says what may follow
|-- Interrupted       somebody asked it to end; what was received is kept
`-- NotWanted         the caller's look at the first answer said: leave it
"""

from __future__ import annotations

import enum
from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.core.classify import verdict_for_status
from holdfast.core.errors import HoldfastError
from holdfast.core.verdict import Kind, Sent, Verdict
from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from holdfast.transfer.plane import Received
    from holdfast.transfer.verify import Digest
    from holdfast.wire.http1 import Head


LONGEST_WAIT = 600.0
"""Seconds. A host that asks for a longer wait ends the transfer; the caller may come back."""


class Reason(enum.StrEnum):
    """What is the matter, where a status or an errno does not say it.

    NETWORK    connection, TLS or name; the verdict has the errno
    STATUS     an answer that says no; the verdict has the status
    CUT        the body ended early
    STALL      silence beyond the limit
    CAPTIVE    a page stands in for the object
    CHANGING   another version each time
    DIGEST     the bytes are not the ones that were promised
    SIZE       the size is not the one that was promised
    TOO_BIG    beyond `max_size`
    REDIRECTS  too many, in a circle, or to where we do not go
    ANSWER     an answer that makes no sense
    NEEDS_URL  the signed address has expired
    CREDENTIALS  nobody can vouch for who asks, until there are other credentials
    CANCELLED  asked to end
    """

    NETWORK = "network"
    STATUS = "status"
    CUT = "cut"
    STALL = "stall"
    CAPTIVE = "captive"
    CHANGING = "changing"
    DIGEST = "digest"
    SIZE = "size"
    TOO_BIG = "too-big"
    REDIRECTS = "redirects"
    ANSWER = "answer"
    NEEDS_URL = "needs-url"
    CREDENTIALS = "credentials"
    CANCELLED = "cancelled"


class TransferFailed(HoldfastError):
    """An attempt failed. verdict: what retries are decided by.  text: for people.

    status: of the answer, or 0.  host: that was asked last, if that was noted.
    """

    code = "HF-1300"

    def __init__(self, reason: Reason, text: str, verdict: Verdict, *, status: int = 0) -> None:
        super().__init__(text)
        self.reason = reason
        self.verdict = verdict
        self.status = status
        self.host = ""

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.reason, str(self), self.verdict), self.__dict__)


class Interrupted(TransferFailed):
    """Somebody asked it to end."""

    def __init__(self) -> None:
        verdict = Verdict(Kind.CANCELLED, Sent.YES, "cancelled", local=True, evidence="cancel")
        super().__init__(Reason.CANCELLED, "", verdict)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), ())


def permanent(word: str) -> Verdict:
    """Return the verdict of an answer that will come again."""
    return Verdict(Kind.PERMANENT, Sent.YES, word, evidence="transfer")


def transient(word: str) -> Verdict:
    """Return the verdict of an answer that may be better next time."""
    return Verdict(Kind.TRANSIENT, Sent.YES, word, evidence="transfer")


def wrong_digest(wanted: Digest, found: str, *, again: bool) -> TransferFailed:
    """Name both digests. again: the bytes may have been damaged on the way, fetch them anew."""
    text = (
        f"the {wanted.algorithm} is not the one expected "
        f"(expected: {wanted.hex}, found: {found}, from: {wanted.source})"
    )
    verdict = transient("digest") if again else permanent("digest")
    return TransferFailed(Reason.DIGEST, text, verdict)


def contradicting(one: Digest, other: Digest) -> TransferFailed:
    """Name two digests that cannot both be right, and where each came from."""
    text = (
        f"two sources contradict each other about the {one.algorithm} "
        f"({one.source}: {one.hex}, {other.source}: {other.hex})"
    )
    return TransferFailed(Reason.DIGEST, text, permanent("digest"))


def failed_exchange(received: Received) -> TransferFailed:
    """Return the failure of an exchange that broke."""
    fault = received.fault
    if fault is None:
        raise ValueError(f"nothing broke: {received.end}")
    if fault.kind is Kind.CANCELLED:
        return Interrupted()
    if fault.reason == "cut short":
        reason = Reason.CUT
    elif fault.reason == "not http":
        reason = Reason.ANSWER
    elif fault.kind is Kind.TIMEOUT:
        reason = Reason.STALL
    else:
        reason = Reason.NETWORK
    return TransferFailed(reason, received.text, fault)


def failed_status(head: Head, *, signed: bool) -> TransferFailed:
    """Return the failure that a status means. signed: a refusal means an expired signature."""
    if signed and head.status in {401, 403}:
        text = f"the signed address is no longer valid (status: {head.status})"
        return TransferFailed(Reason.NEEDS_URL, text, permanent("needs-url"), status=head.status)
    verdict = verdict_for_status(head.status, head.headers, now_wall=clock.wall())
    if head.status < 400:  # a success or redirect that brings no object
        verdict = permanent(f"http {head.status}")
    text = f"status: {head.status}"
    if (verdict.retry_after or 0) > LONGEST_WAIT:
        verdict = replace(verdict, max_retries=0)
        text += f", come back in {verdict.retry_after:.0f} s"
    return TransferFailed(Reason.STATUS, text, verdict, status=head.status)


def captive(media_type: str) -> TransferFailed:
    """Return the failure of a page in the object's place; the object may be back later."""
    text = f"a page ({media_type}) came in place of the file"
    return TransferFailed(Reason.CAPTIVE, text, transient("captive"))
