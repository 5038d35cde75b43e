from __future__ import annotations

import json
import math
import random
import statistics
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.backoff import (
    Constant,
    Custom,
    Decorrelated,
    Exponential,
    Linear,
    as_backoff,
    doubled,
)
from holdfast.core.verdict import CONCURRENCY, CONNECT, THROTTLED, TIMEOUT, TRANSIENT, Kind, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from holdfast.core.backoff import Backoff, Jitter

JITTERS = ("none", "full", "equal", "percent")
BUILT_IN: list[Callable[..., Backoff]] = [Exponential, Constant, Linear, Decorrelated]
KINDS = st.sampled_from(list(Kind))
DRAWS = st.floats(0, 1, exclude_max=True)
RETRY_NUMBERS = st.one_of(st.integers(1, 60), st.sampled_from([1023, 1024, 1025, 10**6, 10**400]))
SECONDS = st.floats(0, 1e6)


@st.composite
def backoffs(draw: st.DrawFn) -> Backoff:
    base = draw(st.none() | SECONDS)
    throttled = draw(st.none() | SECONDS)
    cap = draw(st.floats(max(base or 0, throttled or 0), 1e7))
    jitter: Any = draw(st.sampled_from(JITTERS))
    which = draw(st.sampled_from(BUILT_IN))
    if which is Exponential:
        return Exponential(base, cap, draw(st.floats(1, 1000)), jitter, throttled)
    if which is Constant:
        return Constant(base, jitter, throttled)
    if which is Linear:
        return Linear(base, draw(st.sampled_from([None, cap])), jitter, throttled)
    return Decorrelated(base, cap, throttled)


def test_every_vector_of_polly(vectors: Path) -> None:
    cases = json.loads((vectors / "polly_delay.json").read_text())["vectors"]
    for case in cases:
        kind = {"Constant": Constant, "Linear": Linear, "Exponential": Exponential}[case["type"]]
        backoff = kind(case["base_s"], jitter="percent" if case["jitter"] else "none")
        u = 0.5 if case["random"] is None else case["random"]
        wait = backoff.delay(case["attempt0"] + 1, TRANSIENT, u)
        assert wait == pytest.approx(case["expect_s"]), case
    assert len(cases) == 33


def test_waits_double_from_the_base() -> None:
    backoff = Exponential(base=1, cap=30, jitter="none")
    assert [backoff.delay(n, TRANSIENT, 0.3) for n in (1, 2, 3)] == [1, 2, 4]


def test_waits_stop_growing_at_the_cap() -> None:
    backoff = Exponential(base=60, cap=300, jitter="none")
    waits = [backoff.bounds(n, TIMEOUT).nominal for n in range(1, 6)]
    assert waits == [60, 120, 240, 300, 300]
    assert sum(waits) == 1020


@pytest.mark.parametrize("n", [10, 1025])
@pytest.mark.parametrize("backoff", [Exponential(1, 30), Decorrelated(1, 30)])
def test_waits_at_the_cap_are_still_spread(backoff: Backoff, n: int) -> None:
    draw = random.Random(7).random
    waits = [backoff.delay(n, TRANSIENT, draw(), draw()) for _ in range(10_000)]
    assert statistics.stdev(waits) >= 0.25 * 30
    assert all(0 <= wait <= 30 for wait in waits)


@pytest.mark.parametrize(
    ("jitter", "least", "middle", "most"),
    [("none", 8, 8, 8), ("full", 0, 4, 8), ("equal", 4, 6, 8), ("percent", 6, 8, 10)],
)
def test_jitter_spreads_the_capped_wait(
    jitter: Jitter, least: float, middle: float, most: float
) -> None:
    backoff = Exponential(base=1, cap=8, jitter=jitter)
    assert [backoff.delay(30, CONNECT, u) for u in (0, 0.5, 1)] == [least, middle, most]
    assert backoff.bounds(30, CONNECT) == (8, least, most)


@pytest.mark.parametrize("make", BUILT_IN)
def test_throttling_starts_slower_unless_a_base_is_given(make: Callable[..., Backoff]) -> None:
    for kind in (THROTTLED, CONCURRENCY):
        slow = make().bounds(1, kind).nominal
        assert slow == pytest.approx(20 * make().bounds(1, TRANSIENT).nominal)
        assert make(base=2).bounds(1, kind) == make(base=2).bounds(1, TRANSIENT)
        assert make(base=2, throttled=4).bounds(1, kind).nominal == pytest.approx(
            2 * make(base=2).bounds(1, kind).nominal
        )


def test_the_cause_may_be_a_verdict_or_its_kind() -> None:
    backoff = Exponential(jitter="none")
    assert backoff.delay(1, Verdict(THROTTLED), 0) == backoff.delay(1, THROTTLED, 0) == 1
    assert backoff.delay(1, Verdict(TIMEOUT), 0) == backoff.delay(1, TIMEOUT, 0) == 0.05


def test_the_number_of_the_retry_counts_over_all_kinds() -> None:
    backoff = Exponential(jitter="none")
    kinds = (TRANSIENT, THROTTLED, TRANSIENT, THROTTLED)
    waits = [backoff.delay(n, kind, 0) for n, kind in enumerate(kinds, 1)]
    assert waits == [0.05, 2, 0.2, 8]


def test_linear_grows_by_the_base_up_to_its_cap() -> None:
    free, capped = Linear(10, jitter="none"), Linear(10, cap=25, jitter="none")
    assert [free.delay(n, TRANSIENT, 0) for n in (1, 2, 3)] == [10, 20, 30]
    assert [capped.delay(n, TRANSIENT, 0) for n in (1, 2, 3)] == [10, 20, 25]


def test_decorrelated_waits_telescope_to_the_curve() -> None:
    draws = [0.9, 0.1, 0.7, 0.3, 0.5]
    backoff = Decorrelated(base=1, cap=1000)
    waits = [
        backoff.delay(n, TRANSIENT, u, before)
        for n, (u, before) in enumerate(zip(draws, [0.5, *draws], strict=False), 1)
    ]
    t = 4 + draws[-1]
    assert sum(waits) == pytest.approx(2**t * math.tanh(math.sqrt(4 * t)) / 1.4)


def test_decorrelated_times_of_many_clients_leave_no_gap() -> None:
    draw = random.Random(11).random
    backoff = Decorrelated(base=1, cap=10**6)
    times = []
    for _ in range(2000):
        now, before = 0.0, 0.5
        for n in range(1, 6):
            u = draw()
            now += backoff.delay(n, TRANSIENT, u, before)
            before = u
            times.append(now)
    times = sorted(time for time in times if 1 < time < 16)
    assert max(b - a for a, b in pairwise(times)) < 0.25


@given(backoffs(), RETRY_NUMBERS, KINDS, DRAWS, DRAWS)
def test_every_wait_is_finite_and_within_its_bounds(
    backoff: Backoff, n: int, kind: Kind, u: float, before: float
) -> None:
    wait = backoff.delay(n, kind, u, before)
    nominal, minimum, maximum = backoff.bounds(n, kind)
    assert math.isfinite(wait)
    assert 0 <= minimum <= nominal * (1 + 1e-12)
    assert nominal <= maximum * (1 + 1e-12)
    assert minimum * (1 - 1e-12) <= wait <= maximum * (1 + 1e-12)


@given(backoffs(), RETRY_NUMBERS, KINDS, DRAWS)
def test_equal_options_wait_equally(backoff: Backoff, n: int, kind: Kind, u: float) -> None:
    options = backoff.describe()
    twin = {make.__name__.lower(): make for make in BUILT_IN}[str(options.pop("type"))](**options)
    assert twin == backoff
    assert hash(twin) == hash(backoff)
    assert twin.delay(n, kind, u) == backoff.delay(n, kind, u)


@given(backoffs())
def test_a_description_is_json(backoff: Backoff) -> None:
    assert json.loads(json.dumps(backoff.describe(), allow_nan=False)) == backoff.describe()


@pytest.mark.parametrize("n", [1025, 10**6, 10**400])
def test_nothing_grows_from_zero_or_by_one(n: int) -> None:
    assert Exponential(0, jitter="none").delay(n, TRANSIENT, 0) == 0
    assert Exponential(3, factor=1, jitter="none").delay(n, TRANSIENT, 0) == 3
    assert Linear(0).delay(n, TRANSIENT, 1) == 0
    assert Decorrelated(0).delay(n, TRANSIENT, 1) == 0


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Exponential, {"base": -1}, r"base: -1 is not a number in \[0, 20\] or None"),
        (Exponential, {"base": 30}, r"base: 30 is not a number in \[0, 20\]"),
        (Exponential, {"throttled": 21}, r"throttled: 21 is not a number in \[0, 20\]"),
        (Exponential, {"base": "1"}, "base: '1' is not a number"),
        (Exponential, {"base": True}, "base: True is not a number"),
        (Exponential, {"base": math.nan}, "base: nan is not a number"),
        (Exponential, {"cap": math.inf}, r"cap: inf is not a number in \[0, 1e\+09\]"),
        (Exponential, {"cap": None}, "cap: None is not a number"),
        (Exponential, {"cap": -1}, "cap: -1 is not a number"),
        (Exponential, {"factor": 0.5}, r"factor: 0.5 is not a number in \[1, 1000\]"),
        (Exponential, {"jitter": "ful"}, "jitter: 'ful' is not one of none, full, equal, percent"),
        (Constant, {"base": -1}, "base: -1"),
        (Constant, {"jitter": None}, "jitter: None is not one of"),
        (Linear, {"base": math.inf}, "base: inf"),
        (Linear, {"cap": -2}, "cap: -2"),
        (Decorrelated, {"cap": None}, "cap: None"),
        (Linear, {"base": 3, "cap": 2}, r"base: 3 is not a number in \[0, 2\]"),
        (Decorrelated, {"base": 30}, r"base: 30 is not a number in \[0, 20\]"),
    ],
)
def test_an_option_out_of_range_is_named(
    make: Callable[..., Backoff], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("n", [0, -1])
@pytest.mark.parametrize("backoff", [*(make() for make in BUILT_IN), Custom(lambda n, v: 1)])
def test_retry_numbers_start_at_one(backoff: Backoff, n: int) -> None:
    with pytest.raises(ValueError, match="retry number"):
        backoff.delay(n, TRANSIENT, 0)


def test_a_function_of_number_and_verdict_is_a_backoff() -> None:
    seen = []

    def by_hand(n: int, verdict: Verdict) -> float:
        seen.append(verdict)
        return n * 1.5

    backoff = as_backoff(by_hand)
    verdict = Verdict(THROTTLED, retry_after=9)
    assert backoff.delay(2, verdict, 0.7) == 3
    assert backoff.bounds(2, TRANSIENT) == (3, 3, 3)
    assert seen == [verdict, Verdict(TRANSIENT)]
    assert "by_hand" in str(backoff.describe()["function"])


@pytest.mark.parametrize("wrong", [-1, -1e-9, math.nan, math.inf, None, "1"])
def test_a_function_that_returns_no_wait_is_refused(wrong: float) -> None:
    backoff = as_backoff(lambda n, verdict: wrong)
    with pytest.raises(ValueError, match=r"returned .* for retry 3"):
        backoff.delay(3, TRANSIENT, 0)


def test_a_backoff_passes_through_and_anything_else_is_refused() -> None:
    backoff = Exponential()
    assert as_backoff(backoff) is backoff
    for wrong in (None, 5, "exponential", Exponential):
        with pytest.raises(ValueError, match=r"backoff: .* neither"):
            as_backoff(wrong)


def test_doubling_stops_at_the_most_and_never_overflows():
    assert [doubled(1, times, 60) for times in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert doubled(0.5, 10**9, 300) == 300
    assert doubled(5, 0, 2) == 2
