from __future__ import annotations

import tomllib

import pytest

from holdfast.gateway.config import GatewayConfig, Listen, read_gateways

LEAST = '[[gateway.main.endpoint]]\nurl = "http://127.0.0.1:9"\n'


def read(text: str):
    return read_gateways(tomllib.loads(text))


def only(text: str) -> GatewayConfig:
    result = read(text)
    assert not result.problems
    return next(iter(result.value.values()))


def problems(text: str) -> list[str]:
    return [str(problem) for problem in read(text).problems]


def in_main(text: str) -> list[str]:
    return problems(f"[gateway.main]\n{text}\n{LEAST}")


def in_endpoint(text: str) -> list[str]:
    return problems(f"{LEAST}{text}\n")


def test_one_address_is_enough():
    config = only(LEAST)
    assert config.listen == (Listen("127.0.0.1", 7860),)
    assert config.endpoint[0].url == "http://127.0.0.1:9"
    assert config.breaker.options().open_for == 5
    assert (config.buffer_max, config.first_byte_timeout, config.attempts) == (
        262144,
        "auto",
        "auto",
    )


def test_values_are_taken():
    config = only(
        '[gateway.a]\nlisten = ["[::1]:1", "unix:/run/h.sock"]\ntotal_timeout = "5m"\n'
        'trusted_proxies = ["10.0.0.0/8"]\nattempts = 3\n[gateway.a.breaker]\nopen_for = 1\n'
        '[[gateway.a.endpoint]]\nurl = "https://api.test/base/"\nkeys = ["env:A", "file:/b"]\n'
        'headers = {"x-a" = "b"}\nid = "one"\n'
    )
    assert [str(one) for one in config.listen] == ["[::1]:1", "unix:/run/h.sock"]
    assert config.total_timeout == 300
    assert config.breaker.open_for == 1
    assert config.endpoint[0].url == "https://api.test/base"
    assert config.endpoint[0].keys == ("env:A", "file:/b")


def test_no_gateway_is_no_error():
    assert read("").value == {}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('listn = "x"', "`gateway.main.listn`: not known; did you mean `listen`?"),
        ('listen = "localhost"', "`gateway.main.listen`: number 1: `HOST:PORT`"),
        ('listen = "127.0.0.1:99999"', "`HOST:PORT`"),
        ('listen = "0.0.0.0:80"', "can be reached from other machines: set `client_tokens`"),
        ('client_tokens = ["sesame"]', "a secret is never written into a configuration"),
        ('balance = "p2"', "did you mean `p2c`?"),
        ('total_timeout = "soon"', "seconds from 0.001"),
        ("attempts = 0", "`gateway.main.attempts`"),
        ('tls_cert = "a.pem"', "`tls_cert` and `tls_key` belong together"),
        ('trusted_proxies = ["10.0.0.1/8"]', "a network such as"),
        ('admin_prefix = "x"', "a path such as"),
        ("workers = 0", "or `auto`"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_gateway_is_said(text, part):
    found = in_main(text)
    assert len(found) == 1
    assert part in found[0]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("wieght = 1", "`gateway.main.endpoint[1].wieght`: not known; did you mean `weight`?"),
        ("weight = 0", "0: a whole number from 1 to 1000"),
        ('keys = ["sk-abc"]', "a secret is never written"),
        ('id = "a b"', "`gateway.main.endpoint[1].id`"),
        ('probe_path = "x"', "a path"),
        ('headers = {"a b" = "c"}', "may not be sent"),
        ('headers = {"a" = "b\\r\\nc: d"}', "may not be sent"),
        ('[[gateway.main.endpoint]]\nurl = "ftp://a"', "`gateway.main.endpoint[2].url`"),
        ('[[gateway.main.endpoint]]\nurl = "http://u:p@a"', "use `keys`"),
        ('[[gateway.main.endpoint]]\nurl = "http://a/?q=1"', "without a query"),
        ('[[gateway.main.endpoint]]\nurl = "http://a:x"', "an address"),
        ("[[gateway.main.endpoint]]\nweight = 1", "`gateway.main.endpoint[2].url`: missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_endpoint_is_said(text, part):
    found = in_endpoint(text)
    assert len(found) == 1
    assert part in found[0]
    assert "u:p" not in found[0]


def test_ids_are_unique():
    text = '[[gateway.main.endpoint]]\nid = "a"\nurl = "http://a"\n'
    assert problems(text + text) == ["`gateway.main`: two endpoints have the id `a`"]


def test_a_gateway_without_endpoints_is_refused():
    assert problems('[gateway.main]\nlisten = ":1"') == ["`gateway.main.endpoint`: missing"]
    assert "there is no endpoint" in problems("[gateway.main]\nendpoint = []")[0]


def test_settings_without_a_name_are_pointed_out():
    assert "under a name" in problems('[gateway]\nlisten = ":1"')[0]


def test_errors_of_all_gateways_are_told_at_once():
    found = problems("[gateway.a]\nqueue = -1\n[gateway.b]\nvia = 1\n")
    assert {text.partition("`:")[0] for text in found} == {
        "`gateway.a.queue",
        "`gateway.a.endpoint",
        "`gateway.b.via",
        "`gateway.b.endpoint",
    }


def test_a_header_that_may_be_secret_is_not_shown():
    lines = 'headers = {"X-Relay-Token" = "canary", "X-Team" = "blue"}'
    found = only(f"[gateway.main]\n{LEAST}{lines}\n")
    assert found.endpoint[0].headers["X-Relay-Token"] == "canary"
    assert "canary" not in repr(found)
    assert "'X-Team': 'blue'" in repr(found)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[gatway.x]\n", "`gatway`: not known; did you mean `gateway`?"),
        ("[downloads]\n", "`downloads`: not known"),
        ("queue = 3\n", "`queue`: settings stand under a name: write it below `[gateway.main]`"),
    ],
)
def test_what_stands_beside_a_gateway_and_is_not_known_is_not_passed_over(text, problem):
    assert problems(text + LEAST) == [problem]
