"""A gateway's configuration, from wherever it comes: a file, or a program.

    hf.Gateway(endpoints=[hf.Endpoint("https://api.anthropic.com", keys="env:KEY_1")], queue=50)

What a program gives is read by the same rules as a file, and refused in the same words.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import HoldfastError
from holdfast.core.settings import Problem, read
from holdfast.gateway.config import EndpointConfig, GatewayConfig, read_gateways

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class ConfigError(HoldfastError):
    """A configuration that cannot be used. problems: all of them.

    next_step: what can be done, if that is not to correct it.
    """

    code = "HF-3201"
    exit_code = 2
    next_step = (
        "Correct it, and look again with `holdfast gateway check`; "
        "`holdfast gateway --help` shows the least file."
    )

    def __init__(self, problems: Sequence[Problem], next_step: str = "") -> None:
        super().__init__("\n  ".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
        if next_step:
            self.next_step = next_step

    @property
    def names_environment(self) -> bool:
        """Whether a variable of the environment is missing."""
        return any(problem.path.startswith("env:") for problem in self.problems)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.problems, self.next_step))


class Endpoint:
    """One endpoint of a gateway: what `[[gateway.NAME.endpoint]]` holds in a file.

    url: where it is; its path goes before that of each request.  keys: where its credentials
    are, `env:NAME` or `file:PATH`, one or a list; without any, the client's own are passed on.
    settings: all others of an endpoint (`weight=`, `priority=`, `id=`, ...), as in a file.

    Raises ConfigError, which names every setting that cannot be used.
    """

    __slots__ = ("config", "settings")

    def __init__(
        self,
        url: str,
        *,
        keys: str | Sequence[str] = (),
        **settings: Any,
    ) -> None:
        self.settings: dict[str, Any] = {"url": url, "keys": keys, **settings}
        result = read(EndpointConfig, self.settings, "endpoint")
        if result.value is None:
            raise ConfigError(result.problems)
        self.config = result.value

    def __eq__(self, other: object) -> bool:
        return self.config == other.config if isinstance(other, Endpoint) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.config.url, self.config.id))

    def __repr__(self) -> str:
        # Fields may carry a credential (`headers`); their names are enough for a log.
        others = [f"{name}=..." for name, value in self.settings.items() if name != "url" and value]
        return f"Endpoint({', '.join([repr(self.config.url), *others])})"


def configured(
    name: str, endpoints: Sequence[Endpoint | str], settings: Mapping[str, object]
) -> GatewayConfig:
    """Return the configuration that a program asks for. Raises ConfigError."""
    if isinstance(endpoints, str | Endpoint):
        endpoints = [endpoints]
    tables = [one.settings if isinstance(one, Endpoint) else {"url": one} for one in endpoints]
    if "endpoint" in settings:
        raise ConfigError([Problem(f"gateway.{name}.endpoint", "not known", "endpoints")])
    result = read(GatewayConfig, {"endpoint": tables, **settings}, f"gateway.{name}")
    if result.value is None:
        raise ConfigError(result.problems)
    return result.value


def chosen(path: Path, name: str | None) -> tuple[str, GatewayConfig]:
    """Return the name and the configuration of one gateway in a file. Raises ConfigError."""
    found = read_file(path)
    if name is None and len(found) == 1:
        return next(iter(found.items()))
    if name is None or name not in found:
        if not found:
            text = "it has no gateway: add `[[gateway.main.endpoint]]` with a `url`"
            raise ConfigError([Problem(str(path), text)])
        known = ", ".join(f"`{one}`" for one in found)
        text = f"there is no gateway `{name}`" if name else "which gateway? Name one"
        raise ConfigError([Problem(str(path), f"{text} (known: {known})")])
    return name, found[name]


def read_file(path: Path) -> dict[str, GatewayConfig]:
    """Return all gateways of a file. Raises ConfigError, or the OSError of reading."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), f"it is no TOML ({error})")]) from None
    result = read_gateways(tree)
    if result.value is None:
        raise ConfigError(result.problems)
    return result.value


def find_secret(reference: str) -> str:
    """Return the secret that `env:NAME` or `file:PATH` refers to. Raises ConfigError."""
    kind, _, where = reference.partition(":")
    if kind == "env":
        value = os.environ.get(where, "").strip()
        missing = f"the environment variable `{where}` is not set"
    else:
        missing = "the file is empty"
        try:
            value = Path(where).expanduser().read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError([Problem(reference, f"not readable: {error.strerror}")]) from None
        except ValueError:  # no UTF-8, or a NUL in the path; its words would show what is there
            raise ConfigError([Problem(reference, "not readable: it is no text")]) from None
    if not value:
        raise ConfigError([Problem(reference, missing)])
    if re.search(r"[^\x21-\x7e]", value):  # it becomes the value of a header field
        raise ConfigError([Problem(reference, "it holds a character that no key has")])
    return value
