from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast import chaos

if TYPE_CHECKING:
    from chaos_clients import Get, Served


def test_nodes_differ_in_the_etag_and_in_nothing_else(served: Served, get: Get) -> None:
    with served(1000, chaos.NodeEtag(3)) as (server, address, _):
        seen = [get(address, "/o") for _ in range(30)]
        assert len({got.headers["ETag"] for got in seen}) == 3
        assert len({got.headers["Last-Modified"] for got in seen}) == 1
        assert {got.body for got in seen} == {server.expected_bytes("/o")}


def test_if_range_holds_only_at_the_node_that_issued_it(served: Served, get: Get) -> None:
    with served(1000, chaos.NodeEtag(2)) as (_, address, _):
        etag = get(address, "/o").headers["ETag"]
        seen = [get(address, "/o", Range="bytes=10-", If_Range=etag) for _ in range(20)]
        same = [got for got in seen if got.headers["ETag"] == etag]
        other = [got for got in seen if got.headers["ETag"] != etag]
        assert {got.status for got in same} == {206}
        assert {got.status for got in other} == {200}
