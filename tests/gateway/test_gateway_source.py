"""Where settings come from: flag, environment, file, default; the first that says something."""

from __future__ import annotations

import pytest

from holdfast.gateway.options import ConfigError
from holdfast.gateway.source import Source, of_table

ONE = """
[gateway.main]
drain_timeout = 5
[[gateway.main.endpoint]]
url = "http://a.example"
"""
TWO = ONE + '[gateway.other]\n[[gateway.other.endpoint]]\nurl = "http://b.example"\n'


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "holdfast.toml"
    path.write_text(ONE)
    return path


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(file, monkeypatch):
    assert Source(file).load().config.drain_timeout == 5
    assert str(Source(file).load().config.listen[0]) == "127.0.0.1:7860"
    monkeypatch.setenv("HOLDFAST_GATEWAY_DRAIN_TIMEOUT", "7")
    monkeypatch.setenv("HOLDFAST_GATEWAY_LISTEN", "127.0.0.1:81")
    assert Source(file).load().config.drain_timeout == 7
    assert str(Source(file).load().config.listen[0]) == "127.0.0.1:81"
    flags = {"drain_timeout": 9, "listen": ["127.0.0.1:82", "127.0.0.1:83"]}
    assert Source(file, flags=flags).load().config.drain_timeout == 9
    assert [str(one) for one in Source(file, flags=flags).load().config.listen] == flags["listen"]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("idle_timeout", "250ms", 0.25),
        ("idle_timeout", "30", 30.0),
        ("via", "false", False),
        ("balance", "random", "random"),
        ("repeat_paths", '["/a", "/b"]', ("/a", "/b")),
        ("workers", "auto", "auto"),
    ],
)
def test_a_variable_is_read_as_in_a_file_or_is_plain_text(file, monkeypatch, name, text, value):
    monkeypatch.setenv(f"HOLDFAST_GATEWAY_{name.upper()}", text)
    assert getattr(Source(file).load().config, name) == value


def test_a_variable_that_cannot_be_used_is_refused_like_a_line_of_the_file(file, monkeypatch):
    monkeypatch.setenv("HOLDFAST_GATEWAY_BALANCE", "p3c")
    with pytest.raises(ConfigError, match=r"gateway.main.balance.*did you mean `p2c`"):
        Source(file).load()


def test_what_a_flag_or_a_variable_says_is_not_looked_for_in_the_file(file, monkeypatch):
    monkeypatch.setenv("HOLDFAST_GATEWAY_QUEUE", "x")
    with pytest.raises(ConfigError, match=r"`gateway.main.queue`.*\(by `HOLDFAST_GATEWAY_QUEUE`\)"):
        Source(file).load()
    with pytest.raises(ConfigError, match=r"`gateway.main.listen`.*\(by `--listen`\)"):
        Source(file, flags={"listen": ["x"]}).load()


def test_a_variable_of_no_setting_is_an_error_with_the_nearest(file, monkeypatch):
    monkeypatch.setenv("HOLDFAST_GATEWAY_DRAIN_TIMOUT", "7")
    with pytest.raises(ConfigError, match="HOLDFAST_GATEWAY_DRAIN_TIMEOUT"):
        Source(file).load()


def test_of_several_gateways_one_is_named(file):
    file.write_text(TWO)
    assert Source(file, "other").load().name == "other"
    with pytest.raises(ConfigError, match=r"which gateway.*`main`, `other`"):
        Source(file).load()
    with pytest.raises(ConfigError, match="no gateway `third`"):
        Source(file, "third").load()


def test_a_name_that_would_be_a_path_is_refused(file):
    file.write_text(ONE.replace("main", '"../x"'))
    with pytest.raises(ConfigError, match="letters, digits"):
        Source(file).load()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has no gateway"),
        ("gateway = 3", "a table of gateways"),
        ("[gateway\n", "it is no TOML"),
        ("[gateway.main]\n", "gateway.main.endpoint"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(file, text, said):
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        Source(file).load()


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent.toml`: not readable: No such file"):
        Source(tmp_path / "absent.toml").load()


def test_what_was_read_can_be_read_by_another_process(file, monkeypatch):
    monkeypatch.setenv("HOLDFAST_GATEWAY_QUEUE", "3")
    loaded = Source(file).load()
    assert of_table(loaded.name, loaded.table) == loaded.config


def test_what_was_read_shows_no_value_of_its_fields(file):
    file.write_text(
        '[[gateway.main.endpoint]]\nurl = "http://h"\nheaders = {"X-Relay-Token" = "canary"}\n'
    )
    assert "canary" not in repr(Source(file).load())


@pytest.mark.parametrize("text", [ONE.replace("gateway.", "gatway."), ONE + "[gatway.x]\n"])
def test_a_mistyped_section_is_told_whether_or_not_there_is_a_gateway(file, text):
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"`gatway`: not known; did you mean `gateway`\?"):
        Source(file).load()


def test_settings_without_a_name_are_no_choice_of_gateways(file):
    file.write_text('[gateway]\nqueue = 1\n[[gateway.endpoint]]\nurl = "http://a.example"\n')
    with pytest.raises(ConfigError, match=r"`gateway.queue`: settings stand under a name: `\["):
        Source(file).load()
    file.write_text("[gateway.a]\n[gateway.b]\n")
    with pytest.raises(ConfigError, match=r"which gateway\? \(known: `a`, `b`\)"):
        Source(file).load()


def test_all_gateways_of_a_file_are_read_or_the_one_that_is_named(file):
    file.write_text(TWO)
    assert [one.name for one in Source(file).load_all()] == ["main", "other"]
    assert [one.name for one in Source(file, "other").load_all()] == ["other"]
    file.write_text("")
    with pytest.raises(ConfigError, match="it has no gateway"):
        Source(file).load_all()
