from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast import chaos

if TYPE_CHECKING:
    from chaos_clients import Get, Raw, Served, Sink

    from holdfast.chaos.message import Framing

SIZE = 200_000


def differing_bits(one: bytes, other: bytes) -> list[tuple[int, int]]:
    """Return (byte index, mask) of every difference."""
    assert len(one) == len(other)
    return [(i, a ^ b) for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_exactly_one_bit_of_the_body_differs(framing: Framing, get: Get) -> None:
    fault = chaos.Flip(after_bytes=70_001, bit=3)
    with chaos.server(chaos.Object("/o", SIZE, framing=framing, faults=[fault])) as server:
        got = get(server.address, "/o")
        assert got.error is None
        assert differing_bits(got.body, server.expected_bytes("/o")) == [(70_001, 8)]


def test_drawn_bit_repeats_with_the_seed(served: Served, get: Get) -> None:
    def masks(seed: int) -> list[list[tuple[int, int]]]:
        with served(SIZE, chaos.Flip(mean_bytes=50_000), seed=seed) as (server, address, _):
            right = server.expected_bytes("/o")
            return [differing_bits(get(address, "/o").body, right) for _ in range(5)]

    first = masks(1)
    assert masks(1) == first
    assert all(len(found) <= 1 for found in first)
    assert len({tuple(found) for found in first}) > 1


def test_two_flips_at_neighbouring_bytes(served: Served, get: Get) -> None:
    flips = (chaos.Flip(after_bytes=5, bit=0), chaos.Flip(after_bytes=6, bit=7))
    with served(SIZE, *flips) as (server, address, _):
        got = get(address, "/o")
        assert differing_bits(got.body, server.expected_bytes("/o")) == [(5, 1), (6, 128)]


def test_upload_arrives_with_one_bit_changed(sink: Sink, raw: Raw) -> None:
    data = b"x" * 100_000
    flip = chaos.Flip(after_bytes=99_999, bit=1, direction="up")
    with chaos.proxy(sink.port, flip).running() as proxy:
        assert raw(proxy.port, data, shut=True) == b"ok"
    assert differing_bits(sink.received[0], data) == [(99_999, 2)]
