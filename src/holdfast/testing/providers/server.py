"""`hf.testing.provider`: a provider of language models that is none, with faults.

It is a fault server (`hf.chaos.server`) whose routes speak the APIs of Anthropic and OpenAI on
real sockets, so everything that a fault server can do wrong, it can do wrong too.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from holdfast.chaos import Server
from holdfast.testing.providers import content
from holdfast.testing.providers.api import Api

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.chaos import Fault
    from holdfast.testing.providers.api import Asked

MODELS: Final = ("claude-test", "gpt-test")


class Provider(Server):
    """A running fake provider; made by `provider`."""

    def __init__(self, api: Api, faults: Sequence[Fault], *, seed: int | str, port: int) -> None:
        self._api = api
        super().__init__(api.routes(), faults, seed=seed, port=port)

    @property
    def asked(self) -> list[Asked]:
        """What was executed, in order; the newest 10,000."""
        return self._on_loop(lambda: list(self._api.asked))


def provider(
    *faults: Fault,
    keys: Sequence[str] = (),
    models: Sequence[str] = MODELS,
    tokens: int = content.TOKENS,
    reply: Callable[[str], str] | None = None,
    first_seconds: float = 0.0,
    token_seconds: float = 0.0,
    counts: bool = True,
    seed: int | str = 0,
    port: int = 0,
) -> Provider:
    """Return a fake provider, to be entered with `with` or `async with`.

    faults: `hf.testing.ApiError`, `hf.testing.ErrorEvent`, and all of `hf.chaos`; they hit
    requests of every path, numbered from 1 and drawn from `seed`.
    keys: credentials that are let in; none: everybody is.  models: that there are.
    tokens: words of each answer.  reply: prompt -> whole text of the answer, in place of
    `hf.testing.reply`.  first_seconds: from the request to the first byte.
    token_seconds: between two events of a stream.  counts: whether there is `count_tokens`.
    port: 0 picks a free one.
    """
    api = Api(
        keys=keys,
        models=models,
        reply=reply or partial(content.reply, tokens=tokens),
        first_seconds=first_seconds,
        token_seconds=token_seconds,
        counts=counts,
    )
    return Provider(api, faults, seed=seed, port=port)
