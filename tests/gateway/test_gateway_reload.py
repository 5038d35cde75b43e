"""Another configuration while it runs: what stays, what goes, what is refused."""

from __future__ import annotations

import asyncio
import functools
import re
import tomllib
from urllib.parse import urlsplit

import pytest
from gateway_rig import always, answer, ask, gateway, read, until

import holdfast as hf
from holdfast.core.breaker import State
from holdfast.gateway.client import Client
from holdfast.gateway.config import read_gateways
from holdfast.gateway.gateway import ConfigError, Gateway


def on_loop(test):
    """Run a test on a loop of its own, for 40 s at most."""

    @functools.wraps(test)
    def run(**fixtures):
        asyncio.run(asyncio.wait_for(test(**fixtures), 40))

    return run


def config(*ends, settings=""):
    """Return a configuration. ends: (id, port, further lines)."""
    text = f'[gateway.g]\nlisten = "127.0.0.1:0"\n{settings}\n'
    for name, port, *lines in ends:
        text += f'[[gateway.g.endpoint]]\nurl = "http://127.0.0.1:{port}"\n'
        text += "\n".join([f'id = "{name}"' if name else "", *lines]) + "\n"
    result = read_gateways(tomllib.loads(text))
    assert not result.problems, result.problems
    return result.value["g"]


def port_of(made, name):
    return urlsplit(upstream_of(made, name).config.url).port


def upstream_of(made, name):
    return next(one for one in made.cluster.upstreams if one.endpoint.id == name)


@on_loop
async def test_new_requests_take_the_new_rules_on_connections_that_are_open():
    async with gateway(always(answer())) as (made, _):
        keep = await asyncio.open_connection("127.0.0.1", made.port)
        _, head, _ = await ask(made.port, keep=keep)
        assert "x-holdfast-request" in head
        await made.reload(config(("a", port_of(made, "a")), settings="expose = false"))
        _, head, _ = await ask(made.port, keep=keep)
        assert "x-holdfast-request" not in head
        keep[1].close()


@on_loop
async def test_what_is_told_of_a_client_that_is_connected_is_told_by_the_new_rules():
    said = ("X-Forwarded-For: 1.2.3.4",)
    trusts = 'trusted_proxies = ["127.0.0.0/8"]'
    async with gateway(always(answer()), settings="forwarded = true") as (made, (up,)):
        keep = await asyncio.open_connection("127.0.0.1", made.port)
        for settings, told in [
            ("", []),
            (trusts, ["1.2.3.4"]),
            (f"forwarded = true\n{trusts}", ["1.2.3.4", "127.0.0.1"]),
            ("", []),
            ("forwarded = true\nmax_per_ip = 1", ["127.0.0.1"]),
        ]:
            await ask(made.port, "POST", "/v1/messages", b"{}", *said, keep=keep)
            await made.reload(config(("a", port_of(made, "a")), settings=settings))
            for _ in range(2):
                await ask(made.port, "POST", "/v1/messages", b"{}", *said, keep=keep)
                assert re.findall("X-Forwarded-For: (.*)\r", up.asked[-1][1]) == told
        keep[1].close()
        await until(lambda: not made.clients)
        assert made.lobby.count == 0
        assert (await ask(made.port))[0] == 200


@on_loop
async def test_an_ipv4_client_at_a_socket_for_both_families_is_its_address():
    class Peer(asyncio.Transport):
        def get_extra_info(self, name, default=None):
            return ("::ffff:192.0.2.7", 4711, 0, 0) if name == "peername" else default

        def set_write_buffer_limits(self, high=None, low=None):
            pass

    async with gateway(always(answer()), settings='trusted_proxies = ["192.0.2.0/24"]') as (
        made,
        _,
    ):
        client = Client(made, "x")
        client.connection_made(Peer())
        assert client.identity.trusted
        client.connection_lost(None)


@on_loop
async def test_an_endpoint_that_stays_keeps_its_state_and_its_connections():
    async with gateway(always(answer())) as (made, (up,)):
        await ask(made.port)
        before = upstream_of(made, "a")
        before.endpoint.health.throttled(0.0, 1.0)
        before.endpoint.health.breaker.state = State.ISOLATED
        done = await made.reload(config(("a", port_of(made, "a"), "weight = 7")))
        after = upstream_of(made, "a")
        assert done.kept == ("a",)
        assert (done.added, done.removed) == ((), ())
        assert after.endpoint.weight == 7
        assert after.endpoint.health is before.endpoint.health
        after.endpoint.health.breaker.state = State.CLOSED
        await ask(made.port)
        assert up.connections == 1


@on_loop
async def test_a_new_address_is_another_server_under_the_old_name():
    async with gateway(always(answer(body=b"one")), always(answer(body=b"two"))) as (made, _):
        there = port_of(made, "b")
        await made.reload(config(("a", port_of(made, "a"))))
        assert (await ask(made.port))[2] == b"one"
        upstream_of(made, "a").endpoint.health.breaker.state = State.ISOLATED
        done = await made.reload(config(("a", there)))
        assert done.removed == ("a",)
        assert done.added == ("a",)
        assert (await ask(made.port))[2] == b"two"


@on_loop
async def test_an_endpoint_without_id_is_known_by_its_address_wherever_it_stands():
    ends = (("", 9), ("", 10), ("", 11))
    async with Gateway(config(*ends)) as made:
        health = {one.config.url: one.endpoint.health for one in made.cluster.upstreams}
        done = await made.reload(config(*ends[1:]))
        for one in made.cluster.upstreams:
            assert one.endpoint.health is health[one.config.url]
        assert len(done.kept) == 2
        assert len(done.removed) == 1


@on_loop
async def test_a_key_that_stays_keeps_its_rest_and_a_new_one_begins_fresh(monkeypatch):
    for name in ("ONE", "TWO", "THREE"):
        monkeypatch.setenv(f"HF_TEST_{name}", name)
    before = config(("a", 9, 'keys = ["env:HF_TEST_ONE", "env:HF_TEST_TWO"]'))
    async with Gateway(before) as made:
        health = upstream_of(made, "a").endpoint.health
        health.key_out(health.keys[1], 0.0, 1e9)
        health.is_degraded = True
        await made.reload(config(("a", 9, 'keys = ["env:HF_TEST_TWO", "env:HF_TEST_THREE"]')))
        now = upstream_of(made, "a").endpoint.health
        assert [key.cooldown.until > 1e6 for key in now.keys] == [True, False]
        assert now.breaker is health.breaker
        assert now.is_degraded


@on_loop
async def test_a_request_under_way_ends_with_the_endpoint_that_was_taken_out():
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(upstream, no, writer):
        begun.set()
        await go.wait()
        writer.write(answer(body=b"late"))

    async with gateway(slow, always(answer(body=b"new"))) as (made, (up, _)):
        there = port_of(made, "b")
        await made.reload(config(("a", port_of(made, "a"))))
        asked = asyncio.create_task(ask(made.port))
        await begun.wait()
        done = await made.reload(config(("b", there)))
        assert done.removed == ("a",)
        assert (await ask(made.port))[2] == b"new"
        go.set()
        assert (await asked)[2] == b"late"
        async with asyncio.timeout(2):
            while up.open:  # noqa: ASYNC110 - of the server's own making
                await asyncio.sleep(0.01)


@on_loop
async def test_breaker_options_and_the_budget_go_over():
    async with gateway(always(answer()), settings="retry_reserve = 50") as (made, _):
        made.cluster.retries.left = 7
        here = port_of(made, "a")
        await made.reload(config(("a", here), settings="breaker = { consecutive = 2, window = 9 }"))
        assert made.cluster.retries.left == 7
        options = upstream_of(made, "a").endpoint.health.breaker.options
        assert (options.consecutive, options.window) == (2, 9)
        await made.reload(config(("a", here), settings="retry_reserve = 3"))
        assert made.cluster.retries.left == 3


@on_loop
async def test_another_queue_holds_for_those_who_come_though_the_line_goes_on():
    throttled = answer(429, b"{}", "Retry-After: 20")
    async with gateway(always(throttled), settings="queue = 5") as (made, _):
        first = asyncio.create_task(ask(made.port))
        async with asyncio.timeout(5):
            while made.cluster.waiting != 1:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        await made.reload(config(("a", port_of(made, "a")), settings="queue = 1"))
        assert made.cluster.waiting == 1
        status, _, body = await ask(made.port)
        assert status == 503
        assert b'"HF-3103"' in body
        first.cancel()


@pytest.mark.parametrize("how", ["a wider limit", "one more endpoint", "another endpoint"])
@on_loop
async def test_who_waits_in_line_goes_on_by_the_new_rules(how):
    release = asyncio.Event()

    async def slow(upstream, no, writer):
        if no == 1:
            await release.wait()
        writer.write(answer())

    one = "max_inflight = 1"
    async with gateway(slow, always(answer())) as (made, ups):
        a, b = port_of(made, "a"), port_of(made, "b")
        await made.reload(config(("a", a, one)))
        first = asyncio.create_task(ask(made.port))
        await ups[0].asked_first.wait()
        crowd = [asyncio.create_task(ask(made.port)) for _ in range(3)]
        async with asyncio.timeout(5):
            while made.cluster.waiting != 3:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        await made.reload(
            {
                "a wider limit": config(("a", a, "max_inflight = 2")),
                "one more endpoint": config(("a", a, one), ("b", b, one)),
                "another endpoint": config(("b", b, one)),
            }[how]
        )
        async with asyncio.timeout(5):
            assert [(await each)[0] for each in crowd] == [200] * 3
            assert (await ask(made.port))[0] == 200
        assert len(ups[1].asked) == (0 if how == "a wider limit" else 4)
        release.set()
        assert (await first)[0] == 200


@on_loop
async def test_settings_of_the_listener_wait_for_a_restart_and_say_so():
    async with gateway(always(answer())) as (made, _):
        port = made.port
        other = config(("a", port_of(made, "a"), "weight = 9"), settings="workers = 3")
        other = hf.Gateway(other).config
        done = await made.reload(other)
        assert done.restart == ("workers",)
        assert made.config.workers == 1
        assert made.port == port
        assert upstream_of(made, "a").endpoint.weight == 9


@on_loop
async def test_what_cannot_be_used_changes_nothing_and_every_error_is_told(tmp_path):
    path = tmp_path / "holdfast.toml"
    good = '[gateway.g]\nlisten = "127.0.0.1:0"\n[[gateway.g.endpoint]]\nurl = "http://h:1"\n'
    path.write_text(good)
    async with Gateway.from_toml(path) as made:
        before = made.cluster
        path.write_text(good + 'wieght = 3\nkey_header = "x"\n')
        with pytest.raises(ConfigError) as caught:
            await made.reload()
        assert [one.path for one in caught.value.problems] == [
            "gateway.g.endpoint[1].wieght",
            "gateway.g.endpoint[1].key_header",
        ]
        path.write_text(good + 'keys = "env:HF_TEST_NOT_THERE"\n')
        with pytest.raises(ConfigError, match="HF_TEST_NOT_THERE"):
            await made.reload()
        assert made.cluster is before
        path.write_text(good + "weight = 3\n")
        assert (await made.reload()).kept == ("h:1-1",)


@on_loop
async def test_a_gateway_of_a_program_has_no_file_to_read_again():
    with pytest.raises(RuntimeError, match="give a configuration"):
        await hf.Gateway(endpoints=["http://127.0.0.1:9"]).reload()


@on_loop
async def test_a_thousand_reloads_under_traffic_fail_no_request():
    async with gateway(always(answer()), always(answer())) as (made, _):
        ports = {name: port_of(made, name) for name in "ab"}
        configs = [
            config(("a", ports["a"], "weight = 3"), ("b", ports["b"])),
            config(("b", ports["b"], "weight = 5")),
            config(("a", ports["a"]), settings="expose = false"),
        ]
        over = asyncio.Event()
        statuses = []

        async def user(keeps):
            keep = await asyncio.open_connection("127.0.0.1", made.port) if keeps else None
            while not over.is_set():
                status, _, _ = await ask(made.port, keep=keep)
                statuses.append(status)
            if keep:
                keep[1].close()

        users = [asyncio.create_task(user(n % 2)) for n in range(8)]
        for n in range(1000):
            await made.reload(configs[n % 3])
            await asyncio.sleep(0.001)
        over.set()
        await asyncio.gather(*users)
        assert len(statuses) > 300
        assert set(statuses) == {200}
        assert made.cluster.ledger.in_flight == 0


@on_loop
async def test_a_reload_cuts_none_of_500_streams():
    head = (
        b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    event = b'data: {"n":1}\n\n'
    piece = b"%x\r\n%b\r\n" % (len(event), event)
    go = asyncio.Event()

    async def stream(upstream, no, writer):
        writer.write(head + piece)
        await go.wait()
        writer.write(piece + b"0\r\n\r\n")

    body = b'{"stream":true}'
    async with gateway(stream, stream, settings='profile = "generic"') as (made, _):
        ports = {name: port_of(made, name) for name in "ab"}
        wide = "max_connections = 600"
        await made.reload(config(*((name, port, wide) for name, port in ports.items())))

        async def user():
            reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
            writer.write(
                b"POST /stream HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )
            _, _, got = await read(reader)
            writer.close()
            return got

        users = [asyncio.create_task(user()) for _ in range(500)]
        async with asyncio.timeout(20):
            while made.cluster.ledger.streams < 500:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)
            for n in range(20):
                await made.reload(config(("a", ports["a"], wide, f"weight = {n + 1}")))
                await made.reload(config(("b", ports["b"], wide)))
            go.set()
            got = await asyncio.gather(*users)
        assert got == [event * 2] * 500
