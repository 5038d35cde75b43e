"""The top of the command line: help, version, errors, and how little it imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast import __version__
from holdfast.cli import main as cli
from holdfast.cli.cmd_gateway import VERBS
from holdfast.cli.output import CliError, Console, Exit, printable, size_text, time_text


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "holdfast", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **env},
    )


def test_help_lists_every_command_with_its_line_and_gives_examples() -> None:
    done = run("--help")
    assert done.returncode == 0
    for name, command in cli.COMMANDS.items():
        assert f"  {name}" in done.stdout
        assert command.summary in done.stdout
    assert "examples:" in done.stdout
    assert "exit codes:" in done.stdout


def test_version_is_the_packages() -> None:
    assert run("--version").stdout == f"holdfast {__version__}\n"


def test_no_command_prints_the_help_and_is_a_usage_error() -> None:
    done = run()
    assert done.returncode == Exit.USAGE
    assert done.stdout.startswith("usage: holdfast")


def test_unknown_command_names_the_nearest() -> None:
    done = run("gte")
    assert done.returncode == Exit.USAGE
    assert done.stdout == ""
    assert done.stderr == (
        "error: `gte`: no such command\n  Did you mean `holdfast get`? [HF-6001]\n"
    )


def test_with_json_an_error_is_one_object_on_stdout() -> None:
    done = run("nonsense", "--json")
    assert done.returncode == Exit.USAGE
    assert done.stderr == ""
    error = json.loads(done.stdout)
    assert error["v"] == 1
    assert error["event"] == "Error"
    assert error["code"] == "HF-6001"
    assert "nonsense" in error["error"]
    assert error["next"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        *([name] for name in cli.COMMANDS),
        *(["gateway", verb] for verb in VERBS),
    ],
    ids=" ".join,
)
def test_help_fits_a_terminal_of_80_columns(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: holdfast")
    assert [line for line in shown.splitlines() if len(line) > 80] == []


def test_every_command_file_is_in_the_table() -> None:
    found = {p.stem.removeprefix("cmd_") for p in Path(cli.__file__).parent.glob("cmd_*.py")}
    assert found <= set(cli.COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'asyncio', 'ssl', 'sqlite3', 'http', 'socket', 'json', 'threading', 'logging'}"
    code = (
        "import sys\nfrom holdfast.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print('heavy:', sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("heavy: []\n")


def test_a_command_without_its_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name="starlette.responses")

    monkeypatch.setattr(cli, "import_module", missing)
    assert cli.main(["get"]) == Exit.USAGE
    said = capsys.readouterr().err
    assert "`starlette.responses`, which is not installed" in said
    assert "pip install 'holdfast[web]'" in said
    assert "[HF-6002]" in said


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    # The pipe is closed before the program writes, as `| head -0` would.
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "holdfast"],
            env={**os.environ, "PYTHONUNBUFFERED": ""},
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.stderr == ""
    assert done.returncode == Exit.FAILED


def test_no_colour_when_piped_or_asked(capsys: pytest.CaptureFixture[str]) -> None:
    Console().error("`x`: no", next_step="Go on.", code="HF-6001")
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain name.nc", "plain name.nc"),
        ("naïve 连得住", "naïve 连得住"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\r\nb", "a\\x0d\\x0ab"),
        ("cod\u202egnp.exe", "cod\\u202egnp.exe"),
        ("bad\udcff", "bad\\udcff"),
    ],
)
def test_control_and_direction_marks_are_written_out(raw: str, shown: str) -> None:
    assert printable(raw) == shown


def test_sizes_and_times_are_for_people() -> None:
    assert [size_text(n) for n in (0, 1023, 1024, 356515840, 1288490188)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "340 MiB",
        "1.2 GiB",
    ]
    assert [time_text(s) for s in (0.4, 200, 7500)] == ["0 s", "3 min 20 s", "2 h 5 min"]


def test_an_error_keeps_its_class_code_unless_told() -> None:
    assert CliError("x").code == "HF-6001"
    assert CliError("x", code="HF-1001").code == "HF-1001"
    assert CliError("x").exit_code == Exit.USAGE


@pytest.mark.parametrize("json", [False, True])
def test_an_error_shows_no_secret(*, json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    text = "cannot reach https://u:hunter2@h/k?token=abcdef"
    Console(json=json).error(text, next_step=f"Look at {text}", code="HF-6001")
    said = "".join(capsys.readouterr())
    assert "https://***@h/k?token=***" in said
    assert "hunter2" not in said
    assert "abcdef" not in said
