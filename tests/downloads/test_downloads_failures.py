"""Failures: every way to fail has its code, its words and its next step, and the page says so."""

from __future__ import annotations

import argparse
import errno
import pickle
import re
from pathlib import Path

import pytest

import holdfast as hf
from holdfast.cli import cmd_get
from holdfast.core.classify import classify
from holdfast.core.verdict import Sent, Verdict
from holdfast.downloads.failures import CODES, MAX_TEXT, DownloadError, failure_of
from holdfast.transfer.failures import Interrupted, Reason, TransferFailed, permanent, wrong_digest
from holdfast.transfer.verify import Digest

PAGE = (Path(__file__).parents[2] / "docs" / "get.md").read_text(encoding="utf-8")


def test_the_page_has_every_code_as_it_is() -> None:
    for reason, row in CODES.items():
        assert f"| {row.code} | `{reason}` | {row.meaning} | {row.next} |" in PAGE


def test_codes_are_unique_and_their_words_have_one_form() -> None:
    assert len({row.code for row in CODES.values()}) == len(CODES)
    for row in CODES.values():
        assert re.fullmatch(r"HF-1[0-9]{3}", row.code)
        assert not row.meaning.endswith(".")
        assert row.next.endswith(".")
        assert "!" not in row.meaning + row.next


def test_the_page_has_every_option() -> None:
    parser = argparse.ArgumentParser()
    cmd_get.configure(parser)
    options = {o for action in parser._actions for o in action.option_strings}
    for option in options - {"-h", "--help"}:
        assert f"`{option}" in PAGE, option


def network(error: OSError) -> TransferFailed:
    return TransferFailed(Reason.NETWORK, str(error), classify(error, connecting=True))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (network(ConnectionRefusedError(errno.ECONNREFUSED, "x")), "refused"),
        (network(TimeoutError("x")), "connect-timeout"),
        (network(OSError(errno.EHOSTUNREACH, "x")), "unreachable"),
        (network(ConnectionResetError(errno.ECONNRESET, "x")), "connection-lost"),
        (OSError(errno.ENOSPC, "x"), "disk"),
        (OSError(errno.EDQUOT, "x"), "disk"),
        (OSError(errno.EACCES, "x"), "file-permission"),
        (OSError(errno.EROFS, "x"), "file-permission"),
        (OSError(errno.ELOOP, "x"), "unsafe-target"),
        (OSError(errno.ENOTDIR, "x"), "unsafe-target"),
        (OSError(errno.EIO, "x"), "file-error"),
        (Interrupted(), "interrupted"),
        (hf.CircuitOpen("x"), "policy"),
        (LookupError("x"), "unknown"),
    ],
)
def test_an_error_is_recorded_by_what_it_is(error: Exception, reason: str) -> None:
    assert failure_of(error, "host").reason == reason


def test_where_the_way_is_the_matter_the_host_and_the_tries_are_named() -> None:
    error = network(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))
    error.add_note("8 attempts in 31 s; no attempts left")
    assert failure_of(error, "x.example:81").text == (
        "the connection was refused (host: x.example:81) (8 attempts in 31 s; no attempts left)"
    )


def test_a_digest_says_both_and_no_tries() -> None:
    error = wrong_digest(Digest("md5", "0" * 32), "1" * 32, again=False)
    error.add_note("2 attempts in 1 s; not worth repeating")
    text = failure_of(error, "host").text
    assert "0" * 32 in text
    assert "1" * 32 in text
    assert "attempts" not in text


def test_texts_are_bounded() -> None:
    error = TransferFailed(Reason.ANSWER, "ä" * 2000, permanent("x"))
    assert len(failure_of(error).text.encode()) <= MAX_TEXT


def test_errors_go_through_a_pickle() -> None:
    errors = [
        DownloadError("journal-busy", "why", exit_code=75),
        TransferFailed(Reason.CUT, "cut", Verdict(hf.TRANSIENT, Sent.YES), status=200),
        Interrupted(),
    ]
    for error in errors:
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.code) == (type(error), str(error), error.code)
        assert vars(again) == vars(error)


def test_what_goes_to_the_journal_holds_no_secret() -> None:
    error = ValueError("https://u:hunter2@h/k?X-Amz-Signature=abcdef answered strangely")
    failure = failure_of(error)
    assert failure.reason == "unknown"
    assert "hunter2" not in failure.text
    assert "abcdef" not in failure.text
    assert "https://***@h/k?X-Amz-Signature=*** answered strangely" in failure.text
