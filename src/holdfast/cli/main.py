"""The command `holdfast`.

Nothing but the chosen command is imported, so that `holdfast --help` answers at once:
the top level knows each command's module and one line about it, no more.

A command is a module with two functions:

    configure(parser) -> None    add arguments to an `argparse.ArgumentParser`, and set
                                 `parser.description` and, for examples, `parser.epilog`
    run(args) -> int             do it; return one of `output.Exit`

Every parser gets `--json`; `args.console` is the `output.Console` made from it. Errors are
raised, not printed (see `output`).
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Protocol, TextIO, cast

from holdfast._version import __version__
from holdfast.cli.output import CannotWrite, CliError, Console, Exit, report_error, write
from holdfast.core.errors import HoldfastError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Command(NamedTuple):
    """Where a command lives and what one line says of it."""

    module: str
    summary: str


COMMANDS = {
    "demo": Command("holdfast.cli.cmd_demo", "see the difference, offline: flaky servers, here"),
    "gateway": Command("holdfast.cli.cmd_gateway", "one steady address before flaky endpoints"),
    "get": Command("holdfast.cli.cmd_get", "download files: resumed, verified, whole or absent"),
    "plan": Command(
        "holdfast.cli.cmd_plan", "print the worst case of a policy or a file, beforehand"
    ),
}

EXAMPLES = """\
examples:
  holdfast demo
  holdfast gateway run -c holdfast.toml
  holdfast get https://example.org/data.nc -o data --sha256 9f86d081...
  holdfast get status -o data
  holdfast plan "Deadline(120), Retry(5)"
  holdfast plan holdfast.toml

exit codes: 0 done, 1 some work failed, 2 usage, 3 partly done, 75 try again
later, 130 interrupted. Each command explains itself: `holdfast COMMAND --help`.
"""

# Which extra brings a module that a command may find missing.
EXTRAS = {
    "aiohttp": "jobs",
    "botocore": "s3",
    "distributed": "dask",
    "httptools": "gateway",
    "jwt": "jobs",
    "msgspec": "cli",
    "opentelemetry": "otel",
    "redis": "redis",
    "rich": "cli",
    "starlette": "web",
    "uvicorn": "web",
}


class CommandModule(Protocol):
    """What a `cmd_*.py` offers."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it and return the exit code."""
        ...


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are raised, so that they look like all others."""

    def error(self, message: str) -> NoReturn:
        """Raise a usage error that says where the help is."""
        raise CliError(message, next_step=f"See `{self.prog} --help`.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. argv: without the program's name."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the locale cannot show is no crash
            stream.reconfigure(errors="backslashreplace")
    console = Console(json="--json" in words)
    try:
        code = _flushed(words)
    except CannotWrite as error:
        _point_at_nothing(sys.stdout)
        return _report(error, Console())
    except HoldfastError as error:
        return _report(error, console)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # the reader went away (`| head`)
        _point_at_nothing(sys.stdout)
        return Exit.FAILED
    else:
        return code


def _flushed(words: list[str]) -> int:
    """Do it, and see that all of the output went out: the end of the process is too late."""
    try:
        code = _dispatch(words)
    except SystemExit:  # `--help`, `--version`
        write(sys.stdout, "")
        raise
    write(sys.stdout, "")
    return code


def _report(error: HoldfastError, console: Console) -> int:
    try:
        return report_error(error, console)
    except OSError:  # nothing can be written where errors go, either
        _point_at_nothing(sys.stdout, sys.stderr)
        return int(getattr(error, "exit_code", Exit.FAILED))


def _point_at_nothing(*streams: TextIO) -> None:
    """Let streams lead nowhere: what they hold still would fail once more at exit."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nothing, stream.fileno())
    os.close(nothing)


def _open_missing_streams() -> None:
    """Open what the caller has closed (`>&-`), or a file of ours would get its number."""
    for name, how in (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, how)
            setattr(sys, name, open(fd, "r" if how == os.O_RDONLY else "w", closefd=False))  # noqa: SIM115 - a descriptor, for the whole run


def _dispatch(words: list[str]) -> int:
    if words and not words[0].startswith("-"):
        return _run(words[0], words[1:])
    parser = _top_parser()
    parser.parse_args(words)
    parser.print_help()
    return Exit.DONE if words else Exit.USAGE


def _run(name: str, words: list[str]) -> int:
    if name == "help":
        return _dispatch([words[0], "--help"] if words else ["--help"])
    if name not in COMMANDS:
        raise CliError(f"`{name}`: no such command", next_step=_suggestion(name))
    module = _load(name)
    parser = Parser(
        prog=f"holdfast {name}",
        description=COMMANDS[name].summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.configure(parser)
    parser.add_argument("--json", action="store_true", help="JSON objects, one per line")
    args = parser.parse_args(words)
    args.console = Console(json=args.json)
    return module.run(args)


def _load(name: str) -> CommandModule:
    try:
        return cast("CommandModule", import_module(COMMANDS[name].module))
    except ModuleNotFoundError as error:
        raise missing_extra(name, error) from None


def missing_extra(command: str, error: ModuleNotFoundError) -> Exception:
    """Return what to raise for a module that is not there; the error itself if no extra has it."""
    extra = EXTRAS.get((error.name or "").partition(".")[0])
    if extra is None:
        return error
    return CliError(
        f"`holdfast {command}` needs the package `{error.name}`, which is not installed",
        next_step=f"Install it: pip install 'holdfast[{extra}]'",
        code="HF-6002",
    )


def _top_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {c.summary}" for name, c in COMMANDS.items())
    parser = Parser(
        prog="holdfast",
        usage="holdfast COMMAND [options]",
        description="Makes network work finish: calls, streams, downloads, paid jobs.",
        epilog=f"commands:\n{listed}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"holdfast {__version__}")
    return parser


def _suggestion(name: str) -> str:
    import difflib  # noqa: PLC0415 - only needed once something is mistyped

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"Did you mean `holdfast {near[0]}`?" if near else "See `holdfast --help`."
