from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from holdfast import chaos

if TYPE_CHECKING:
    from chaos_clients import Get


def statuses(get: Get, server: chaos.Server, count: int, path: str = "/call") -> list[int]:
    return [get(server.address, path).status for _ in range(count)]


def test_burst_of_503_with_retry_after_and_no_execution(get: Get) -> None:
    call = chaos.Call("/call", faults=[chaos.Status(503, 2, skip=1, limit=3, burst=3)])
    with chaos.server(call) as server:
        got = [get(server.address, "/call?id=a") for _ in range(6)]
        assert [one.status for one in got] == [200, 503, 503, 503, 200, 200]
        assert [one.headers.get("Retry-After") for one in got[:3]] == [None, "2", "2"]
        assert call.executed == {"a": 3}
        assert server.stats.faults == {"http 503": 3}
        assert server.stats.statuses == {200: 3, 503: 3}


def test_drawn_bursts_come_in_runs_and_repeat(get: Get) -> None:
    def run(seed: int) -> list[int]:
        fault = chaos.Status(429, share=0.1, burst=4)
        with chaos.server(chaos.Call("/call", faults=[fault]), seed=seed) as server:
            return statuses(get, server, 60)

    found = run(8)
    assert run(8) == found
    text = "".join("x" if status == 429 else " " for status in found)
    runs = [len(part) for part in text.rstrip("x").split() if part]
    assert runs
    assert all(length >= 4 for length in runs)


def test_outage_ends_by_the_clock(get: Get) -> None:
    with chaos.server(chaos.Call("/call"), faults=[chaos.Status(503, until=0.2)]) as server:
        assert get(server.address, "/call").status == 503
        time.sleep(0.21)
        assert get(server.address, "/call").status == 200


def test_body_type_and_odd_retry_after_are_sent_as_given(get: Get) -> None:
    body = "<Error><Code>SlowDown</Code></Error>"
    fault = chaos.Status(503, "Wed, 21 Oct 2015 07:28:00 GMT", body, "application/xml")
    with chaos.server(chaos.Object("/o", 10), faults=[fault]) as server:
        got = get(server.address, "/o")
        assert (got.body, got.headers["Content-Type"]) == (body.encode(), "application/xml")
        assert got.headers["Retry-After"] == "Wed, 21 Oct 2015 07:28:00 GMT"


def test_success_status_is_refused() -> None:
    with pytest.raises(ValueError, match="status: 200 must be in"):
        chaos.Status(200)
