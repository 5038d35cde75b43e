"""What is of one connection stays there: versions, targets, framing and fields, over sockets."""

from __future__ import annotations

import asyncio
import json

import pytest
from gateway_raw import LOOPS, close, final, run, send, settle
from gateway_rig import always, answer, ask, gateway

import holdfast as hf

OK = answer()


async def asked(
    data: bytes, settings: str = "", fields: bytes = b""
) -> tuple[str, list[str], bytes]:
    """Send one request; return what the endpoint got: its first line, its fields, its body."""
    async with gateway(always(OK), settings=settings) as (gw, (up,)):
        reader, writer = await send(gw.port, [data])
        await final(reader)
        await close(writer)
        assert len(up.asked) == 1
        line, head, body = up.asked[0]
        return line, head.split("\r\n")[1:-2], body


def names(fields: list[str]) -> list[str]:
    return [one.partition(":")[0] for one in fields]


# -- versions and expectations ---------------------------------------------------------------------


@pytest.mark.parametrize("fields", [b"", b"Host: a\r\n", b"Connection: keep-alive\r\n"])
def test_http_1_0_is_served_and_the_connection_ends(fields):
    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            reader, writer = await send(gw.port, [b"GET / HTTP/1.0\r\n" + fields + b"\r\n"])
            given = await reader.read()
            assert given.startswith(b"HTTP/1.1 200 ")
            assert b"Connection: close\r\n" in given
            assert up.asked[0][0] == "GET / HTTP/1.1"
            await close(writer)

    run(main)


POST = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize(
    ("framing", "body"),
    [(b"Content-Length: 2\r\n\r\n", b"{}"), (b"Transfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n")],
)
def test_an_expectation_is_met_by_us_and_goes_no_further(framing, body):
    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            reader, writer = await send(gw.port, [POST + framing])
            assert await reader.readexactly(len(CONTINUE)) == CONTINUE
            assert up.asked == []
            writer.write(body)
            assert (await final(reader))[0] == 200
            assert "expect" not in up.asked[0][1].lower()
            await close(writer)

    run(main)


@pytest.mark.parametrize(
    "data",
    [
        POST + b"Content-Length: 2\r\n\r\n{}",
        POST + b"Content-Length: 0\r\n\r\n",
        POST.replace(b"1.1", b"1.0") + b"Content-Length: 2\r\n\r\n",
    ],
)
def test_nobody_is_told_to_continue_who_need_not_be(data):
    """Whose body is there, who has none, and who speaks HTTP/1.0 (RFC 9110, 10.1.1)."""

    async def main():
        async with gateway(always(OK)) as (gw, _):
            reader, writer = await send(gw.port, [data])
            await settle()
            if data.endswith(b"2\r\n\r\n"):
                writer.write(b"{}")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            await close(writer)

    run(main)


def test_another_switch_without_a_body_is_served_as_usual_and_then_the_connection_ends():
    data = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"

    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            reader, writer = await send(gw.port, [data + b"HTTP2-Settings: x\r\n\r\n"] * 2)
            given = await reader.read()
            assert given.count(b"HTTP/1.1 ") == 1
            assert b"Connection: close" in given
            assert names(up.asked[0][1].split("\r\n")[1:-2]) == ["Host", "Via"]
            assert len(up.asked) == 1
            await close(writer)

    run(main)


# -- targets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "target"),
    [
        (b"GET /a/../b//c;d?e=%20&&f=/?# HTTP/1.1", ""),
        (b"GET /a/../b//c;d?e=%20&&f=/? HTTP/1.1", "/a/../b//c;d?e=%20&&f=/?"),
        (b"GET http://a/x?y HTTP/1.1", "/x?y"),
        (b"GET HTTP://A HTTP/1.1", "/"),
        (b"GET http://a?y HTTP/1.1", "/?y"),
        (b"GET http://b/x HTTP/1.1", ""),
        (b"GET http://a:80/x HTTP/1.1", ""),
        (b"OPTIONS * HTTP/1.1", "*"),
        (b"OPTIONS http://a HTTP/1.1", "*"),
        (b"OPTIONS http://a/ HTTP/1.1", "/"),
    ],
)
def test_a_target_goes_on_as_it_is_and_an_absolute_one_only_if_it_is_that_of_host(line, target):
    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            reader, writer = await send(gw.port, [line + b"\r\nHost: a\r\n\r\n"])
            assert (await final(reader))[0] == (200 if target else 400)
            assert [one.split(" ")[1] for one, _, _ in up.asked] == ([target] if target else [])
            await close(writer)

    run(main)


def test_the_path_of_an_endpoint_goes_before_a_path_and_not_before_a_star():
    from holdfast.gateway.headers import NOBODY, request_head, route  # noqa: PLC0415
    from holdfast.wire.requests import parse_head  # noqa: PLC0415

    to = route(host="h", base="/openai/", headers={}, credentials=True)
    for line, wanted in ((b"GET /v1?x", b"GET /openai/v1?x "), (b"OPTIONS *", b"OPTIONS * ")):
        head = parse_head(line + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert request_head(head, to, NOBODY, length=0).startswith(wanted)


# -- bodies ----------------------------------------------------------------------------------------


def test_a_chunked_body_goes_on_with_its_length_and_without_trailers():
    async def main():
        line, fields, body = await asked(
            b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n"
            b"5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nSum: 1\r\nContent-Length: 3\r\n\r\n"
        )
        assert (line, body) == ("POST /x HTTP/1.1", b"hello world")
        assert names(fields) == ["Host", "Via", "Content-Length"]
        assert "Content-Length: 11" in fields

    run(main)


@pytest.mark.parametrize(("method", "told"), [(b"POST", True), (b"PUT", True), (b"GET", False)])
def test_a_request_without_a_body_says_so_if_its_method_has_one(method, told):
    async def main():
        _, fields, body = await asked(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert body == b""
        assert ("Content-Length: 0" in fields) is told

    run(main)


# -- fields ----------------------------------------------------------------------------------------

HOP = [
    "Keep-Alive: timeout=5",
    "Proxy-Connection: keep-alive",
    "Proxy-Authorization: Basic eA==",
    "TE: trailers",
    "Trailer: X",
    "Upgrade: x",
    "X_Y: 1",
    "Content_Length: 1",
    "Transfer_Encoding: chunked",
]


def test_fields_of_the_connection_go_no_further_to_the_endpoint():
    async def main():
        lines = [*HOP, "Connection: close, X-Named", "x-nAMED: 1", "X-Kept: 1", "X-Kept: 2"]
        data = "\r\n".join(["GET / HTTP/1.1", "Host: a", *lines, "", ""]).encode()
        _, fields, _ = await asked(data)
        assert [one for one in fields if not one.startswith(("Host", "Via"))] == [
            "X-Kept: 1",
            "X-Kept: 2",
        ]

    run(main)


def test_fields_of_the_connection_go_no_further_to_the_client():
    async def main():
        lines = [*HOP, "Connection: X-Named", "x-nAMED: 1", "Set-Cookie: a=1", "Set-Cookie: b=2"]
        async with gateway(always(answer(200, b"fine", *lines)), settings="expose = false") as (
            gw,
            _,
        ):
            _, head, _ = await ask(gw.port)
            fields = head.split("\r\n")[1:-2]
            assert sorted(names(fields)) == ["Content-Length", "Set-Cookie", "Set-Cookie", "Via"]

    run(main)


@pytest.mark.parametrize(
    "name",
    ["Host", "Content-Length", "Transfer-Encoding", "Forwarded", "Via", "X-Forwarded-For"],
)
def test_connection_cannot_name_away_what_makes_the_request(name):
    async def main():
        data = (
            f"POST / HTTP/1.1\r\nHost: a\r\nConnection: {name}\r\nForwarded: for=b\r\n"
            "X-Forwarded-For: b\r\nVia: 1.0 b\r\nContent-Length: 2\r\n\r\n{}"
        )
        settings = 'trusted_proxies = ["127.0.0.0/8"]'
        _, fields, body = await asked(data.encode(), settings)
        assert body == b"{}"
        assert {"Content-Length: 2", "Forwarded: for=b", "X-Forwarded-For: b"} <= set(fields)
        assert any(one.startswith("Via: 1.0 b, 1.1 holdfast-") for one in fields)
        assert fields[0].startswith("Host: 127.0.0.1:")

    run(main)


def test_forwarding_fields_are_believed_of_trusted_proxies_only():
    async def main():
        data = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\nForwarded: for=b\r\n\r\n"
        assert names((await asked(data))[1]) == ["Host", "Via"]
        told = (await asked(data, 'trusted_proxies = ["127.0.0.1/32"]'))[1]
        assert names(told) == ["Host", "X-Forwarded-Proto", "Forwarded", "Via"]

    run(main)


def test_a_request_that_comes_back_is_refused():
    async def main():
        async with gateway(always(OK)) as (gw, (up,)):
            await ask(gw.port)
            via = next(one for one in up.asked[0][1].split("\r\n") if one.startswith("Via"))
            status, _, body = await ask(gw.port, "POST", "/", b"{}", via)
            assert (status, json.loads(body)["error"]["code"]) == (508, "HF-3010")
            assert len(up.asked) == 1

    run(main)


# -- large bodies that go wrong --------------------------------------------------------------------


class Taking(asyncio.Protocol):
    """Takes all, answers nothing."""

    def __init__(self):
        self.data = bytearray()
        self.gone = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        self.data += data

    def connection_lost(self, error):
        self.gone.set_result(None)


LARGE = b"x" * 1_200_000
BREAKS = {
    "a bad length": b"zz\r\n",
    "a chunk that is longer": b"1\r\nab\r\n",
    "a bare LF": b"1\na\n",
    "long trailers": b"0\r\nA: " + b"b" * 9000,
    "the end of the connection": None,
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", BREAKS)
def test_a_large_body_that_breaks_never_becomes_a_whole_request(name, loop):
    """It was given on as it came: the endpoint must see that it is not all."""
    made = []

    def serve():
        made.append(Taking())
        return made[-1]

    async def main():
        served = await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{served.sockets[0].getsockname()[1]}"
        async with hf.Gateway(endpoints=[hf.Endpoint(url)], listen="127.0.0.1:0") as gw:
            head = b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            chunk = b"%x\r\n%b\r\n" % (len(LARGE), LARGE)
            reader, writer = await send(gw.port, [head, chunk])
            for _ in range(500):
                if made and len(made[0].data) >= len(LARGE):
                    break
                await asyncio.sleep(0.01)
            if BREAKS[name] is None:
                await close(writer)
            else:
                writer.write(BREAKS[name])
                assert (await final(reader))[0] == 400
                assert await reader.read() == b""
                await close(writer)
            await asyncio.wait_for(made[0].gone, 5)
            assert b"chunked" in made[0].data.partition(b"\r\n\r\n")[0]
            assert not made[0].data.endswith(b"0\r\n\r\n")
            assert len(made) == 1
            assert gw.cluster.balancer.endpoints[0].health.in_flight == 0
        served.close()

    run(main, loop=loop)
