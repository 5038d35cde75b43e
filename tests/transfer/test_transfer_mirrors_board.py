"""Which mirror is asked next: scores of hosts, places for one object. No network, no clock."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.verdict import Kind, Sent, Verdict
from holdfast.transfer.failures import Interrupted, Reason, TransferFailed, permanent
from holdfast.transfer.mirrors import (
    CHEAP,
    MOVE_AFTER,
    How,
    Mirrors,
    Need,
    Pick,
    Place,
    disagrees,
)
from holdfast.transfer.scores import COOL_MOST, MOST_KEPT, WORTH, Ledger, Score, ranked
from holdfast.wire.urls import parse

MIB = 1 << 20
URLS = [parse(f"http://m{n}.example/x") for n in range(3)]
NOTHING = Need()
BYTES = Need(held=64 * MIB)
DIGEST = Need(held=64 * MIB, digest=True)
STRONG = Need(held=64 * MIB, strong=True)


def three(ledger: Ledger | None = None) -> Mirrors:
    return Mirrors(URLS, ledger)


def at_home(no: int = 0) -> Mirrors:
    """Return three mirrors, of which `no` gave the bytes at hand."""
    mirrors = three()
    mirrors.settled(Pick(no, URLS[no], How.FRESH))
    mirrors.gave(Pick(no, URLS[no]))
    return mirrors


def picked(mirrors: Mirrors, need: Need = NOTHING, now: float = 0.0, **options) -> tuple[int, How]:
    pick = mirrors.pick(need, now, **options)
    assert pick is not None
    assert pick.url is URLS[pick.no]
    return pick.no, pick.how


def broken(retry_after: float | None = None) -> TransferFailed:
    verdict = Verdict(Kind.TRANSIENT, Sent.YES, "ECONNRESET", retry_after=retry_after)
    return TransferFailed(Reason.NETWORK, "reset", verdict)


def refused(status: int = 404, text: str = "") -> TransferFailed:
    verdict = permanent(f"http {status}")
    return TransferFailed(Reason.STATUS, text or f"status: {status}", verdict, status=status)


def fail(mirrors: Mirrors, no: int, error: TransferFailed | None = None, now: float = 0.0) -> None:
    mirrors.failed(Pick(no, URLS[no]), error or broken(), now, 0, 1.0)


# -- scores ----------------------------------------------------------------------------------------


def test_goodput_is_a_moving_average() -> None:
    score = Score().moved(10 * MIB, 1.0)
    assert score.goodput == 10 * MIB
    assert score.moved(0, 5.0) is score
    assert score.moved(20 * MIB, 1.0).goodput == pytest.approx(13 * MIB)


def test_a_cool_down_doubles_to_a_limit() -> None:
    score, now, cools = Score(), 0.0, []
    for _ in range(10):
        score = score.failed(now)
        cools.append(score.until - now)
        now = score.until
    assert cools[:5] == [1, 2, 4, 8, 16]
    assert cools[-1] == COOL_MOST
    assert score.served() == Score()


def test_connections_that_break_together_are_one_failure() -> None:
    score = Score()
    for _ in range(8):
        score = score.failed(5.0)
    assert (score.errors, score.until) == (1, 6.0)


def test_a_failure_after_much_was_brought_counts_little() -> None:
    score, now = Score(), 0.0
    for _ in range(10):
        score = score.failed(now, WORTH)
        now = score.until
    assert score.errors == 1


def test_the_wait_that_a_host_asks_for_is_kept() -> None:
    assert Score().failed(0.0, wait=120.0).until == 120.0


def test_who_comes_first() -> None:
    fast, slow, new = Score(goodput=9.0), Score(goodput=5.0), Score()
    once = Score(goodput=99.0, errors=1)
    cooling, later = Score(errors=1, until=5.0), Score(errors=1, until=9.0)
    assert ranked([new, slow, fast], 1.0) == [2, 1, 0]
    assert ranked([new, new], 1.0) == [0, 1]
    assert ranked([once, new], 1.0) == [1, 0]
    assert ranked([later, cooling, once], 1.0) == [2, 1, 0]
    assert ranked([later, cooling], 1.0) == [1, 0]
    assert ranked([later, cooling], 7.0) == [1, 0]


def test_the_one_in_use_is_kept_unless_another_is_far_better() -> None:
    assert ranked([Score(goodput=5.0), Score(goodput=9.0)], 0.0, current=0) == [0, 1]
    assert ranked([Score(goodput=4.0), Score(goodput=9.0)], 0.0, current=0) == [1, 0]
    assert ranked([Score(goodput=9.0), Score()], 0.0, current=1) == [1, 0]


@given(
    st.lists(
        st.builds(
            Score,
            st.floats(0, 1e9),
            st.integers(0, 9),
            st.one_of(st.just(-math.inf), st.floats(0, 100)),
        ),
        min_size=1,
        max_size=6,
    ),
    st.floats(0, 100),
)
def test_somebody_always_comes_first(scores, now) -> None:
    order = ranked(scores, now)
    assert sorted(order) == list(range(len(scores)))
    ready = [no for no, score in enumerate(scores) if now >= score.until]
    assert not ready or order[0] in ready


def test_a_ledger_is_bounded_and_shared() -> None:
    ledger = Ledger()
    for n in range(MOST_KEPT + 10):
        ledger.note(("http", f"h{n}", 80), 1, 1.0, None, whole=True)
    assert ledger.of(("http", "h0", 80)) == Score()
    assert ledger.of(("http", f"h{MOST_KEPT}", 80)).goodput == 1
    one, two = Mirrors(URLS, ledger), Mirrors(URLS, ledger)
    fail(one, 0)
    assert picked(two) == (1, How.FRESH)  # what one object met, the next need not meet


# -- one object: who is asked, and how -----------------------------------------------------------


def test_a_single_address_is_asked_once_in_an_attempt() -> None:
    alone = Mirrors(URLS[:1])
    assert picked(alone, BYTES) == (0, How.HOME)
    assert alone.pick(BYTES, 0.0, tried={0}) is None


def test_without_bytes_the_first_address_begins() -> None:
    assert picked(three()) == (0, How.FRESH)
    assert picked(three(), tried={0}) == (1, How.FRESH)


def test_with_a_digest_any_mirror_may_go_on() -> None:
    mirrors = at_home()
    assert picked(mirrors, DIGEST) == (0, How.HOME)
    assert picked(mirrors, DIGEST, tried={0}) == (1, How.BORROW)


def test_with_a_strong_etag_any_mirror_is_asked_for_that_version() -> None:
    mirrors = at_home(1)
    assert picked(mirrors, STRONG) == (1, How.HOME)
    assert picked(mirrors, STRONG, tried={1}) == (0, How.JOIN)


def test_without_either_the_home_is_kept_to() -> None:
    mirrors = at_home()
    assert mirrors.pick(BYTES, 0.0, tried={0}) is None
    for n in range(MOVE_AFTER):
        assert mirrors.pick(BYTES, 0.0, tried={0}) is None, n
        fail(mirrors, 0)
    assert picked(mirrors, BYTES, tried={0}) == (1, How.FRESH)


def test_progress_resets_the_patience_with_a_home() -> None:
    mirrors = at_home()
    for _ in range(MOVE_AFTER * 3):
        fail(mirrors, 0)
        mirrors.progressed()
    assert mirrors.pick(BYTES, 0.0, tried={0}) is None


def test_few_bytes_are_given_up_at_once() -> None:
    assert picked(at_home(), Need(held=CHEAP - 1), tried={0}) == (1, How.FRESH)


def test_a_home_that_is_out_is_left_at_once() -> None:
    mirrors = at_home()
    fail(mirrors, 0, refused(404))
    assert picked(mirrors, BYTES) == (1, How.FRESH)
    assert picked(mirrors, DIGEST) == (1, How.BORROW)
    assert picked(mirrors, STRONG) == (1, How.JOIN)


def test_a_helper_never_begins_anew() -> None:
    mirrors = at_home()
    fail(mirrors, 0, refused(404))
    assert mirrors.pick(BYTES, 0.0, helping=True) is None
    assert picked(mirrors, DIGEST, helping=True) == (1, How.BORROW)


def test_who_disagrees_is_put_aside_until_there_is_another_version() -> None:
    mirrors = at_home()
    fail(mirrors, 1, disagrees("412"))
    assert mirrors.place(1) is Place.ASIDE
    assert picked(mirrors, STRONG, tried={0}) == (2, How.JOIN)
    mirrors.settled(Pick(2, URLS[2], How.FRESH))
    assert mirrors.place(1) is Place.OPEN


def test_who_was_put_aside_is_asked_when_nobody_else_is_left() -> None:
    mirrors = at_home()
    fail(mirrors, 1, disagrees("412"))
    fail(mirrors, 0, refused(404))
    fail(mirrors, 2, refused(403))
    assert picked(mirrors, STRONG) == (1, How.FRESH)


def test_bytes_of_an_earlier_run_are_of_whoever_recognises_them() -> None:
    mirrors = three()
    assert picked(mirrors, STRONG) == (0, How.JOIN)
    mirrors.recognised(Pick(1, URLS[1], How.JOIN))
    assert mirrors.home == 1
    assert picked(three(), BYTES) == (0, How.HOME)  # nothing can vouch: as before it is the first


def test_when_the_bytes_are_wrong_others_are_asked_for_them() -> None:
    mirrors = at_home()
    mirrors.doubt()
    doubtful = DIGEST._replace(doubtful=True)
    assert picked(mirrors, doubtful) == (1, How.BORROW)
    mirrors.gave(Pick(1, URLS[1]))
    assert picked(mirrors, doubtful) == (1, How.BORROW)  # the one that replaces them goes on
    assert picked(mirrors, doubtful._replace(held=0), tried={1}) == (2, How.BORROW)
    assert picked(mirrors, doubtful, tried={1, 2}) == (0, How.HOME)


def test_quarantine_puts_out_who_gave_the_bytes() -> None:
    mirrors = at_home()
    error = TransferFailed(Reason.DIGEST, "wrong", permanent("digest"))
    assert mirrors.quarantine(error)
    assert mirrors.place(0) is Place.OUT
    mirrors.settled(Pick(1, URLS[1], How.FRESH))
    mirrors.gave(Pick(1, URLS[1]))
    assert mirrors.quarantine(error)
    mirrors.settled(Pick(2, URLS[2], How.FRESH))
    mirrors.gave(Pick(2, URLS[2]))
    assert not mirrors.quarantine(error)  # somebody is always left
    assert mirrors.place(2) is Place.OPEN


def test_mirrors_that_do_not_mix_are_asked_one_by_one() -> None:
    mirrors = at_home()
    mirrors.mixing = False
    assert mirrors.pick(DIGEST, 0.0, tried={0}) is None
    assert picked(mirrors, DIGEST) == (0, How.HOME)


# -- how the object fails --------------------------------------------------------------------------


def test_while_one_may_be_better_next_time_that_is_the_failure() -> None:
    mirrors = three()
    passing = broken()
    fail(mirrors, 0, passing)
    last = refused(404)
    fail(mirrors, 1, last)
    outcome = mirrors.outcome(last)
    assert (outcome.reason, outcome.verdict) == (Reason.NETWORK, passing.verdict)
    assert mirrors.outcome(passing).verdict is passing.verdict


def test_the_shortest_wait_counts() -> None:
    mirrors = three()
    fail(mirrors, 0, broken(retry_after=300.0))
    fail(mirrors, 1, broken(retry_after=2.0))
    last = refused(410)
    fail(mirrors, 2, last)
    assert mirrors.outcome(last).verdict.retry_after == 2.0


def test_when_all_are_out_the_best_reason_is_told_with_the_others() -> None:
    mirrors = three()
    fail(mirrors, 0, refused(404))
    fail(mirrors, 1, TransferFailed(Reason.SIZE, "the size is wrong", permanent("size")))
    last = refused(403)
    fail(mirrors, 2, last)
    outcome = mirrors.outcome(last)
    assert outcome.reason is Reason.SIZE
    assert str(outcome).startswith("the size is wrong (all 3 addresses failed: m0.example: ")
    assert "m2.example: status: 403" in str(outcome)


def test_an_interruption_is_nobodys_fault() -> None:
    mirrors = three()
    fail(mirrors, 0, Interrupted())
    assert picked(mirrors) == (0, How.FRESH)
    stop = Interrupted()
    assert mirrors.outcome(stop) is stop


# -- in a simulation of picks ----------------------------------------------------------------------


def simulate(mirrors: Mirrors, does: dict[int, tuple[float, float]], exchanges: int) -> list[int]:
    """Pick again and again. does: no -> (bytes per second, share of exchanges that fail)."""
    now, last, picks = 0.0, None, []
    credit = dict.fromkeys(does, 0.0)
    for _ in range(exchanges):
        pick = mirrors.pick(DIGEST, now, last=last)
        assert pick is not None
        rate, share = does[pick.no]
        credit[pick.no] += share
        picks.append(pick.no)
        last = pick.no
        if credit[pick.no] >= 1:
            credit[pick.no] -= 1
            now += 0.1
            mirrors.failed(pick, broken(), now, 0, 0.1)
        else:
            n = 8 * MIB
            now += n / rate
            mirrors.moved(pick, n, n / rate, whole=True)
    return picks


def test_a_dead_mirror_is_asked_rarely() -> None:
    picks = simulate(at_home(), {0: (1.0, 1.0), 1: (5e6, 0.0), 2: (5e6, 0.0)}, 300)
    assert picks.count(0) <= 2


def test_one_that_fails_often_is_used_less_than_one_that_does_not() -> None:
    picks = simulate(at_home(), {0: (9e6, 0.5), 1: (5e6, 0.0), 2: (5e6, 0.3)}, 300)
    assert picks.count(1) > 200


def test_one_that_works_is_kept_to() -> None:
    picks = simulate(at_home(), {0: (5e6, 0.0), 1: (6e6, 0.0), 2: (7e6, 0.0)}, 100)
    assert picks == [0] * 100


def test_when_all_fail_all_are_asked() -> None:
    picks = simulate(at_home(), dict.fromkeys(range(3), (1.0, 1.0)), 60)
    assert min(picks.count(no) for no in range(3)) >= 10


def test_a_passing_failure_is_forgiven() -> None:
    mirrors = at_home()
    fail(mirrors, 0)
    assert picked(mirrors, DIGEST, now=0.5) == (1, How.BORROW)
    mirrors.failed(Pick(1, URLS[1]), broken(), 0.6, 0, 0.1)
    mirrors.failed(Pick(2, URLS[2]), broken(), 0.7, 0, 0.1)
    assert picked(mirrors, DIGEST, now=0.8)[0] == 0  # the first to be ready again
