"""`holdfast plan`: the worst case of a policy, or of a configuration file, before it happens.

For a policy the options are turned into the expression that one would write in Python, the
expression is read (a small part of Python, never executed), and the policy's own `plan()` does
the rest. So the line `policy:` of the answer can be pasted into a program and means the same
there. For a file see `plan_file`.
"""

from __future__ import annotations

import ast
import math
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import holdfast as hf
from holdfast.cli.main import missing_extra
from holdfast.cli.output import CliError, Console, Exit, exact_text

if TYPE_CHECKING:
    import argparse

    from holdfast.core.plan import Delay, Plan

BAD_OPTION = "HF-5001"
BAD_POLICY = "HF-5002"

# Class of each backoff, and which of the options it has.
BACKOFFS = {
    "exponential": ("Exponential", ("base", "cap", "factor", "jitter")),
    "constant": ("Constant", ("base", "jitter")),
    "linear": ("Linear", ("base", "cap", "jitter")),
    "decorrelated": ("Decorrelated", ("base", "cap")),
}

MOST_ROWS = 50
"""Attempts listed for people; `--json` has them all."""

EPILOG = """\
examples:
  holdfast plan --retries 5 --base 60 --cap 300 --jitter none
  holdfast plan --retries 5 --base 0.2 --timeout 10 --deadline 120
  holdfast plan "Deadline(120), Retry(6, budget=None), Timeout(10)"
  holdfast plan --retries 3 --backoff constant --base 2 --json
  holdfast plan holdfast.toml
  holdfast plan holdfast.toml --cluster main --json

What ends with `.toml`, or is a file, is a configuration: the worst case of
everything in it is printed, for each gateway that of one request. No secret is
read and nothing is connected to.

`--retries 5` means 6 attempts. Times are worked out for failures that come at
once and make no progress; `longest` adds the time limits of the attempts. The
delays are those after a TRANSIENT failure; without `--base` a throttled one
waits longer. With a budget (the default) the dead-backend factor says how many
requests a backend sees per call while all fail.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `holdfast plan`."""
    parser.description = "Print the worst case of a policy, or of a file, before it happens."
    parser.epilog = EPILOG
    add = parser.add_argument
    text = 'strategies as in Python, "Retry(5)", or a configuration, holdfast.toml'
    add("policy", nargs="?", metavar="POLICY|FILE", help=text)
    add("--cluster", metavar="NAME", help="of a FILE: this [gateway.NAME] only")
    add("--retries", type=int, metavar="N", help="retries after the first attempt (default: 2)")
    add("--backoff", choices=tuple(BACKOFFS), help="how delays grow (default: exponential)")
    add("--base", type=float, metavar="S", help="seconds of the first delay (default: 0.05)")
    add("--cap", type=float, metavar="S", help="seconds of the longest delay (default: 20)")
    add("--factor", type=float, metavar="F", help="growth per retry (default: 2)")
    add("--jitter", choices=("none", "full", "equal", "percent"), help="spread of the delays")
    add("--timeout", type=float, metavar="S", help="limit of one attempt, in seconds")
    add("--deadline", type=float, metavar="S", help="limit of the whole call, in seconds")


def run(args: argparse.Namespace) -> int:
    """Print the plan of what the arguments describe."""
    if args.policy is not None and _is_file(args.policy):
        return _run_file(args)
    if args.cluster is not None:
        raise CliError(
            "`--cluster` is for a configuration, and none is given",
            next_step="Name its file: holdfast plan holdfast.toml --cluster NAME",
        )
    text = _given(args) if args.policy is not None else _expression(args)
    plan = _plan(text, args)
    console: Console = args.console
    if console.json:
        console.event("Plan", {"policy": text, **plan.as_dict()})
        return Exit.DONE
    show(console, f"policy: {text}", plan)
    for text in plan.warnings:
        console.note(f"{console.paint('warning:', 'yellow')} {text}")
    return Exit.DONE


def _is_file(text: str) -> bool:
    try:
        return text.lower().endswith(".toml") or Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or with a NUL: it is a policy
        return False


def _run_file(args: argparse.Namespace) -> int:
    _refuse_options(args, "FILE", "Change the file, or plan a policy of these options.")
    try:
        module = import_module("holdfast.cli.plan_file")
    except ModuleNotFoundError as error:
        raise missing_extra("plan", error) from None
    code: int = module.run(args)
    return code


# -- from options to a policy ------------------------------------------------------------


OPTIONS = ("retries", "deadline", "timeout", "backoff", "base", "cap", "factor", "jitter")


def _refuse_options(args: argparse.Namespace, given: str, next_step: str) -> None:
    for name in OPTIONS:
        if getattr(args, name) is not None:
            text = f"`--{name}` and a {given} do not go together"
            raise CliError(text, next_step=next_step)


def _given(args: argparse.Namespace) -> str:
    _refuse_options(args, "POLICY", "Put it into the POLICY, or use options only.")
    return str(args.policy)


def _expression(args: argparse.Namespace) -> str:
    """Return the options as the expression that they mean."""
    retries = 2 if args.retries is None else args.retries
    if retries < 0:
        raise CliError(
            f"`--retries` must be 0 or more: {retries}",
            next_step="0 means one attempt.",
            code=BAD_OPTION,
        )
    kind, fields = BACKOFFS[args.backoff or "exponential"]
    given = {
        name: getattr(args, name)
        for name in ("base", "cap", "factor", "jitter")
        if getattr(args, name) is not None
    }
    for name in given:
        if name not in fields:
            has = ", ".join(f"`--{field}`" for field in fields)
            raise CliError(
                f"`--{name}` is no option of the backoff `{args.backoff}`",
                next_step=f"It has {has}.",
                code=BAD_OPTION,
            )
    _finite(args)
    options = ", ".join(f"{name}={_literal(value)}" for name, value in given.items())
    backoff = f", backoff={kind}({options})" if given or args.backoff else ""
    parts = [f"Retry({retries + 1}{backoff})"]
    if args.deadline is not None:
        parts.insert(0, f"Deadline({_literal(args.deadline)})")
    if args.timeout is not None:
        parts.append(f"Timeout({_literal(args.timeout)})")
    return ", ".join(parts)


def _finite(args: argparse.Namespace) -> None:
    # "nan" and "inf" are floats to argparse, but names in an expression.
    for name in ("base", "cap", "factor", "timeout", "deadline"):
        value = getattr(args, name)
        if value is not None and not math.isfinite(value):
            raise CliError(
                f"`--{name}` must be a finite number: {value}",
                next_step="Leave it out if there is no limit.",
                code=BAD_OPTION,
            )


def _literal(value: float | str) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def _plan(text: str, args: argparse.Namespace) -> Plan:
    try:
        return hf.policy(*_read(text), order="free").plan()
    except (ValueError, TypeError) as error:
        next_step = "See `holdfast plan --help`."
        if args.base is not None and args.cap is None and "base" in str(error):
            next_step = "`--cap` is 20 unless given; the base must not be above it."
        raise CliError(str(error), next_step=next_step, code=BAD_OPTION) from None


# -- reading an expression ---------------------------------------------------------------

NAMES: dict[str, Any] = {
    name: getattr(hf, name)
    for name in (
        "AdaptiveBulkhead", "Breaker", "Budget", "Bulkhead", "ClientThrottle", "Constant",
        "Deadline", "Decorrelated", "Exponential", "Fallback", "Hedge", "Linear", "RateLimit",
        "Retry", "Timeout",
        *hf.Kind.__members__,
    )
}  # fmt: skip
"""What may be named in an expression, with or without `hf.` before it."""

MAKERS = {"Budget": ("concurrent", "ratio", "switch"), "RateLimit": ("adaptive",)}
"""Other ways to make one of these."""


def _read(text: str) -> list[Any]:
    """Return the strategies of an expression; only what is in `NAMES` is ever called."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        return [_value(node) for node in (tree.elts if isinstance(tree, ast.Tuple) else [tree])]
    except SyntaxError as error:
        why = error.msg
    except (RecursionError, MemoryError):
        why = "it is nested too deeply"
    raise CliError(
        f"the policy cannot be read: {why}: `{text}`",
        next_step='Write it as in Python, "Deadline(120), Retry(5)"; a file ends with `.toml`.',
        code=BAD_POLICY,
    )


def _value(node: ast.expr) -> Any:  # noqa: ANN401 - an option may be of any type
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _value(left) | _value(right)
        case ast.Name(id=name) | ast.Attribute(value=ast.Name(id="hf"), attr=name):
            if name in NAMES:
                return NAMES[name]
            raise SyntaxError(f"`{name}` is no strategy, backoff, budget or kind")
        case ast.Attribute(value=ast.Name(id=owner), attr=name) if name in MAKERS.get(owner, ()):
            return getattr(NAMES[owner], name)
        case ast.Call(func=func, args=args, keywords=keywords) if all(k.arg for k in keywords):
            named = {str(word.arg): _value(word.value) for word in keywords}
            return _value(func)(*map(_value, args), **named)
        case _:
            raise SyntaxError(f"`{ast.unparse(node)}` is neither a strategy nor a plain value")


# -- the answer --------------------------------------------------------------------------


def show(console: Console, title: str, plan: Plan) -> None:
    """Print a plan for people."""
    line = console.line
    line(title)
    line("")
    line(" attempt   starts at   after a delay of")
    # Jitter lets more attempts fit before a deadline than have a nominal start.
    starts = list(zip_longest(plan.attempt_times, (None, *plan.delays)))
    for no, (at, delay) in enumerate(starts[:MOST_ROWS], 1):
        start = "sooner" if at is None else _short(at)
        line(f"{no:8d}{start:>12}   {_delay(delay)}".rstrip())
    if len(starts) > MOST_ROWS:
        line(f"     ...{len(starts) - MOST_ROWS:12,d} more: `--json` lists up to 1,000")
    if len(starts) > len(plan.attempt_times):
        line("sooner: fits before the deadline only if the jitter makes the delays shorter")
    longest = "unbounded" if plan.seconds_max is None else exact_text(plan.seconds_max)
    line("")
    line(f"requests:     {plan.requests_max:,d}")
    line(f"total delay:  {exact_text(plan.wait_total)}")
    line(f"longest:      {longest}")
    line(f"dead backend: {plan.dead_backend_factor:g} requests per call, over 1,000 calls")


def _delay(delay: Delay | None) -> str:
    if delay is None:
        return ""
    if delay.min == delay.max:
        return _short(delay.nominal)
    return f"{_short(delay.nominal)} ({_short(delay.min)} to {_short(delay.max)})"


def _short(seconds: float) -> str:
    return exact_text(seconds).partition(" (")[0]
