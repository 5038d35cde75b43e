from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast import chaos

if TYPE_CHECKING:
    from chaos_clients import Get, Served


def test_portal_answers_in_place_of_the_object(served: Served, get: Get) -> None:
    with served(1000, chaos.Captive(limit=1)) as (server, address, _):
        page, got = get(address, "/o", Range="bytes=5-9"), get(address, "/o")
        assert page.status == 200
        assert page.headers["Content-Type"].startswith("text/html")
        assert page.body.startswith(b"<!DOCTYPE html>")
        assert got.body == server.expected_bytes("/o")
