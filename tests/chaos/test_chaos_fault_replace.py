from __future__ import annotations

import http.client
from contextlib import closing
from typing import TYPE_CHECKING

from holdfast import chaos

if TYPE_CHECKING:
    from chaos_clients import Get

SIZE = 8 << 20


def test_replaced_object_has_another_etag_and_other_bytes(get: Get) -> None:
    with chaos.server(chaos.Object("/o", 5000, faults=[chaos.Replace(skip=1)])) as server:
        before, after = get(server.address, "/o"), get(server.address, "/o")
        assert before.headers["ETag"] != after.headers["ETag"]
        assert before.headers["Last-Modified"] != after.headers["Last-Modified"]
        assert before.body == server.expected_bytes("/o", version=1)
        assert after.body == server.expected_bytes("/o", version=2)
        assert before.body != after.body
        # Once, by default.
        assert get(server.address, "/o").body == after.body


def test_answer_under_way_keeps_its_version_and_the_next_gets_the_new(get: Get) -> None:
    with chaos.server(chaos.Object("/o", SIZE, faults=[chaos.Replace(after_bytes=1 << 20)])) as s:
        first = http.client.HTTPConnection(s.address, timeout=5)
        with closing(first):
            first.request("GET", "/o")
            response = first.getresponse()
            head = response.read(3 << 20)
            etag = response.headers["ETag"]
            # While the first is under way, the object is another one already.
            rest = {"Range": f"bytes={3 << 20}-", "If-Range": etag}
            second = get(s.address, "/o", **rest)
            assert second.status == 200
            assert second.body == s.expected_bytes("/o", version=2)
            assert head + response.read() == s.expected_bytes("/o", version=1)
            assert list(s.stats.hits) == [chaos.Hit("replace", 1, position=1 << 20)]


def test_replacement_that_is_not_reached_is_not_counted(get: Get) -> None:
    with chaos.server(chaos.Object("/o", 100, faults=[chaos.Replace(after_bytes=150)])) as server:
        get(server.address, "/o")
        assert server.stats.faults == {}
        get(server.address, "/o")
        assert server.stats.faults == {"replace": 1}
        assert get(server.address, "/o").body == server.expected_bytes("/o", version=2)


def test_new_version_may_have_another_size(get: Get) -> None:
    route = chaos.Object("/o", 100, faults=[chaos.Replace(skip=1, size=70)])
    with chaos.server(route) as server:
        sizes = [len(get(server.address, "/o").body) for _ in range(3)]
        assert sizes == [100, 70, 70]
        assert server.replace("/o", 30) == 3
        assert len(get(server.address, "/o").body) == 30
