"""Whom a fault hits: a pure decision from the seed and the number."""

from __future__ import annotations

import dataclasses
from itertools import starmap
from typing import TYPE_CHECKING, Any

import pytest

from holdfast import chaos
from holdfast.chaos import faults
from holdfast.chaos.fault import Draws
from holdfast.runtime.random import SeededRandom

if TYPE_CHECKING:
    from collections.abc import Iterable

EXAMPLES: dict[str, tuple[Any, ...]] = {"Slow": (1000,), "Latency": (0.1,), "Slices": (7,)}
KINDS = {name: kind for name, kind in vars(faults).items() if isinstance(kind, type)}


def hits(fault: chaos.Fault, numbers: Iterable[int] = range(1, 21), seed: int = 1) -> list[int]:
    draws = Draws(fault, SeededRandom(seed), started=0.0)
    return [number for number in numbers if draws.hit(number, now=0.0) is not None]


def test_all_are_hit_by_default() -> None:
    assert hits(chaos.Reset()) == list(range(1, 21))


def test_skip_first_and_limit_bound_the_hits() -> None:
    assert hits(chaos.Reset(skip=3)) == list(range(4, 21))
    assert hits(chaos.Reset(first=2)) == [1, 2]
    assert hits(chaos.Reset(skip=3, first=2)) == [4, 5]
    assert hits(chaos.Reset(limit=4)) == [1, 2, 3, 4]
    assert hits(chaos.Reset(limit=0)) == []


def test_share_is_kept_and_repeats() -> None:
    found = hits(chaos.Reset(share=0.2), range(1, 5001))
    assert hits(chaos.Reset(share=0.2), range(1, 5001)) == found
    assert hits(chaos.Reset(share=0.2), range(1, 5001), seed=2) != found
    # Five standard deviations of a binomial draw.
    assert abs(len(found) - 1000) < 5 * (5000 * 0.2 * 0.8) ** 0.5


def test_bounds_move_no_other_hit() -> None:
    free = hits(chaos.Reset(share=0.3), range(1, 101))
    assert hits(chaos.Reset(share=0.3, limit=5), range(1, 101)) == free[:5]
    assert hits(chaos.Reset(share=0.3, skip=50), range(1, 101)) == [n for n in free if n > 50]


def test_burst_takes_the_next_ones_with_it() -> None:
    assert hits(chaos.Reset(first=1, burst=4)) == [1, 2, 3, 4]
    assert hits(chaos.Reset(first=1, burst=4, limit=2)) == [1, 2]
    starts = hits(chaos.Reset(share=0.05), range(1, 200))
    in_bursts = hits(chaos.Reset(share=0.05, burst=3), range(1, 200))
    assert set(starts) <= set(in_bursts)
    assert len(in_bursts) > 2 * len(starts)


def test_since_and_until_are_seconds_from_the_start() -> None:
    draws = Draws(chaos.Reset(since=2, until=5), SeededRandom(1), started=100.0)
    moments = [100.0, 101.9, 102.0, 104.9, 105.0]
    found = [draws.hit(i, now) is not None for i, now in enumerate(moments, 1)]
    assert found == [False, False, True, True, False]


def test_own_draws_of_a_number_depend_on_nothing_else() -> None:
    fault = chaos.Reset(mean_bytes=1000)

    def position(number: int, before: int) -> int:
        draws = Draws(fault, SeededRandom(9), started=0.0)
        sources = [draws.hit(n, 0.0) for n in [*range(1, before + 1), number]]
        assert sources[-1] is not None
        return fault.offset(sources[-1])

    assert position(7, before=6) == position(7, before=0)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_fault_is_a_documented_frozen_value(name: str) -> None:
    kind = KINDS[name]
    one, same = (kind(*EXAMPLES.get(name, ())) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.share = 0.5
    assert kind.__doc__
    assert getattr(chaos, name) is kind
    assert one.kind == one.kind.lower()


@pytest.mark.parametrize("name", sorted(KINDS))
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("share", 1.1),
        ("share", -0.1),
        ("skip", -1),
        ("first", 0),
        ("limit", -1),
        ("burst", 0),
        ("since", -1.0),
        ("direction", "left"),
        ("per", "hour"),
    ],
)
def test_options_out_of_range_are_named(name: str, option: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name}: {option}"):
        KINDS[name](*EXAMPLES.get(name, ()), **{option: value})


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("Reset", {"after_bytes": -1}, "after_bytes"),
        ("Reset", {"mean_bytes": 0}, "mean_bytes"),
        ("Fin", {"after_bytes": 1, "mean_bytes": 5}, "after_bytes and mean_bytes"),
        ("Fin", {"part": "tail"}, "part"),
        ("Flip", {"bit": 8}, "bit"),
        ("Stall", {"seconds": -1}, "seconds"),
        ("Slow", {"bytes_per_second": 0}, "bytes_per_second"),
        ("Latency", {"seconds": -1}, "seconds"),
        ("Latency", {"seconds": 0.1, "jitter": 0.2}, "jitter"),
        ("Slices", {"size": 0}, "size"),
        ("Slices", {"size": 1, "gap": -1}, "gap"),
        ("Refuse", {"seconds": -1}, "seconds"),
        ("Refuse", {"per": "request"}, "per"),
        ("Replace", {"after_bytes": -1}, "after_bytes"),
        ("Replace", {"size": -1}, "size"),
        ("IdleClose", {"at_most": 0.1, "at_least": 0.2}, "at_least"),
        ("NodeEtag", {"nodes": 1}, "nodes"),
        ("Surplus", {"count": 0}, "count"),
        ("Interim", {"status": 200}, "status"),
        ("Interim", {"count": 0}, "count"),
        ("Status", {"status": 200}, "status"),
        ("Misrange", {"how": "sideways"}, "how"),
    ],
)
def test_own_options_are_checked(name: str, options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: {complaint}"):
        KINDS[name](**options)


def test_repr_shows_what_was_chosen() -> None:
    assert repr(chaos.Reset()) == "Reset()"
    fault = chaos.Stall(mean_bytes=5.0, share=0.1, seconds=3)
    assert repr(fault) == "Stall(share=0.1, mean_bytes=5.0, seconds=3)"
    assert repr(chaos.Slow(100)) == "Slow(bytes_per_second=100)"


def test_exponential_positions_follow_the_distribution() -> None:
    fault = chaos.Reset(mean_bytes=1000)
    sources = starmap(SeededRandom, ((f"n{i}",) for i in range(4000)))
    found = sorted(fault.offset(source) for source in sources)
    assert abs(sum(found) / 4000 - 1000) < 5 * 1000 / 4000**0.5
    # Median of an exponential distribution: mean * ln 2.
    assert abs(found[2000] - 693) < 80
