"""Every error of downloads: its code, what it means, and what to do next.

One table. The texts are completed by `Failure` and by the errors below; `docs/get.md` has a
row for each code, and a test compares the two.

    DownloadError           refused before anything was fetched
    (Failure)               a record of one item's end; never an exception object
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import NamedTuple

from holdfast.core.errors import DeadlineExceeded, HoldfastError, Rejected
from holdfast.core.verdict import Kind
from holdfast.transfer.failures import Reason, TransferFailed

MAX_TEXT = 500


class Row(NamedTuple):
    """What is said of one code. next: the next step, one sentence."""

    code: str
    meaning: str
    next: str


# Keyed by the `reason` of a failure: a short stable word that programs may compare.
CODES = {
    # -- refused: usage, plan, journal ---------------------------------------------------------
    "bad-url": Row("HF-1001", "not a URL that can be fetched", "Write it as `https://host/path`."),
    "bad-digest": Row("HF-1002", "not a digest", "Give the digest in hexadecimal digits."),
    "bad-option": Row("HF-1003", "an option that cannot be", "See `holdfast get --help`."),
    "bad-output": Row(
        "HF-1004",
        "the output directory cannot be used",
        "Name a directory that can be written with `-o DIR`.",
    ),
    "journal-busy": Row(
        "HF-1005",
        "another process works on this journal",
        "Wait for it, or use another `-o DIR`; `holdfast get status -o DIR` shows how far it is.",
    ),
    "journal-broken": Row(
        "HF-1006",
        "the journal cannot be trusted",
        "Add `--rebuild-journal`: what can be trusted of it is kept, and finished files stay.",
    ),
    "journal-newer": Row("HF-1007", "a newer version wrote the journal", "Update holdfast."),
    "no-journal": Row(
        "HF-1008", "there is no journal", "Start with `holdfast get URL -o DIR`, or check `-o`."
    ),
    "bad-list": Row(
        "HF-1009",
        "lines of a list cannot be used",
        "Correct these lines; nothing was fetched.",
    ),
    "missing-extra": Row(
        "HF-1010",
        "an optional part is not installed",
        "Install it: `pip install 'holdfast[s3]'`.",
    ),
    "no-credentials": Row(
        "HF-1011",
        "no credentials can be found",
        "Set AWS_ACCESS_KEY_ID or AWS_PROFILE, or try `--s3-auth anonymous`.",
    ),
    "no-room": Row(
        "HF-1012",
        "there is no room for all that is planned",
        "Make room, choose less, or add `--no-space-check`.",
    ),
    # -- the way there -------------------------------------------------------------------------
    "no-such-host": Row(
        "HF-1101", "the name does not resolve", "Check the spelling and the network."
    ),
    "refused": Row(
        "HF-1102", "the connection was refused", "Check host and port, and that the server runs."
    ),
    "connect-timeout": Row(
        "HF-1103", "no connection in time", "Check the network, or raise `--connect-timeout`."
    ),
    "connection-lost": Row(
        "HF-1104", "the connection broke too often", "Run it again: it goes on where it stopped."
    ),
    "stalled": Row("HF-1105", "no byte came in time", "Run it again, or raise `--stall-timeout`."),
    "unreachable": Row("HF-1106", "the host cannot be reached", "Check the network."),
    "certificate": Row(
        "HF-1107",
        "the certificate cannot be verified",
        "Check the address, this machine's clock and its certificates (SSL_CERT_FILE).",
    ),
    "tls": Row("HF-1108", "TLS failed", "Check that this port speaks https."),
    "redirects": Row("HF-1109", "a redirect that is not followed", "Check the address by hand."),
    "bad-answer": Row(
        "HF-1110", "the server's answers make no sense", "Check that this port speaks HTTP."
    ),
    "denied-address": Row(
        "HF-1111",
        "an address that may not be asked",
        "If you trust who named it, add `--allow-private`; a metadata service is never asked.",
    ),
    "proxy": Row(
        "HF-1112",
        "the proxy does not do it",
        "Check `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`.",
    ),
    "no-aria2": Row(
        "HF-1113", "the aria2 service does not answer", "Check that it runs, then run it again."
    ),
    # -- local files -----------------------------------------------------------------------------
    "exists": Row(
        "HF-1201",
        "another file has this name",
        "Move it away, or use another `-o DIR`; it was not touched.",
    ),
    "unsafe-target": Row(
        "HF-1202",
        "something that is no plain file is in the way",
        "Remove the link, directory or device, or use another `-o DIR`.",
    ),
    "name-collision": Row(
        "HF-1203",
        "another item has the same name",
        "Fetch it into another directory.",
    ),
    "disk": Row(
        "HF-1204", "the disk is full", "Make room: it goes on by itself, or when it is run again."
    ),
    "file-permission": Row(
        "HF-1205", "the file may not be written", "Check the rights of the output directory."
    ),
    "file-error": Row(
        "HF-1206", "the file system failed", "Check the disk; what is journaled is kept."
    ),
    # -- what the server says ------------------------------------------------------------------
    "not-found": Row("HF-1301", "the server does not have it", "Check the path of the URL."),
    "forbidden": Row("HF-1302", "the server refuses it", "Check that you may read it."),
    "unauthorized": Row(
        "HF-1303",
        "the server wants credentials",
        "Put them into the URL: `https://user:pass@host`.",
    ),
    "status": Row(
        "HF-1304", "the server says no", "Check the request; it will not help to repeat."
    ),
    "server-error": Row("HF-1305", "the server keeps failing", "Run it again later."),
    "throttled": Row("HF-1306", "the server asks for less load", "Run it again later."),
    "captive": Row(
        "HF-1307",
        "a page came in place of the file",
        "Log in to the network or site, or add `--allow-html` if the page is meant.",
    ),
    "no-bucket": Row("HF-1308", "the bucket does not exist", "Check its name and the endpoint."),
    "no-match": Row(
        "HF-1309", "nothing is there that was asked for", "Check prefix, globs and dates."
    ),
    "archived": Row(
        "HF-1310",
        "the object lies in an archive",
        "Have it restored (`aws s3api restore-object`), then run it again.",
    ),
    "bad-listing": Row(
        "HF-1311",
        "the listing cannot be trusted",
        "Run it again; if that does not help, check that the address speaks S3.",
    ),
    # -- is it right -------------------------------------------------------------------------------
    "digest": Row(
        "HF-1401",
        "the file is not the one that was promised",
        "Check the digest; if it was mistyped, run again with the right one: nothing is lost.",
    ),
    "changing": Row(
        "HF-1402", "the object changes while it is fetched", "Run it again when it is stable."
    ),
    "size": Row("HF-1403", "the size is not the one expected", "Check the size and the address."),
    "too-big": Row("HF-1404", "larger than the limit", "Raise `--max-size` if that is meant."),
    # -- control -----------------------------------------------------------------------------------
    "interrupted": Row("HF-1501", "interrupted", "Run it again: it goes on where it stopped."),
    "needs-url": Row(
        "HF-1502",
        "the signed address is not stored or has expired",
        "Give a fresh URL for it: what was fetched is kept.",
    ),
    "cancelled": Row("HF-1503", "cancelled", "Add it again to fetch it."),
    "policy": Row("HF-1504", "the policy refused it", "Run it again later."),
    "paused": Row("HF-1505", "paused", "Resume it."),
    "unknown": Row("HF-1599", "a failure that is not classified", "Run it again."),
}


class DownloadError(HoldfastError):
    """Refused before anything was fetched. reason: a key of `CODES`; text: what and why."""

    def __init__(self, reason: str, text: str, *, next_step: str = "", exit_code: int = 2) -> None:
        super().__init__(text)
        self.reason = reason
        self.code = CODES[reason].code
        self.next_step = next_step or CODES[reason].next
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.reason, str(self)), self.__dict__)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an item ended without its file. Data only, at most 500 bytes of text."""

    reason: str
    text: str

    @property
    def code(self) -> str:
        """The stable code."""
        return CODES[self.reason].code

    @property
    def next_step(self) -> str:
        """What the user can do."""
        return CODES[self.reason].next


_BY_ERRNO = {
    errno.ENOSPC: "disk",
    errno.EDQUOT: "disk",
    errno.EACCES: "file-permission",
    errno.EPERM: "file-permission",
    errno.EROFS: "file-permission",
    errno.ELOOP: "unsafe-target",
    errno.EISDIR: "unsafe-target",
    errno.ENOTDIR: "unsafe-target",
    errno.EEXIST: "unsafe-target",
}
_BY_STATUS = {
    401: "unauthorized",
    407: "proxy",
    403: "forbidden",
    404: "not-found",
    410: "not-found",
}
_BY_REASON = {
    Reason.CUT: "connection-lost",
    Reason.STALL: "stalled",
    Reason.CAPTIVE: "captive",
    Reason.CHANGING: "changing",
    Reason.DIGEST: "digest",
    Reason.SIZE: "size",
    Reason.TOO_BIG: "too-big",
    Reason.REDIRECTS: "redirects",
    Reason.ANSWER: "bad-answer",
    Reason.NEEDS_URL: "needs-url",
    Reason.CREDENTIALS: "no-credentials",
    Reason.CANCELLED: "interrupted",
}
_BY_WORD = {
    "ECONNREFUSED": "refused",
    "ETIMEDOUT": "connect-timeout",
    "certificate": "certificate",
    "address": "denied-address",
    "proxy": "proxy",
    "EHOSTUNREACH": "unreachable",
    "ENETUNREACH": "unreachable",
    "EHOSTDOWN": "unreachable",
    "ENETDOWN": "unreachable",
}


_TRIED = ("HF-11", "HF-1305", "HF-1306", "HF-1307")


def failure_of(error: Exception, host: str = "") -> Failure:
    """Return the record of what ended an item. The policy's note (attempts) goes along.

    host: whom it was about, named where the way there is the matter.
    """
    if isinstance(error, TransferFailed):
        reason = _transfer_reason(error)
        text = _explained(reason, error, host)
    elif isinstance(error, Rejected | DeadlineExceeded):
        reason = "policy"
        text = f"{CODES[reason].meaning} ({type(error).__name__}: {error})"
    elif isinstance(error, OSError):
        reason = _BY_ERRNO.get(error.errno or 0, "file-error")
        text = f"{CODES[reason].meaning} ({error.strerror or error})"
    else:
        reason = "unknown"
        text = f"{CODES[reason].meaning} ({type(error).__name__}: {error})"
    notes = "; ".join(getattr(error, "__notes__", []))
    # How often it was tried matters where trying again is the cure, not for a wrong digest.
    if notes and CODES[reason].code.startswith(_TRIED):
        text += f" ({notes})"
    from holdfast.telemetry import redact  # noqa: PLC0415 - 10 ms, only where something failed

    return Failure(reason, _cut(redact.text(text)))  # it goes to the journal and the report


def _transfer_reason(error: TransferFailed) -> str:
    if error.reason in _BY_REASON:
        return _BY_REASON[error.reason]
    if error.reason is Reason.STATUS:
        if error.verdict.kind is Kind.THROTTLED:
            return "throttled"
        found = _BY_STATUS.get(error.status)
        return found or ("server-error" if error.status >= 500 else "status")
    word = error.verdict.reason
    if word.startswith(("EAI_", "gaierror")):
        return "no-such-host"
    if word in _BY_WORD:
        return _BY_WORD[word]
    return "tls" if word.startswith(("SSL", "ssl")) else "connection-lost"


def _explained(reason: str, error: TransferFailed, host: str) -> str:
    if error.verdict.evidence == "transfer" and reason not in {"status", "needs-url"}:
        return str(error)  # our own words, which say it all
    row = CODES[reason]
    details = [f"host: {host}"] if host and row.code.startswith("HF-11") else []
    if str(error) and reason not in {"refused", "no-such-host"}:  # it would say the same again
        details.append(str(error))
    return f"{row.meaning} ({'; '.join(details)})" if details else row.meaning


def _cut(text: str) -> str:
    return text.encode("utf-8", "replace")[:MAX_TEXT].decode("utf-8", "ignore")
