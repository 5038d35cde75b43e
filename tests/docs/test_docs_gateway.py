"""The page of the gateway: its tables are those of the code, its commands and its file work.

python tests/docs/test_docs_gateway.py     prints the tables of settings, to be pasted
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from holdfast.cli import main as cli
from holdfast.cli.output import size_text
from holdfast.gateway.config import BreakerConfig, EndpointConfig, GatewayConfig, read_gateways

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")
GROUPS = {
    "`[gateway.NAME]`": GatewayConfig,
    "`[[gateway.NAME.endpoint]]`": EndpointConfig,
    "`[gateway.NAME.breaker]`": BreakerConfig,
}


def default_of(field: dataclasses.Field[object]) -> str:
    """Return a default as it would be written into a file."""
    value = field.metadata["default"]
    if value is dataclasses.MISSING:
        return "required"
    return f"`{json.dumps(value)}`"


def in_units(found: re.Match[str]) -> str:
    return " to ".join(size_text(int(size)).replace(".0", "") for size in found.groups())


def table(group: type) -> list[str]:
    """Return the rows of a group of settings."""
    rows = ["| setting | meaning | takes | default |", "|---|---|---|---|"]
    for field in dataclasses.fields(group):
        takes = re.sub(r' \(\d+, "[^)]*\)', "", str(field.metadata["kind"]))
        takes = re.sub(r"(?<=bytes from )(\d+) to (\d+)", in_units, takes)
        meaning = field.metadata["doc"]
        rows.append(f"| `{field.name}` | {meaning} | {takes} | {default_of(field)} |")
    return rows


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("title", GROUPS)
def test_the_page_has_the_table_of_all_settings(title: str) -> None:
    _, found, rest = PAGE.partition(f"\n### {title}\n")
    assert found
    part = rest.partition("\n#")[0]
    rows = [line for line in part.splitlines() if line.startswith("|")]
    assert rows == table(GROUPS[title])


@pytest.mark.parametrize("text", blocks("toml"))
def test_each_file_on_the_page_can_be_used(text: str) -> None:
    result = read_gateways(tomllib.loads(text))
    assert not result.problems
    assert result.value


def test_the_file_on_the_page_passes_the_check_once_its_secrets_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = blocks("toml")[0]
    (tmp_path / "spare_key").write_text("sk-3\n")
    text = text.replace("/run/secrets/spare_key", str(tmp_path / "spare_key"))
    text = re.sub(r"https://[a-z.-]+", "http://127.0.0.1:9", text)  # no name is looked up
    (tmp_path / "holdfast.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["gateway", "check"]) == 2
    refused = capsys.readouterr().err
    assert "the environment variable `ANTHROPIC_KEY_1` is not set" in refused
    assert "the environment variable `RELAY_KEY` is not set" in refused
    for name in ("ANTHROPIC_KEY_1", "ANTHROPIC_KEY_2", "RELAY_KEY"):
        monkeypatch.setenv(name, "sk-canary")
    assert cli.main(["gateway", "check"]) == 0
    said = capsys.readouterr().out
    assert "can be used" in said
    assert "keys: 2" in said
    assert "canary" not in said


def commands() -> list[list[str]]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    words = [shlex.split(line[2:]) for line in lines if line.startswith("$ holdfast ")]
    inline = [shlex.split(text) for text in re.findall(r"`(holdfast gateway [a-z]+[^`]*)`", PAGE)]
    return [list(one) for one in dict.fromkeys(tuple(one[1:]) for one in words + inline)]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_each_command_on_the_page_exists(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--help"])
    assert ended.value.code == 0
    assert f"usage: holdfast {words[0]}" in capsys.readouterr().out


def test_the_worst_case_on_the_page_is_that_of_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "holdfast.toml"
    file.write_text(blocks("toml")[0])
    assert cli.main(["plan", str(file)]) == 0
    said = capsys.readouterr()
    assert f"$ holdfast plan holdfast.toml\n{said.out}{said.err}" in blocks("console")


def main() -> None:
    """Print the tables."""
    for title, group in GROUPS.items():
        print(f"### {title}\n")  # noqa: T201 - what it is for
        print("\n".join(table(group)), end="\n\n")  # noqa: T201 - the same


if __name__ == "__main__":
    main()
