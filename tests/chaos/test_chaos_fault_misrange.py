from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from holdfast import chaos

if TYPE_CHECKING:
    from chaos_clients import Get, Served

SIZE = 10_000


@pytest.mark.parametrize(
    ("how", "status", "named", "part"),
    [
        ("shifted", 206, "bytes 999-1998/10000", (999, 1999)),
        ("lying", 206, "bytes 1000-1999/10000", (999, 1999)),
        ("unnamed", 206, None, (1000, 2000)),
        ("whole", 200, None, (0, SIZE)),
        ("200", 200, "bytes 1000-1999/10000", (1000, 2000)),
        ("total", 206, "bytes 1000-1999/10001", (1000, 2000)),
    ],
)
def test_wrong_range_answers(
    how: str, status: int, named: str | None, part: tuple[int, int], served: Served, get: Get
) -> None:
    with served(SIZE, chaos.Misrange(how)) as (server, address, _):
        got = get(address, "/o", Range="bytes=1000-1999")
        assert (got.status, got.headers.get("Content-Range")) == (status, named)
        assert got.body == server.expected_bytes("/o", *part)
        assert got.error is None
        assert get(address, "/o").body == server.expected_bytes("/o")


def test_multipart_for_a_single_range(served: Served, get: Get) -> None:
    with served(SIZE, chaos.Misrange("multipart")) as (server, address, _):
        got = get(address, "/o", Range="bytes=1000-1999")
        kind, boundary = got.headers["Content-Type"].split("; boundary=")
        assert (got.status, kind) == (206, "multipart/byteranges")
        _, part, end = got.body.split(f"--{boundary}".encode())
        head, content = part.split(b"\r\n\r\n", 1)
        assert b"Content-Range: bytes 1000-1999/10000" in head
        assert content == server.expected_bytes("/o", 1000, 2000) + b"\r\n"
        assert end == b"--\r\n"


def test_unknown_way_is_refused() -> None:
    with pytest.raises(ValueError, match="'sideways' is none of"):
        chaos.Misrange("sideways")  # type: ignore[arg-type]
