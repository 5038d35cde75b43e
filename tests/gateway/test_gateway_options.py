"""`hf.Gateway(...)` and `hf.Endpoint(...)`: a program's settings, checked as a file's are."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

import holdfast as hf
from holdfast.cli import main as cli
from holdfast.gateway.gateway import ConfigError
from holdfast.gateway.options import find_secret

HERE = "http://127.0.0.1:9"


def refused(**settings):
    with pytest.raises(ConfigError) as caught:
        hf.Gateway(**settings)
    return str(caught.value)


def test_settings_of_a_program_are_those_of_a_file(tmp_path):
    file = tmp_path / "holdfast.toml"
    file.write_text(
        '[gateway.llm]\nlisten = "127.0.0.1:0"\nqueue = 50\nmax_wait = "250ms"\n'
        f'[[gateway.llm.endpoint]]\nurl = "{HERE}/base/"\nkeys = "env:KEY_1"\nweight = 200\n'
        f'[[gateway.llm.endpoint]]\nurl = "{HERE}"\n'
    )
    read = hf.Gateway.from_toml(file)
    made = hf.Gateway(
        endpoints=[hf.Endpoint(f"{HERE}/base/", keys="env:KEY_1", weight=200), HERE],
        name="llm",
        listen="127.0.0.1:0",
        queue=50,
        max_wait="250ms",
    )
    assert made.config == read.config
    assert (made.name, read.name) == ("llm", "llm")
    assert made.config.endpoint[0].keys == ("env:KEY_1",)
    assert made.config.max_wait == 0.25


def test_mistakes_are_told_as_those_of_a_file_all_at_once():
    text = refused(endpoints=[HERE], quue=5, balance="p2")
    assert "`gateway.main.quue`: not known; did you mean `queue`?" in text
    assert "`gateway.main.balance`: one of" in text
    assert "did you mean `p2c`?" in text


def test_mistakes_of_an_endpoint_are_told_when_it_is_made():
    with pytest.raises(ConfigError) as caught:
        hf.Endpoint(HERE, wieght=1, keys=["sk-secret"])
    text = str(caught.value)
    assert "`endpoint.wieght`: not known; did you mean `weight`?" in text
    assert "`endpoint.keys`: number 1: `env:NAME` or `file:PATH` is wanted" in text
    assert "sk-secret" not in text


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({}, "there is no endpoint"),
        ({"endpoints": ["ftp://a"]}, "`gateway.main.endpoint[1].url`: an address"),
        ({"endpoints": [HERE], "endpoint": []}, "`gateway.main.endpoint`: not known; did you mean"),
        ({"endpoints": [HERE], "listen": "0.0.0.0:1"}, "set `client_tokens`"),
        (
            {"endpoints": [hf.Endpoint(HERE, id="a"), hf.Endpoint(HERE, id="a")], "name": "x"},
            "`gateway.x`: two endpoints have the id `a`",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(settings, part):
    assert part in refused(**settings)


def test_each_mistake_has_its_line_on_a_terminal(tmp_path, capsys):
    file = tmp_path / "holdfast.toml"
    file.write_text("[gateway.main]\nlistn = 1\nqueue = -1\n")
    assert cli.main(["gateway", "check", "-c", str(file)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: `gateway.main.listn`: not known; did you mean `listen`?"
    assert [line.partition("`:")[0].strip() for line in lines[1:3]] == [
        "`gateway.main.endpoint",
        "`gateway.main.queue",
    ]
    assert lines[3].startswith("  Correct it, and look again with `holdfast gateway check`")
    assert lines[3].endswith("[HF-3201]")


def test_one_endpoint_needs_no_list():
    assert hf.Gateway(endpoints=HERE).config.endpoint[0].url == HERE
    assert hf.Gateway(endpoints=hf.Endpoint(HERE)).config.endpoint[0].url == HERE


def test_a_whole_configuration_takes_nothing_beside_it():
    config = hf.Gateway(endpoints=[HERE]).config
    assert hf.Gateway(config).config is config
    with pytest.raises(TypeError, match="nothing can be given beside it"):
        hf.Gateway(config, queue=5)


def test_endpoints_are_values_that_show_no_secret():
    one = hf.Endpoint(HERE, headers={"x-secret": "canary"}, keys="env:KEY_1")
    assert one == hf.Endpoint(HERE, headers={"x-secret": "canary"}, keys=["env:KEY_1"])
    assert hash(one) == hash(hf.Endpoint(HERE, headers={"x-secret": "canary"}, keys="env:KEY_1"))
    assert one != hf.Endpoint(HERE)
    assert one != HERE
    assert repr(one) == f"Endpoint({HERE!r}, keys=..., headers=...)"


@pytest.mark.parametrize(
    ("text", "name", "part"),
    [
        ("[gateway", None, "it is no TOML"),
        ("", None, "it has no gateway: add `[[gateway.main.endpoint]]` with a `url`"),
        ("[gatway.a]\n", None, "`gatway`: not known; did you mean `gateway`?"),
        ("[[gateway.a.endpoint]]\nurl='http://h'\n", "b", "there is no gateway `b` (known: `a`)"),
        (
            "[[gateway.a.endpoint]]\nurl='http://h'\n[[gateway.b.endpoint]]\nurl='http://h'\n",
            None,
            "which gateway? Name one (known: `a`, `b`)",
        ),
        ("[gateway.a]\n", None, "`gateway.a.endpoint`: missing"),
    ],
)
def test_a_file_that_does_not_say_which_gateway_is_refused(text, name, part, tmp_path):
    file = tmp_path / "holdfast.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        hf.Gateway.from_toml(file, name)
    assert part in str(caught.value)
    assert caught.value.code == "HF-3201"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_secrets_are_found_where_they_are_said_to_be(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TEST_KEY", " sk-1\n")
    (tmp_path / "key").write_text("sk-2\n")
    assert find_secret("env:HF_TEST_KEY") == "sk-1"
    assert find_secret(f"file:{tmp_path}/key") == "sk-2"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "not readable: No such file or directory"),
        ("\n", "the file is empty"),
        ("a\r\nx-evil: 1", "it holds a character that no key has"),
        (b"evil\xff", "not readable: it is no text"),
    ],
)
def test_secrets_that_cannot_be_used_are_refused_without_showing_them(tmp_path, content, part):
    if content is not None:
        (tmp_path / "key").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        find_secret(f"file:{tmp_path}/key")
    assert part in str(caught.value)
    assert "evil" not in str(caught.value)


def test_a_path_that_no_file_has_is_refused_as_one_that_is_not_there():
    with pytest.raises(ConfigError, match="not readable"):
        find_secret("file:a\0b")


def test_a_variable_that_is_not_set_is_named(monkeypatch):
    monkeypatch.delenv("HF_TEST_KEY", raising=False)
    with pytest.raises(ConfigError, match="the environment variable `HF_TEST_KEY` is not set"):
        find_secret("env:HF_TEST_KEY")


def test_without_its_extra_the_gateway_says_how_to_install_it():
    code = (
        "import sys; sys.modules['httptools'] = None\n"
        "import holdfast as hf\n"
        "hf.Endpoint('http://h')\n"
        "try:\n    hf.Gateway\nexcept ModuleNotFoundError as error:\n    print(error, error.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "`holdfast.Gateway` needs httptools: pip install 'holdfast[gateway]' httptools\n"
    )
