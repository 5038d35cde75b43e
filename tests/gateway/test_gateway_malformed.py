"""Generated requests, most of them malformed: refused, or passed on as the next hop reads them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from gateway_raw import LOOPS, check, expect, run
from gateway_rig import answer, gateway
from hops import HOPS, record, text
from malformed_generator import cases

from holdfast import Endpoint, Gateway

SEED = 9112
SAMPLE, ALL = 1000, 10_000
COUNTS = [SAMPLE, pytest.param(ALL, marks=[pytest.mark.long, pytest.mark.timeout(900)])]

HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"content-length",
    b"host",
    b"expect",
    b"forwarded",
}
NEVER_NAMED = {b"host", b"content-length", b"transfer-encoding", b"via"}


async def fine(upstream, no, writer):
    is_head = upstream.asked[-1][0].startswith("HEAD ")
    made = answer()
    writer.write(made[: made.index(b"\r\n\r\n") + 4] if is_head else made)


def test_a_case_is_the_same_for_the_same_seed():
    some = cases(SEED, 50)
    assert [one.pieces for one in some] == [one.pieces for one in cases(SEED, 60)[:50]]
    assert some[7].pieces != cases(SEED + 1, 8)[7].pieces


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("count", COUNTS)
def test_each_is_refused_or_passed_on_and_its_connection_is_in_the_right_state(count, loop):
    """Never a crash, a hang or a 500; nothing that we did not read goes to an endpoint."""
    kinds = Counter()

    async def main():
        errors = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: errors.append(what))
        async with gateway(fine) as (gw, (up,)):
            for case in cases(SEED, count):
                expected = expect(case.data)
                up.asked.clear()
                assert await check(gw.port, case.pieces, expected) == "", (case, expected)
                asked = [(*line.split(" ")[:2], body) for line, _, body in up.asked]
                passed = [(text(h.method), text(h.target), b) for h, b in expected.passed]
                assert asked[: len(passed)] == passed, case
                assert [one[1] for one in asked[len(passed) :]] in ([], ["/good"]), case
                kinds[expected.status or ("waits" if expected.waits else "passed")] += 1
            assert gw.cluster.balancer.endpoints[0].health.in_flight == 0
        assert errors == []

    run(main, 800, loop=loop)
    print(dict(kinds))  # noqa: T201 - shown with -s
    assert kinds[400] > count * 0.3
    assert kinds["passed"] > count * 0.15
    assert min(kinds[status] for status in (405, 413, 414, 417, 431, 501, 505)) >= 1


def told(head):
    """The fields that an endpoint should get, by the rules for what belongs to one connection."""
    dropped = HOP_BY_HOP | (head.options - NEVER_NAMED)
    return [
        [text(name), text(value.strip(b" \t"))]
        for name, value in head.fields
        if name.lower() not in dropped
        and b"_" not in name
        and not name.lower().startswith((b"proxy-", b"x-forwarded-"))
    ]


def without_ours(seen):
    """What a hop saw, without what the gateway puts in itself."""
    method, target, fields, size, digest = seen
    ours = {"host", "content-length", "via"}
    kept = [[name, value.strip(" \t")] for name, value in fields if name.lower() not in ours]
    return [method, target, kept, size, digest]


def is_single(head):
    """Whether a field is repeated of which aiohttp takes one only; it refuses the request."""
    names = [name.lower() for name, _ in head.fields]
    return any(names.count(name) > 1 for name in (b"content-type", b"range", b"cookie"))


def lengths(seen):
    return [int(value) for name, value in seen[2] if name.lower() == "content-length"]


@pytest.mark.parametrize("count", [300, *COUNTS[1:]])
@pytest.mark.parametrize("name", HOPS)
def test_what_passes_is_read_by_the_next_hop_as_we_read_it(name, count):
    """The method, the target, the fields, the body, and how many requests there are."""

    async def main():
        async with (
            HOPS[name]() as hop,
            Gateway(
                endpoints=[Endpoint(f"http://127.0.0.1:{hop.port}")], listen="127.0.0.1:0"
            ) as gw,
        ):
            passed = refused = 0
            for case in cases(SEED, count):
                expected = expect(case.data)
                if not expected.passed:
                    continue
                wrong = await check(gw.port, case.pieces, expected)
                seen = [one for one in await hop.seen() if one[1] != "/good"]
                if wrong and name == "aiohttp" and any(is_single(h) for h, _ in expected.passed):
                    refused += 1
                    await asyncio.sleep(0.02)  # what was pipelined behind it may still come
                    await hop.seen()
                    continue
                wanted = [
                    record(text(head.method), text(head.target), told(head), body)
                    for head, body in expected.passed
                ]
                assert wrong == "", (case, seen)
                assert [without_ours(one) for one in seen] == wanted, case
                for one in seen:
                    assert lengths(one) in ([], [one[3]])
                    assert [v for n, v in one[2] if n.lower() == "host"] == [
                        f"127.0.0.1:{hop.port}"
                    ]
                passed += len(seen)
            assert hop.refused == 0
            assert refused < count * 0.05
            assert passed > count * 0.3
            print(name, passed, refused)  # noqa: T201 - shown with -s

    run(main, 800)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("name", HOPS)
def test_a_large_body_goes_on_as_it_comes_and_arrives_as_it_was(name, chunked):
    """Beyond what is read whole: with its length if it is known, in chunks of ours if not."""
    draw = random.Random(SEED)
    body = draw.randbytes(1_500_000)
    pieces = [body[at : at + 70_001] for at in range(0, len(body), 70_001)]
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    if chunked:
        pieces = [b"%x;n=%d\r\n%b\r\n" % (len(one), n, one) for n, one in enumerate(pieces)]
        pieces.append(b"0\r\nSum: 1\r\n\r\n")
    data = b"".join([b"POST /large HTTP/1.1\r\nHost: h\r\n", framing, b"\r\n\r\n", *pieces])

    async def main():
        async with (
            HOPS[name]() as hop,
            Gateway(
                endpoints=[Endpoint(f"http://127.0.0.1:{hop.port}")], listen="127.0.0.1:0"
            ) as gw,
        ):
            for step in (len(data), 65_536):
                cuts = [data[at : at + step] for at in range(0, len(data), step)]
                assert await check(gw.port, cuts, expect(data)) == ""
                seen = [one for one in await hop.seen() if one[1] != "/good"]
                assert [without_ours(one)[:2] for one in seen] == [["POST", "/large"]]
                assert seen[0][3:] == record("", "", [], body)[3:]
            assert hop.refused == 0

    run(main)
