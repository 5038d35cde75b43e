"""Where a gateway's settings come from: flags, `HOLDFAST_GATEWAY_*`, a file, the defaults.

The first of them that says something wins. All of it is read by the rules of the file, so an
environment variable is refused in the same words, under the path of the setting that it names.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.settings import Problem, nearest
from holdfast.gateway.config import GatewayConfig, read_gateways
from holdfast.gateway.options import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT = "holdfast.toml"
PREFIX = "HOLDFAST_GATEWAY_"
"""Before the name of a setting in capitals: `HOLDFAST_GATEWAY_DRAIN_TIMEOUT=30`."""
WRITE_ONE = "Write it, or name another file; `holdfast gateway --help` shows the least one."
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,62}\Z")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be used. table: the same as it was written, for another process."""

    name: str
    table: dict[str, Any] = field(repr=False)  # `headers` may hold a credential
    config: GatewayConfig


@dataclass(frozen=True, slots=True)
class Source:
    """What a command was given. name: of the gateway.  flags: settings that win over the rest."""

    path: Path = Path(DEFAULT)
    name: str | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Loaded:
        """Read it. Raises ConfigError with all problems."""
        tree = self._tree()
        tables = _gateways(tree)
        named = tables and all(isinstance(one, dict) for one in tables.values())
        if not named and (problems := read_gateways(tree).problems):
            raise ConfigError(problems)  # a mistyped `gateway` is why there seems to be none
        name = self._chosen(tables)
        environment = from_environment()
        given = {**environment, **self.flags}
        table = {**tables[name], **given} if isinstance(tables[name], dict) else tables[name]
        result = read_gateways({**tree, "gateway": {**tables, name: table}})
        if result.value is None:
            raise ConfigError([self._traced(one, name, environment) for one in result.problems])
        return Loaded(name, table, result.value[name])

    def _traced(self, problem: Problem, name: str, environment: Mapping[str, Any]) -> Problem:
        """Say where a setting comes from that the file has not, or has otherwise."""
        setting = problem.path.removeprefix(f"gateway.{name}.").partition(".")[0]
        if setting in self.flags:
            return problem._replace(text=f"{problem.text} (by `--{setting}`)")
        if setting in environment:
            return problem._replace(text=f"{problem.text} (by `{PREFIX}{setting.upper()}`)")
        return problem

    def load_all(self) -> list[Loaded]:
        """Read all gateways of the file, or the one that is named. Raises ConfigError."""
        names = [self.name] if self.name is not None else list(_gateways(self._tree()))
        return [replace(self, name=one).load() for one in names] or [self.load()]

    def find_name(self) -> str:
        """Return which gateway is meant, whatever else the file says. Raises ConfigError."""
        return self._chosen(_gateways(self._tree()))

    def pinned(self) -> Source:
        """Return the same for a process that may be elsewhere, or run for long."""
        return replace(self, path=self.path.absolute())

    def _tree(self) -> dict[str, Any]:
        try:
            return tomllib.loads(self.path.read_text(encoding="utf-8"))
        except OSError as error:
            problem = Problem(str(self.path), f"not readable: {error.strerror}")
            absent = isinstance(error, FileNotFoundError)
            raise ConfigError([problem], WRITE_ONE if absent else "") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError([Problem(str(self.path), f"it is no TOML ({error})")]) from None

    def _chosen(self, tables: Mapping[str, Any]) -> str:
        name = self.name
        if name is None and len(tables) == 1:
            name = next(iter(tables))
        if name is None or name not in tables:
            known = ", ".join(f"`{one}`" for one in tables) or "none"
            text = f"there is no gateway `{name}`" if name else "which gateway?"
            if not tables:
                text = "it has no gateway: add `[[gateway.main.endpoint]]` with a `url`"
            problem = Problem(str(self.path), f"{text} (known: {known})")
            raise ConfigError([problem], "Name one: --cluster NAME" if tables else "")
        if not _NAME.match(name):  # it becomes a part of the names of files
            raise ConfigError([Problem(f"gateway.{name}", "a name has letters, digits, `_`, `-`")])
        return name


def _gateways(tree: Mapping[str, Any]) -> dict[str, Any]:
    tables = tree.get("gateway", {})
    if not isinstance(tables, dict):
        raise ConfigError([Problem("gateway", "a table of gateways is wanted")])
    return tables


def from_environment() -> dict[str, Any]:
    """Return the settings in the environment. A value is read as in a file, or is plain text.

    Raises ConfigError for a variable that names no setting.
    """
    known = [name for name in GatewayConfig.__dataclass_fields__ if name != "endpoint"]
    found: dict[str, Any] = {}
    problems: list[Problem] = []
    for variable, text in os.environ.items():
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name in known:
            found[name] = _value(text)
        else:
            near = nearest(name, known)
            problems.append(Problem(variable, "not known", near and f"{PREFIX}{near.upper()}"))
    if problems:
        raise ConfigError(problems)
    return found


def _value(text: str) -> Any:  # noqa: ANN401 - whatever a file may hold
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def of_table(name: str, table: Mapping[str, Any]) -> GatewayConfig:
    """Return the configuration of a table that was read before. Raises ConfigError."""
    result = read_gateways({"gateway": {name: dict(table)}})
    if result.value is None:
        raise ConfigError(result.problems)
    return result.value[name]
