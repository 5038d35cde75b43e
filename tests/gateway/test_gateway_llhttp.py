"""Cases of llhttp and h1spec, from the socket of a client to that of an endpoint."""

from __future__ import annotations

import pytest
from gateway_raw import GOOD, check, close, expect, final, run, seen, send, settle
from gateway_rig import answer, gateway

from llhttp_cases import load

HOST = b"\r\nHost: example.org\r\n"


async def fine(upstream, no, writer):
    is_head = upstream.asked[-1][0].startswith("HEAD ")
    made = answer()
    writer.write(made[: made.index(b"\r\n\r\n") + 4] if is_head else made)


def with_host(data: bytes) -> bytes:
    """Return a case with the Host field that most of llhttp's have not."""
    if b"\r\nhost:" in data.lower() or b"\r\n" not in data:
        return data
    return data.replace(b"\r\n", HOST, 1) if not data.startswith(b"\r\n") else data


async def one(case, data, gw, up, step):
    """Send one case in steps; return what is wrong."""
    expected = expect(data)
    up.asked.clear()
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    wrong = await check(gw.port, pieces, expected)
    passed = [(h.method.decode(), h.target.decode("latin-1"), b) for h, b in expected.passed]
    if not wrong and seen(up) != passed:
        wrong = f"the endpoint saw {seen(up)}, not {passed}"
    methods = [method for method, _, _ in passed]
    if not wrong and methods != case.methods[: len(methods)]:
        wrong = f"{methods} passed, llhttp found {case.methods}"
    content = b"".join(body for _, _, body in passed)
    if not wrong and not case.content.startswith(content):
        wrong = f"{content!r} passed, llhttp found {case.content!r}"
    why = "Upgrade" in case.error or "Connection: close" in case.error
    if not wrong and case.error and not why and len(passed) >= len(case.methods):
        wrong = f"passed in spite of: {case.error}"
    return wrong


@pytest.mark.parametrize("step", [1 << 20, 7, 1])
def test_every_request_case_of_llhttp_is_refused_or_passed_on_as_llhttp_reads_it(vectors, step):
    cases = [case for case in load(vectors) if case.kind == "request"]
    assert len(cases) >= 130
    counts = {"passed": 0, "refused": 0, "waiting": 0}

    async def main():
        async with gateway(fine) as (gw, (up,)):
            for case in cases:
                for data in {case.data, with_host(case.data)}:
                    assert await one(case, data, gw, up, step) == "", (case.title, data)
                    expected = expect(data)
                    kind = "passed" if expected.passed else "waiting"
                    counts["refused" if expected.status else kind] += 1

    run(main)
    assert counts["passed"] >= 40
    assert counts["refused"] >= 120
    assert counts["waiting"] <= 15


# The checks of h1spec, written anew: what is sent, and the statuses that are allowed.
GET = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"
WAITS = [GET[:at] for at in range(1, len(GET))]
CHECKS = {
    "no version": (b"GET / \r\n\r\n", {400}),
    "an expectation": (b"GET / HTTP/1.1\r\nHost: e\r\nExpect: 100-continue\r\n\r\n", {200}),
    "a request": (b"GET / HTTP/1.1\r\nHost: e\r\n\r\n", {200}),
    "a tab, an empty field": (b"GET / HTTP/1.1\r\nhoSt:\te\r\nempty:\r\n\r\n", {200}),
    "a bad name": (b"GET / HTTP/1.1\r\nHost: e\r\nX-Invalid[]: test\r\n\r\n", {400}),
    "no Host": (b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", {400}),
    "two Hosts": (b"GET / HTTP/1.1\r\nHost: e\r\nHost: f\r\n\r\n", {400}),
    "far below zero": (b"GET / HTTP/1.1\r\nHost: e\r\nContent-Length: -%d\r\n\r\n" % 9**30, {400}),
    "below zero": (b"GET / HTTP/1.1\r\nHost: e\r\nContent-Length: -1234\r\n\r\n", {400}),
    "no number": (b"GET / HTTP/1.1\r\nHost: e\r\nContent-Length: abc\r\n\r\n", {400}),
    "an empty value": (b"GET / HTTP/1.1\r\nHost: e\r\nX-Empty: \r\n\r\n", {200}),
    "a control character": (b"GET / HTTP/1.1\r\nHost: e\r\nX: test\x07\r\n\r\n", {400}),
    "a strange version": (b"GET / HTTP/9.9\r\nHost: e\r\n\r\n", {505}),
    "a prefix": (b"Extra lineGET / HTTP/1.1\r\nHost: e\r\n\r\n", {400}),
    "a bare CR": (b"GET / HTTP/1.1\r\nHost: e\r\n\rSome-Header: Test\r\n\r\n", {400}),
    "a body": (b"POST / HTTP/1.1\r\nHost: e\r\nContent-Length: 5\r\n\r\nhello", {200}),
    "length and coding": (
        b"GET / HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        {400},
    ),
}


def test_a_request_that_is_not_whole_is_waited_for():
    async def main():
        async with gateway(fine) as (gw, (up,)):
            for data in WAITS:
                reader, writer = await send(gw.port, [data])
                await settle()
                assert not reader._buffer
                assert not reader.at_eof()
                writer.write(GET[len(data) :])
                assert (await final(reader))[0] == 200
                await close(writer)
            assert len(up.asked) == len(WAITS)

    run(main)


@pytest.mark.parametrize("name", CHECKS)
def test_the_checks_of_h1spec(name):
    data, statuses = CHECKS[name]

    async def main():
        async with gateway(fine) as (gw, (up,)):
            reader, writer = await send(gw.port, [data])
            status, _, _ = await final(reader)
            assert status in statuses
            assert len(up.asked) == (status == 200)
            if status == 200:
                writer.write(GOOD)
                assert (await final(reader))[0] == 200
            else:
                assert await reader.read() == b""
            await close(writer)

    run(main)
