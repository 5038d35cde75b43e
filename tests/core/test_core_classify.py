from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import http.client
import io
import ssl
import subprocess
import sys
import urllib.error
from email.message import Message
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.classify import classify, type_name, with_kind
from holdfast.core.errors import (
    BudgetEmpty,
    BulkheadFull,
    CircuitOpen,
    DeadlineExceeded,
    RateLimited,
)
from holdfast.core.verdict import (
    AUTH,
    CANCELLED,
    CONCURRENCY,
    CONNECT,
    PERMANENT,
    THROTTLED,
    TIMEOUT,
    TRANSIENT,
    UNKNOWN,
    Kind,
    Sent,
    Verdict,
)

if TYPE_CHECKING:
    from holdfast.core.tables.errnos import Phase

RESET = ConnectionResetError(errno.ECONNRESET, "text")


class Strange(Exception):
    """A type that no table knows."""


def raised(error: BaseException, *, cause: BaseException | None = None) -> BaseException:
    if cause is not None:
        error.__cause__ = cause
        error.__suppress_context__ = True
    return error


def while_handling(error: BaseException, context: BaseException) -> BaseException:
    error.__context__ = context
    return error


def http_error(status: int, **headers: str) -> urllib.error.HTTPError:
    message = Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return urllib.error.HTTPError("http://a/", status, "text", message, io.BytesIO())


# The caller's word


def test_a_hook_goes_before_everything() -> None:
    mine = Verdict(THROTTLED, retry_after=3)
    assert classify(RESET, hook=lambda _: mine) is mine
    assert classify(CircuitOpen("text"), hook=lambda _: mine) is mine


def test_a_hook_may_name_the_kind_and_the_facts_stay() -> None:
    verdict = classify(ConnectionRefusedError(), hook=lambda _: PERMANENT)
    assert (verdict.kind, verdict.sent, verdict.evidence) == (PERMANENT, Sent.NO, "hook")
    known = classify(Strange(), hook=lambda _: TRANSIENT)
    assert (known.kind, known.max_retries) == (TRANSIENT, None)
    assert classify(RESET, hook=lambda _: UNKNOWN).max_retries == 1


def test_a_hook_may_leave_it_to_the_tables() -> None:
    seen: list[object] = []
    assert classify(RESET, hook=seen.append) == classify(RESET)
    assert seen == [RESET]


@pytest.mark.parametrize("answer", [TRANSIENT | TIMEOUT, Kind(0), "transient", True, 0])
def test_a_hook_that_names_no_single_kind_is_refused(answer: Kind) -> None:
    with pytest.raises(ValueError, match="neither a Verdict, nor one Kind, nor None"):
        classify(RESET, hook=lambda _: answer)


def test_what_a_hook_raises_passes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        classify(RESET, hook=lambda _: Kind(1 // 0))


def test_an_error_may_carry_its_verdict() -> None:
    mine = Verdict(AUTH)
    for error in (Strange(), TimeoutError(), KeyError()):
        error.verdict = mine  # type: ignore[union-attr] # any attribute may be set
        assert classify(error) is mine
        assert classify(raised(Strange(), cause=error)) is mine
    strange = Strange()
    strange.verdict = "guilty"  # type: ignore[attr-defined] # not ours
    assert classify(strange).kind is UNKNOWN


# Phases


@pytest.mark.parametrize(
    "error",
    [
        RESET,
        TimeoutError(),
        EOFError(),
        ssl.SSLEOFError(8, "text"),
        OSError("all addresses failed"),
    ],
)
def test_before_the_connection_is_up_nothing_was_sent(error: Exception) -> None:
    verdict = classify(error, connecting=True)
    assert (verdict.kind, verdict.sent) == (CONNECT, Sent.NO)


def test_a_fault_of_this_machine_stays_one_while_connecting() -> None:
    verdict = classify(OSError(errno.EMFILE, "text"), connecting=True)
    assert (verdict.kind, verdict.local, verdict.sent) == (CONCURRENCY, True, Sent.NO)


def test_a_missing_unix_socket_is_no_connection_and_a_missing_file_is_unknown() -> None:
    missing = FileNotFoundError(errno.ENOENT, "text")
    assert classify(missing, connecting=True).kind is CONNECT
    assert classify(missing).kind is UNKNOWN


def test_an_end_of_file_in_tls_counts_as_a_broken_connection_once_it_was_up() -> None:
    error = ssl.SSLEOFError(8, "text")
    assert classify(error, connecting=False).kind is TRANSIENT
    assert (classify(error).kind, classify(error).sent) == (CONNECT, Sent.MAYBE)


@pytest.mark.parametrize("connecting", [True, False, None])
def test_a_wrong_certificate_is_permanent_in_every_phase(*, connecting: bool | None) -> None:
    verdict = classify(ssl.SSLCertVerificationError(1, "text"), connecting=connecting)
    assert (verdict.kind, verdict.sent) == (PERMANENT, Sent.NO)


def test_an_answer_is_an_answer_in_every_phase() -> None:
    verdict = classify(http_error(503), connecting=True)
    assert (verdict.kind, verdict.sent) == (TRANSIENT, Sent.YES)


# Inside


@pytest.mark.parametrize(
    "error",
    [
        raised(Strange(), cause=RESET),
        while_handling(Strange(), RESET),
        Strange(RESET, "text"),
        urllib.error.URLError(RESET),
        raised(Strange(), cause=raised(Strange(), cause=urllib.error.URLError(RESET))),
    ],
)
def test_the_cause_inside_decides_for_a_type_that_is_not_known(error: BaseException) -> None:
    assert classify(error) == classify(RESET)


def test_a_task_groups_only_failure_decides_and_several_do_not() -> None:
    assert classify(ExceptionGroup("text", [RESET])).kind is TRANSIENT
    assert classify(ExceptionGroup("text", [RESET, KeyError()])).kind is UNKNOWN


def test_an_explicit_cause_goes_before_the_context() -> None:
    error = while_handling(raised(Strange(), cause=TimeoutError()), RESET)
    error.__suppress_context__ = False
    assert classify(error).kind is TIMEOUT


def test_a_suppressed_context_does_not_count() -> None:
    error = while_handling(Strange(), RESET)
    error.__suppress_context__ = True
    assert classify(error).kind is UNKNOWN


def test_a_mistake_that_was_being_handled_says_nothing_about_the_error() -> None:
    assert classify(while_handling(Strange(), KeyError())).kind is UNKNOWN
    assert classify(raised(Strange(), cause=KeyError())).kind is PERMANENT


@pytest.mark.parametrize(
    "cancelled", [asyncio.CancelledError(), concurrent.futures.CancelledError(), GeneratorExit()]
)
def test_a_cancellation_inside_is_not_the_callers(cancelled: BaseException) -> None:
    assert classify(cancelled).kind is CANCELLED
    assert classify(raised(TimeoutError(), cause=cancelled)).kind is TIMEOUT
    assert classify(raised(Strange(), cause=cancelled)).kind is UNKNOWN


def test_an_error_at_hand_goes_before_what_was_being_handled() -> None:
    assert classify(while_handling(http_error(404), RESET)).kind is PERMANENT
    assert classify(while_handling(OSError(errno.ENOSPC, "text"), RESET)).local


def chain(length: int, last: BaseException) -> BaseException:
    for _ in range(length):
        last = raised(Strange(), cause=last)
    return last


def test_the_search_ends_eight_errors_deep() -> None:
    assert classify(chain(8, RESET)).kind is TRANSIENT
    assert classify(chain(9, RESET)).kind is UNKNOWN


def test_a_cycle_ends_the_search() -> None:
    first, second = Strange(), Strange()
    first.__cause__, second.__cause__ = second, first
    assert classify(first).kind is UNKNOWN
    own = Strange()
    own.args = (own,)
    assert classify(own).kind is UNKNOWN


def test_a_tree_of_errors_does_not_take_forever() -> None:
    def tree(depth: int) -> Strange:
        error = Strange()
        if depth:
            error.__cause__ = tree(depth - 1)
            error.args = (tree(depth - 1),)
            error.__suppress_context__ = False
            error.__context__ = tree(depth - 1)
        return error

    assert classify(tree(8)).kind is UNKNOWN


# Answers that an error carries


@pytest.mark.parametrize(
    "error",
    [
        SimpleNamespace(status_code=429, headers={"retry-after": "4"}),
        SimpleNamespace(status=429, headers={"Retry-After": "4"}),
        SimpleNamespace(response=SimpleNamespace(status_code=429, headers={"retry-after": "4"})),
        SimpleNamespace(response=SimpleNamespace(status=429, headers=[("Retry-After", "4")])),
    ],
)
def test_a_status_on_a_type_that_is_not_known_counts(error: SimpleNamespace) -> None:
    strange = Strange()
    vars(strange).update(vars(error))
    verdict = classify(strange)
    assert (verdict.kind, verdict.retry_after, verdict.sent) == (THROTTLED, 4, Sent.YES)
    assert verdict.not_executed


@pytest.mark.parametrize("status", [200, 302, 600, "503", True, None, 503.0])
def test_what_is_no_status_of_an_error_is_not_taken_for_one(status: object) -> None:
    strange = Strange()
    strange.status_code = status  # type: ignore[attr-defined] # as libraries do
    assert classify(strange).kind is UNKNOWN


def test_an_attribute_that_fails_is_no_attribute() -> None:
    class Broken(Exception):
        @property
        def response(self) -> object:
            raise RuntimeError

    assert classify(raised(Broken(), cause=RESET)).kind is TRANSIENT


def test_urllibs_http_error_goes_by_status_and_headers() -> None:
    assert classify(http_error(404)).kind is PERMANENT
    assert classify(http_error(503)).kind is TRANSIENT
    verdict = classify(http_error(503, Retry_After="5"))
    assert (verdict.kind, verdict.retry_after, verdict.reason) == (THROTTLED, 5, "http 503")


def test_a_date_in_the_headers_needs_a_clock() -> None:
    date = "Sun, 06 Nov 1994 08:50:07 GMT"
    error = http_error(503, Retry_After=date)
    assert classify(error).retry_after is None
    assert classify(error, now_wall=784_111_777.0).retry_after == 30
    assert classify(http_error(503, Retry_After=date, Date=date)).retry_after == 0


def test_the_providers_code_goes_before_the_status_and_the_type() -> None:
    class ApiError(ValueError):
        code = 1303
        status = 429

    assert classify(ApiError()).kind is PERMANENT
    verdict = classify(ApiError(), provider="kling")
    assert (verdict.kind, verdict.retry_after) == (CONCURRENCY, 1)


def test_the_providers_code_is_found_inside_too() -> None:
    inner = Strange()
    inner.code = 1102  # type: ignore[attr-defined] # as API clients do
    assert classify(raised(Strange(), cause=inner), provider="kling").kind is PERMANENT


def test_a_program_that_exits_is_nobodys_answer() -> None:
    assert classify(SystemExit(1302), provider="kling").kind is CANCELLED


def test_a_code_that_is_not_known_leaves_the_type() -> None:
    error = TimeoutError()
    error.code = 7  # type: ignore[attr-defined] # as API clients do
    assert classify(error, provider="kling").kind is TIMEOUT


def test_an_unknown_provider_is_refused() -> None:
    with pytest.raises(ValueError, match="provider: 'acme'"):
        classify(RESET, provider="acme")


# Our own


@pytest.mark.parametrize("cls", [CircuitOpen, BulkheadFull, RateLimited, BudgetEmpty])
def test_a_refusal_of_a_policy_inside_was_never_sent(cls: type[CircuitOpen]) -> None:
    error = raised(cls("text", retry_after=2.5), cause=RESET)
    for seen in (error, raised(Strange(), cause=error)):
        verdict = classify(seen)
        assert (verdict.kind, verdict.sent, verdict.local) == (CONCURRENCY, Sent.NO, True)
        assert (verdict.retry_after, verdict.reason) == (2.5, cls.__name__)


def test_a_deadline_of_a_policy_inside_is_a_timeout() -> None:
    verdict = classify(raised(DeadlineExceeded("text", retry_after=60), cause=RESET))
    assert (verdict.kind, verdict.reason, verdict.retry_after) == (TIMEOUT, "DeadlineExceeded", 60)


# Unknown


def test_what_no_table_knows_is_unknown_and_named() -> None:
    verdict = classify(Strange("Connection reset by peer: 429 Too Many Requests"))
    assert verdict == Verdict(
        UNKNOWN,
        reason=f"{__name__}.Strange",
        evidence="unknown",
        max_retries=1,
    )
    assert type_name(Strange()) == f"{__name__}.Strange"
    assert type_name(RuntimeError()) == "RuntimeError"


def test_the_nearest_row_of_a_subclass_counts() -> None:
    class Mine(ConnectionAbortedError):
        pass

    class Both(http.client.IncompleteRead, ValueError):
        pass

    assert classify(Mine()).reason == "ECONNABORTED"
    assert classify(Both(b"")).kind is TRANSIENT


def test_many_types_made_at_run_time_are_all_classified() -> None:
    for n in range(2000):
        made = type(f"Made{n}", (TimeoutError,), {})
        assert classify(made()).kind is TIMEOUT


def test_a_kind_replaces_the_kind_only() -> None:
    before = classify(http_error(429, Retry_After="3"))
    after = with_kind(before, PERMANENT)
    assert (after.retry_after, after.sent, after.not_executed) == (3, Sent.YES, True)


KNOWN = [RESET, TimeoutError(), KeyError(), Strange(), http_error(503), OSError(), EOFError()]


@given(
    st.lists(
        st.sampled_from([type(error) for error in KNOWN] + [ssl.SSLError, OSError]), min_size=1
    ),
    st.lists(st.sampled_from(["cause", "context", "args", "reason"]), max_size=20),
    st.sampled_from([True, False, None]),
)
def test_no_chain_of_errors_raises(
    types: list[type[Exception]], links: list[str], connecting: Phase
) -> None:
    nodes = [cls.__new__(cls) for cls in types]
    for n, link in enumerate(links):
        node, other = nodes[n % len(nodes)], nodes[(n * 7 + 1) % len(nodes)]
        if link == "args":
            node.args = (other,)
        elif link == "reason" and not isinstance(node, urllib.error.HTTPError):
            node.reason = other  # type: ignore[attr-defined] # as urllib does
        elif link == "reason":
            vars(node)["msg"] = str(n)  # its reason is a text
        else:
            setattr(node, f"__{link}__", other)
    verdict = classify(nodes[0], connecting=connecting)
    assert verdict.kind in set(Kind)
    assert (verdict.evidence == "unknown") is (verdict.kind is UNKNOWN)


def test_classifying_imports_no_library_that_the_program_has_not_loaded() -> None:
    program = (
        "import sys; from holdfast.core.classify import classify, verdict_for_status;"
        "classify(TimeoutError()); classify(RuntimeError()); verdict_for_status(503, {});"
        "wrong = {'asyncio', 'socket', 'ssl', 'http', 'urllib', 'email', 'datetime', 'logging',"
        " 'threading', 'random', 'holdfast.core.tables.httpx', 'holdfast.core.tables.kling'};"
        "print(*sorted(wrong & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.split() == []
