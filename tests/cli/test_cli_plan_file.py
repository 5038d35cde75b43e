"""`holdfast plan FILE`: everything that a file configures, and what it says of a bad one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from holdfast.cli.main import main
from holdfast.cli.output import Exit

if TYPE_CHECKING:
    from pathlib import Path

ONE = '[[gateway.{}.endpoint]]\nurl = "http://127.0.0.1:9"\n'


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "holdfast.toml"
    path.write_text(3 * ONE.format("main"))
    return path


def plans(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, object]]:
    assert main(["plan", *words, "--json"]) == Exit.DONE
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["plan", *words]) == Exit.USAGE
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_a_file_prints_the_worst_case_of_its_gateway(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", file.name]) == Exit.DONE
    said = capsys.readouterr()
    assert said.out == (
        "gateway `main`: the worst case of one request, endpoints: 3\n"
        "\n"
        "attempts:     4, where every endpoint fails at once, with pauses of 0.05 s\n"
        "requests:     5, as a kept connection may have been dead\n"
        "throttled:    294 besides, where all of them refuse (429)\n"
        "longest:      600 s (10 min 0 s) to the answer, or a stream's beginning\n"
        "in line:      30 s of that; requests that wait: 1,000\n"
        "silence:      600 s (10 min 0 s), then another endpoint is asked; streams: 33 s\n"
        "stream:       no end, if something comes every 120 s (2 min 0 s)\n"
        "retry budget: 100 saved up, 0.1 per request\n"
        "dead backend: 1.2 requests per request, over 1,000 requests\n"
    )
    assert said.err.startswith("warning: gateway `main`: until 100 answers are known, ")


def test_check_prints_the_same_plan(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", file.name])
    plan = capsys.readouterr().out
    assert main(["gateway", "check"]) == Exit.DONE
    assert capsys.readouterr().out.endswith(plan)
    (found,) = plans(capsys, file.name)
    main(["gateway", "check", "--json"])
    checked = json.loads(capsys.readouterr().out)["plan"]
    assert {name: found[name] for name in checked} == checked


def test_every_gateway_of_a_file_is_planned_or_the_one_that_is_named(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(ONE.format("a") + "[gateway.b]\nattempts = 7\nworkers = 2\n" + ONE.format("b"))
    assert [(one["cluster"], one["attempts_max"]) for one in plans(capsys, file.name)] == [
        ("a", 4),
        ("b", 7),
    ]
    assert [one["cluster"] for one in plans(capsys, file.name, "--cluster", "b")] == ["b"]
    main(["plan", file.name])
    said = capsys.readouterr().out
    assert "\n\ngateway `b`: the worst case" in said
    assert "workers:      2; each has a line and a budget of its own\n" in said


def test_the_environment_holds_as_it_does_for_the_gateway(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_GATEWAY_ATTEMPTS", "9")
    (found,) = plans(capsys, file.name)
    assert found["attempts_max"] == 9


def test_no_secret_is_read_and_no_name_looked_up(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(
        '[[gateway.main.endpoint]]\nurl = "https://nobody.invalid"\nkeys = "env:HF_TEST_NONE"\n'
    )
    (found,) = plans(capsys, file.name)
    assert found["endpoints"] == 1


def test_a_file_of_another_name_is_a_file_too(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = file.rename(file.with_name("gateway.conf"))
    assert len(plans(capsys, other.name)) == 1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (None, ["holdfast.toml`: not readable: No such file"]),
        ("[gateway\n", ["holdfast.toml`: it is no TOML", "line 1"]),
        ("", ["it has no gateway", "add `[[gateway.main.endpoint]]`"]),
        ("[gateway.main]\n", ["`gateway.main.endpoint`: missing"]),
        (ONE.format("m") + "[gatway.x]\n", ["`gatway`: not known; did you mean `gateway`?"]),
        ("[gatewy.m]\n", ["`gatewy`: not known; did you mean `gateway`?"]),
        ("quee = 1\n" + ONE.format("m"), ["`quee`: not known"]),
        ("queue = 1\n" + ONE.format("m"), ["`queue`: settings stand under a name"]),
        ("[gateway.m]\nquee = 1\n" + ONE.format("m"), ["`gateway.m.quee`", "mean `queue`?"]),
    ],
)
def test_a_file_that_cannot_be_used_is_told_with_its_reason(
    file: Path, capsys: pytest.CaptureFixture[str], text: str | None, parts: list[str]
) -> None:
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    said = error_of(capsys, file.name)
    assert "[HF-3201]" in said
    for part in parts:
        assert part in said


def test_a_gateway_that_the_file_has_not_is_told_with_those_it_has(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = error_of(capsys, file.name, "--cluster", "mian")
    assert "there is no gateway `mian` (known: `main`)" in said


def test_options_of_a_policy_do_not_go_with_a_file(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = error_of(capsys, file.name, "--retries", "2")
    assert "`--retries` and a FILE do not go together" in said


def test_a_cluster_needs_a_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("Retry(3)",)):
        said = error_of(capsys, *words, "--cluster", "main")
        assert "`--cluster` is for a configuration" in said


def test_help_says_that_a_file_may_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    shown = capsys.readouterr().out
    assert "holdfast plan holdfast.toml --cluster main --json" in shown
