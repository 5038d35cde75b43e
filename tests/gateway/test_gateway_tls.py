"""TLS to endpoints, verified, and TLS to clients; on both event loops, over real sockets."""

from __future__ import annotations

import asyncio
import functools
import json
import shutil
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop
from gateway_rig import always, answer, ask, gateway

from certificates import Pair, make
from holdfast.core.health import Tier
from holdfast.gateway.config import EndpointConfig, GatewayConfig
from holdfast.gateway.dial import Dialer
from holdfast.gateway.options import ConfigError
from holdfast.gateway.tls import endpoint_context, listener_context, renew
from holdfast.runtime.clock import clock

OK = answer()
EVENT = b"data: 1\n\n"


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A certificate for the address that all listen at."""
    return make(tmp_path_factory.mktemp("here"), "here", "IP:127.0.0.1")


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A certificate for a name that leads nowhere."""
    return make(tmp_path_factory.mktemp("named"), "named", "DNS:api.example")


def on_both_loops(test):
    """Run an async test on asyncio's loop, then on uvloop's."""

    @functools.wraps(test)
    def run(*args, **options):
        for new_loop in (asyncio.new_event_loop, uvloop.new_event_loop):
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(asyncio.wait_for(test(*args, **options), 20))

    return run


# -- to endpoints --------------------------------------------------------------------------------


@on_both_loops
async def test_an_endpoint_whose_certificate_is_trusted_is_served_over_kept_connections(here):
    each = f'ca_file = "{here.cert}"'
    async with gateway(always(OK), each=each, secure=here.server()) as (made, (up,)):
        for _ in range(5):
            assert (await ask(made.port))[::2] == (200, b"fine")
        assert up.connections == 1


@on_both_loops
async def test_one_that_is_not_trusted_gets_nothing(here):
    async with gateway(always(OK), secure=here.server(), settings="attempts = 2") as (
        made,
        (up,),
    ):
        status, _, body = await ask(made.port)
        assert status == 502
        told = json.loads(body)["holdfast"]
        assert told["sent"] == "no"
        assert "Verif" in told["attempts"][0]["verdict"]
        assert up.asked == []
        health = made.cluster.balancer.endpoints[0].health
        assert health.counts(clock.monotonic()).failures


@on_both_loops
async def test_a_certificate_for_another_name_is_refused_unless_that_is_asked_for(named):
    each = f'ca_file = "{named.cert}"'
    async with gateway(always(OK), each=each, secure=named.server(), settings="attempts = 2") as (
        made,
        (up,),
    ):
        assert (await ask(made.port))[0] == 502
        assert up.asked == []
    asked = []
    server = named.server()
    server.sni_callback = lambda sock, name, context: asked.append(name)
    each += '\nhost = "api.example"'
    async with gateway(always(OK), each=each, secure=server) as (made, (up,)):
        assert (await ask(made.port))[0] == 200
        assert asked == ["api.example"]
        assert "Host: api.example\r\n" in up.asked[0][1]


@on_both_loops
async def test_whoever_wants_it_goes_without_verification(named):
    async with gateway(always(OK), each="verify = false", secure=named.server()) as (made, _):
        assert (await ask(made.port))[0] == 200


@on_both_loops
async def test_an_end_that_tls_did_not_announce_is_a_cut(here):
    """A body without a length ends with the connection; anybody on the way can end that."""
    announced = True

    async def script(upstream, no, writer):
        writer.write(b"HTTP/1.1 200 X\r\n\r\nall of it")
        await writer.drain()
        await asyncio.sleep(0.02)
        if not announced:
            writer.transport.abort()
        return False

    each = f'ca_file = "{here.cert}"'
    async with gateway(script, each=each, secure=here.server(), settings="attempts = 1") as (
        made,
        _,
    ):
        assert (await ask(made.port, "GET", "/"))[::2] == (200, b"all of it")
        announced = False
        assert (await ask(made.port, "GET", "/"))[0] == 502


@on_both_loops
async def test_a_handshake_that_never_ends_is_given_up_and_costs_the_client_nothing(here):
    async def silent(reader, writer):
        await reader.read()
        writer.close()

    hangs = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = hangs.sockets[0].getsockname()[1]
    each = f'ca_file = "{here.cert}"\nconnect_timeout = "150ms"'
    bad = f'[[gateway.g.endpoint]]\nurl = "https://127.0.0.1:{port}"\nconnect_timeout = "150ms"\n'
    settings = f"{bad}priority = 0\n"
    async with gateway(always(OK), each=each, secure=here.server(), settings=settings) as (
        made,
        (up,),
    ):
        for _ in range(3):
            assert (await ask(made.port))[0] == 200
        assert len(up.asked) == 3
        first = made.cluster.balancer.endpoints[0]
        assert first.health.tier(clock.monotonic()) > Tier.HEALTHY
    hangs.close()


@on_both_loops
async def test_a_second_connection_resumes_the_session_of_the_first(here):
    async def once(upstream, no, writer):
        reused.append(writer.transport.get_extra_info("ssl_object").session_reused)
        writer.write(answer(200, b"fine", "Connection: close"))
        return False

    reused = []
    each = f'ca_file = "{here.cert}"'
    async with gateway(once, each=each, secure=here.server()) as (made, (up,)):
        for _ in range(4):
            assert (await ask(made.port))[0] == 200
        assert up.connections == 4
    assert reused == [False, True, True, True]


@on_both_loops
async def test_a_server_that_forgot_the_session_is_served_all_the_same(here):
    async def once(upstream, no, writer):
        writer.write(answer(200, b"fine", "Connection: close"))
        return False

    each = f'ca_file = "{here.cert}"'
    async with gateway(once, each=each, secure=here.server()) as (made, (up,)):
        assert (await ask(made.port))[0] == 200
        port = up.server.sockets[0].getsockname()[1]
        up.server.close()
        up.server = await asyncio.start_server(up.serve, "127.0.0.1", port, ssl=here.server())
        assert (await ask(made.port))[0] == 200
        up.server.close()


class Known:
    """A name of which one address refuses: so TLS begins on the connection that won."""

    async def addresses(self, host, port):
        return ["127.0.0.2", "127.0.0.1"]


class Talks(asyncio.Protocol):
    """Says hello when it may; notes what it was told, in order."""

    def __init__(self):
        self.told = []
        self.over = asyncio.Event()

    def connection_made(self, transport):
        self.told.append("made")
        self.transport = transport
        transport.write(b"hello")

    def data_received(self, data):
        self.told.append(data)
        self.transport.close()

    def connection_lost(self, error):
        self.told.append("lost")
        self.over.set()


async def echoes(reader, writer):
    writer.write(await reader.read(100))
    await reader.read()
    writer.close()


def dialer(server, context, name):
    loop = asyncio.get_running_loop()
    port = server.sockets[0].getsockname()[1]
    return Dialer(loop, Known(), "up", port, context=context, name=name)


@on_both_loops
async def test_tls_begins_on_the_connection_that_won_the_race(here):
    server = await asyncio.start_server(echoes, "127.0.0.1", 0, ssl=here.server())
    context = endpoint_context(EndpointConfig(url="https://up", ca_file=here.cert))
    made = await dialer(server, context, "127.0.0.1").open(Talks)
    await made.over.wait()
    assert made.told == ["made", b"hello", "lost"]
    server.close()


@on_both_loops
async def test_after_the_race_a_certificate_is_verified_as_well(here, named):
    server = await asyncio.start_server(echoes, "127.0.0.1", 0, ssl=here.server())
    for ca_file, name in ((here.cert, "api.example"), (named.cert, "127.0.0.1")):
        context = endpoint_context(EndpointConfig(url="https://up", ca_file=ca_file))
        with pytest.raises(ssl.SSLCertVerificationError):
            await dialer(server, context, name).open(Talks)
    server.close()


@on_both_loops
async def test_after_the_race_a_peer_that_leaves_or_says_nothing_leaves_nothing_behind(here):
    async def leaves(reader, writer):
        await reader.read(1)
        writer.close()

    async def silent(reader, writer):
        await reader.read()
        writer.close()

    context = endpoint_context(EndpointConfig(url="https://up", ca_file=here.cert))
    server = await asyncio.start_server(leaves, "127.0.0.1", 0)
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await dialer(server, context, "127.0.0.1").open(Talks)
    server.close()
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    task = asyncio.create_task(dialer(server, context, "127.0.0.1").open(Talks))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.close()
    await asyncio.sleep(0.05)


# -- to clients ----------------------------------------------------------------------------------


def listening(pair):
    return f'tls_cert = "{pair.cert}"\ntls_key = "{pair.key}"'


async def open_secure(made, pair):
    return await asyncio.open_connection("127.0.0.1", made.port, ssl=pair.client())


def shown(writer):
    """Return the certificate that a server shows."""
    return writer.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)


def replace(new, old):
    """Put the files of one pair in the place of another's."""
    for source, target in zip(new, old, strict=True):
        shutil.copyfile(source, target)


def der(pair):
    return ssl.PEM_cert_to_DER_cert(Path(pair.cert).read_text(encoding="ascii"))


@on_both_loops
async def test_clients_are_served_over_tls(here):
    async with gateway(always(OK), settings=listening(here)) as (made, (up,)):
        assert made.url.startswith("https://")
        keep = await open_secure(made, here)
        assert keep[1].transport.get_extra_info("ssl_object").version() >= "TLSv1.2"
        for n in range(3):
            assert (await ask(made.port, keep=keep, body=b"%d" % n))[0] == 200
        keep[1].close()
        assert [body for _, _, body in up.asked] == [b"0", b"1", b"2"]


@on_both_loops
async def test_streams_pass_over_tls_event_by_event(here):
    go = asyncio.Event()

    async def streams(upstream, no, writer):
        writer.write(b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\n\r\n" + EVENT)
        await go.wait()
        writer.write(EVENT)
        await writer.drain()
        return False

    async with gateway(streams, settings=listening(here)) as (made, _):
        reader, writer = await open_secure(made, here)
        writer.write(b"GET /s HTTP/1.1\r\nHost: a\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert await reader.readline() == b"9\r\n"
        assert await reader.readexactly(9) == EVENT
        go.set()
        assert b"text/event-stream" in head
        rest = await reader.readuntil(b"0\r\n\r\n")
        assert EVENT in rest
        writer.close()


@on_both_loops
async def test_who_speaks_no_tls_is_turned_away_and_others_are_served(here):
    async with gateway(always(OK), settings=listening(here)) as (made, (up,)):
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200" not in await reader.read()
        writer.close()
        assert up.asked == []
        keep = await open_secure(made, here)
        assert (await ask(made.port, keep=keep))[0] == 200
        keep[1].close()


@on_both_loops
async def test_a_renewed_certificate_is_shown_from_then_on_and_cuts_nobody(tmp_path):
    first = make(tmp_path, "first", "IP:127.0.0.1")
    config = f"{listening(first)}"
    async with gateway(always(OK), settings=config) as (made, _):
        keep = await open_secure(made, first)
        assert shown(keep[1]) == der(first)
        second = make(tmp_path, "second", "IP:127.0.0.1")
        replace(second, first)
        made.use(made.config)
        again = await open_secure(made, first)
        assert shown(again[1]) == der(first) != shown(keep[1])
        for connection in (keep, again):
            assert (await ask(made.port, keep=connection))[0] == 200
            connection[1].close()


@on_both_loops
async def test_a_renewal_that_cannot_be_used_is_an_error_and_the_old_one_is_still_shown(
    here, tmp_path
):
    pair = make(tmp_path, "own", "IP:127.0.0.1")
    before = der(pair)
    async with gateway(always(OK), settings=listening(pair)) as (made, _):
        good = make(tmp_path, "good", "IP:127.0.0.1")
        replace(pair, good)
        replace(Pair(here.cert, good.key), pair)
        with pytest.raises(ConfigError, match="not that of the certificate"):
            made.use(made.config)
        replace(good, pair)
        keep = await open_secure(made, pair)
        assert shown(keep[1]) == before
        assert (await ask(made.port, keep=keep))[0] == 200
        keep[1].close()


# -- files that cannot be used -------------------------------------------------------------------


def config(cert, key):
    endpoint = EndpointConfig(url="http://127.0.0.1:9")
    return GatewayConfig(endpoint=[endpoint], tls_cert=str(cert), tls_key=str(key))


def problem(pair):
    with pytest.raises(ConfigError) as caught:
        listener_context(config(*pair))
    (found,) = caught.value.problems
    assert caught.value.code == "HF-3201"
    return found.path, found.text


def test_each_file_of_no_use_is_named_with_what_is_wrong(here, named, tmp_path):
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("no PEM at all", encoding="ascii")
    assert problem((tmp_path / "gone", here.key)) == (
        "tls_cert",
        f"`{tmp_path / 'gone'}` cannot be read (No such file or directory)",
    )
    assert problem((here.cert, tmp_path)) == (
        "tls_key",
        f"`{tmp_path}` cannot be read (Is a directory)",
    )
    assert problem((nothing, here.key))[0] == "tls_cert"
    assert problem((here.cert, nothing))[0] == "tls_key"
    setting, text = problem((here.cert, named.key))
    assert setting == "tls_key"
    assert "not that of the certificate" in text


def test_an_encrypted_key_asks_nobody_for_a_password(here, tmp_path):
    import subprocess  # noqa: PLC0415 - only here

    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "ec", "-in", here.key, "-aes256", "-passout", "pass:x", "-out", str(locked)],
        check=True,
        capture_output=True,
    )
    setting, text = problem((here.cert, locked))
    assert setting == "tls_key"
    assert "encrypted" in text


def test_without_a_certificate_clients_speak_plain_http():
    assert listener_context(config("", "")) is None


def test_a_ca_file_of_no_use_is_found_before_the_first_request(tmp_path):
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("no PEM at all", encoding="ascii")
    for path, text in ((nothing, "no certificate"), (tmp_path / "gone", "cannot be read")):
        with pytest.raises(ConfigError, match=text) as caught:
            endpoint_context(EndpointConfig(url="https://up", id="up", ca_file=str(path)))
        assert caught.value.problems[0].path == "ca_file"
        assert "`up`" in caught.value.problems[0].text


def test_a_renewal_that_fails_leaves_the_context_whole(here, named):
    context = listener_context(config(*here))
    assert context is not None
    with pytest.raises(ConfigError):
        renew(context, config(here.cert, named.key))
    assert handshake(context, here.client()) == der(here)


def handshake(server, client):
    """Shake hands in memory; return the certificate that was shown."""
    there, here = (ssl.MemoryBIO(), ssl.MemoryBIO()), (ssl.MemoryBIO(), ssl.MemoryBIO())
    ends = [
        server.wrap_bio(there[0], here[0], server_side=True),
        client.wrap_bio(here[0], there[0], server_hostname="127.0.0.1"),
    ]
    for _ in range(4):
        for end in ends:
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends[1].getpeercert(binary_form=True)


def test_authorities_are_read_once_for_all_and_anew_when_their_file_has_changed(here, tmp_path):
    path = tmp_path / "ca.pem"
    shutil.copy(here.cert, path)

    def context(**settings):
        return endpoint_context(EndpointConfig(url="https://up", ca_file=str(path), **settings))

    first = context()
    assert context(weight=7) is first
    assert context(verify=False) is not first
    path.write_bytes(path.read_bytes() + b"\n")
    assert context() is not first
