"""`holdfast gateway`: one steady address in front of flaky endpoints."""

from __future__ import annotations

import argparse
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from holdfast.cli.main import missing_extra

if TYPE_CHECKING:
    from collections.abc import Callable

EPILOG = """\
examples:
  holdfast gateway check           can ./holdfast.toml be used?
  holdfast gateway run             serve in the foreground; Ctrl-C ends it well
  holdfast gateway start -c /etc/holdfast.toml --cluster llm
  holdfast gateway status          exit code 0: it runs, 1: it does not
  holdfast gateway reload          read the file again; no request is lost
  holdfast gateway logs -n 100 -f
  holdfast gateway stop --timeout 30

The least file:
  [gateway.main]
  listen = "127.0.0.1:7860"
  [[gateway.main.endpoint]]
  url = "https://api.anthropic.com"
  keys = "env:ANTHROPIC_API_KEY"

A setting is taken from its flag, else from HOLDFAST_GATEWAY_NAME (as in
HOLDFAST_GATEWAY_DRAIN_TIMEOUT=30), else from the file, else it has its default.
Each command explains itself: `holdfast gateway COMMAND --help`.
"""

WHERE = """
What runs is written down in HOLDFAST_STATE_DIR, else in
XDG_STATE_HOME/holdfast, else in ~/.local/state/holdfast.
"""


class Verb(NamedTuple):
    """One of the commands: where it is, what it takes, and what is said of it."""

    module: str
    options: str
    summary: str
    text: str


VERBS = {
    "run": Verb(
        "gateway_run",
        "source",
        "serve, in the foreground",
        "examples:\n  holdfast gateway run\n  holdfast gateway run --listen 127.0.0.1:8080\n\n"
        "SIGTERM and Ctrl-C end it well: it takes nobody new and answers what is asked;\n"
        "a second one cuts what is left, and says so to its clients. SIGHUP reads the\n"
        "file again. Exit codes: 0 ended by SIGTERM, 130 by Ctrl-C, 1 it runs already,\n"
        "2 bad configuration.",
    ),
    "start": Verb(
        "gateway_run",
        "source",
        "serve, detached; returns when it serves",
        "examples:\n  holdfast gateway start\n  holdfast gateway start -c llm.toml --json\n\n"
        "Exit codes: 0 it serves, 1 it runs already or did not start,\n"
        "2 bad configuration.",
    ),
    "stop": Verb(
        "gateway_tell",
        "name timeout force",
        "end it well; done also when nothing runs",
        "examples:\n  holdfast gateway stop\n  holdfast gateway stop --timeout 30\n"
        "  holdfast gateway stop --force     cut at once what is under way\n\n"
        "Without --timeout requests have the configured `drain_timeout`.",
    ),
    "status": Verb(
        "gateway_tell",
        "name",
        "what runs, and how its endpoints do",
        "examples:\n  holdfast gateway status\n  holdfast gateway status --json\n\n"
        "Exit codes: 0 it runs, 1 it does not.",
    ),
    "reload": Verb(
        "gateway_tell",
        "name",
        "read the configuration again",
        "examples:\n  holdfast gateway reload\n\n"
        "A file that cannot be used changes nothing, and every error is told.",
    ),
    "drain": Verb(
        "gateway_tell",
        "name timeout",
        "begin to end it, and return at once",
        "examples:\n  holdfast gateway drain\n  holdfast gateway drain --timeout 600\n\n"
        "As `stop`, which waits for the end.",
    ),
    "logs": Verb(
        "gateway_tell",
        "name lines",
        "what a detached gateway has said",
        "examples:\n  holdfast gateway logs\n  holdfast gateway logs -n 200 -f\n",
    ),
    "check": Verb(
        "gateway_check",
        "source",
        "can it be used? And the worst case of a request",
        "examples:\n  holdfast gateway check\n  holdfast gateway check -c llm.toml --json\n\n"
        "It reads the settings, the secrets and the certificates, looks up every name,\n"
        "and connects to nothing. Exit codes: 0 it can be used, 1 a name is not known,\n"
        "2 it cannot.",
    ),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `holdfast gateway`."""
    parser.description = "One steady address in front of flaky endpoints of one API."
    parser.epilog = EPILOG
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    for name, verb in VERBS.items():
        one = verbs.add_parser(
            name,
            help=verb.summary,
            description=f"{verb.summary[0].upper()}{verb.summary[1:]}.",
            epilog=verb.text + "\n" + WHERE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for options in verb.options.split():
            _OPTIONS[options](one)
        one.add_argument(
            "--json",
            action="store_true",
            default=argparse.SUPPRESS,
            help="JSON objects, one per line",
        )


def _name(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-c", "--config", metavar="FILE", help="the configuration (default: ./holdfast.toml)")
    add("--cluster", metavar="NAME", help="which [gateway.NAME], if there are several")


def _source(parser: argparse.ArgumentParser) -> None:
    _name(parser)
    text = "where clients connect: HOST:PORT or unix:PATH; may be given again"
    parser.add_argument("--listen", action="append", metavar="ADDRESS", help=text)


def _timeout(parser: argparse.ArgumentParser) -> None:
    text = "seconds for requests under way; then they are cut, and told so"
    parser.add_argument("--timeout", type=_seconds, metavar="S", help=text)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        value = float(text)
        if 0 <= value <= 86400:
            return value
    raise argparse.ArgumentTypeError(f"{text}: seconds from 0 to 86400 are wanted")


def _force(parser: argparse.ArgumentParser) -> None:
    text = "cut what is under way, and kill the process if it does not end"
    parser.add_argument("--force", action="store_true", help=text)


def _count(text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text}: a number of lines is wanted")


def _lines(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "-n", "--lines", type=_count, default=50, metavar="N", help="the last N lines (default: 50)"
    )
    add("-f", "--follow", action="store_true", help="go on with what comes, until Ctrl-C")


_OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "source": _source,
    "name": _name,
    "timeout": _timeout,
    "force": _force,
    "lines": _lines,
}


def run(args: argparse.Namespace) -> int:
    """Do one of the commands."""
    try:
        module = import_module(f"holdfast.cli.{VERBS[args.verb].module}")
        code: int = getattr(module, args.verb)(args)
    except ModuleNotFoundError as error:
        raise missing_extra("gateway", error) from None
    return code
