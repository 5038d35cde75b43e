"""Retry: whether one more attempt may follow a failure. Backoff says when, the budget if at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast.core.backoff import Backoff, Exponential, as_backoff
from holdfast.core.budget import AnyBudget, Budget
from holdfast.core.checks import one_of, whole
from holdfast.core.matching import Matcher, On, compile_on
from holdfast.core.verdict import CONCURRENCY, THROTTLED, TRANSIENT, Kind, Sent

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.core.verdict import Verdict

# RFC 9110 9.2.2
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})


@dataclass(frozen=True, slots=True)
class Retry:
    """Repeat failed attempts that are safe and worth repeating.

    attempts: in all, the first included, *without progress*; progress starts them afresh.
    on: kinds and exception types that are worth repeating.  backoff: a value of
        `holdfast.core.backoff` or a function `(n, verdict) -> seconds`, n = 1 for the first retry.
    budget: bounds the extra load of all calls together; None: unbounded.
    idempotency_key: make one key per logical call (`attempt.idempotency_key`), which makes any
        method repeatable because the server recognises the repetition.
    nested: "suppress": inside another retrying policy make one attempt; "allow": multiply.
    long_poll: with the budget empty still wait once, then fail: a long poll must not spin.
    """

    attempts: int = 3
    on: On = TRANSIENT | THROTTLED
    backoff: Backoff | Callable[[int, Any], float] = field(default_factory=Exponential)
    budget: AnyBudget | None = field(default_factory=Budget)
    idempotency_key: bool = False
    nested: str = "suppress"
    long_poll: bool = False

    def __post_init__(self) -> None:
        whole("Retry", "attempts", self.attempts, 1)
        one_of("Retry", "nested", self.nested, ("suppress", "allow"))
        compile_on("Retry", self.on)
        as_backoff(self.backoff)
        if self.budget is not None and not isinstance(self.budget, AnyBudget):
            raise ValueError(f"`Retry(budget=...)` takes a Budget or None: {self.budget!r}")


@dataclass(frozen=True, slots=True, init=False)
class Request:
    """What is known of the thing that is called; `key=` functions get this as `call`.

    fn, args, kwargs: the function and its arguments.  method, host: for HTTP; method None
    means a plain function, which counts as idempotent (whoever wraps it knows it).
    idempotent: overrules the method.  replayable: the body can be sent again from its start.
    """

    fn: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    method: str | None = None
    host: str = ""
    idempotent: bool | None = None
    replayable: bool = True

    def __init__(
        self,
        fn: Callable[..., Any] | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        method: str | None = None,
        host: str = "",
        idempotent: bool | None = None,  # noqa: FBT001 - fields in their order
        replayable: bool = True,  # noqa: FBT001, FBT002 - the same
    ) -> None:
        # A policy with a key makes one per call, and the `__init__` of a frozen dataclass, which
        # looks each setter up, takes twice as long as this.
        _set_fn(self, fn)
        _set_args(self, args)
        _set_kwargs(self, {} if kwargs is None else kwargs)
        _set_method(self, method)
        _set_host(self, host)
        _set_idempotent(self, idempotent)
        _set_replayable(self, replayable)

    @property
    def is_safe_to_repeat(self) -> bool:
        """Whether running it twice does no more than running it once."""
        if self.idempotent is not None:
            return self.idempotent
        return self.method is None or self.method.upper() in IDEMPOTENT_METHODS


_set_fn, _set_args, _set_kwargs, _set_method, _set_host, _set_idempotent, _set_replayable = (
    Request.__dict__[name].__set__ for name in Request.__slots__
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled `Retry`."""

    options: Retry
    matcher: Matcher
    backoff: Backoff

    @classmethod
    def of(cls, options: Retry) -> Rule:
        """Compile."""
        return cls(options, compile_on("Retry", options.on), as_backoff(options.backoff))


def gate(request: Request | None, verdict: Verdict, *, keyed: bool) -> str | None:
    """Return why this may not be repeated ("not_idempotent", "body_not_replayable") or None.

    What was certainly not executed may always be repeated; what may have been executed only
    if a repetition is harmless. keyed: every attempt carries the same Idempotency-Key.
    """
    if request is None:
        return None
    not_run = verdict.sent is Sent.NO or verdict.not_executed
    throttled = bool(verdict.kind & (THROTTLED | CONCURRENCY))
    if not (not_run or throttled or keyed or request.is_safe_to_repeat):
        return "not_idempotent"
    if not request.replayable and verdict.sent is not Sent.NO:
        return "body_not_replayable"
    return None


def most_retries(rule: Rule, verdict: Verdict, error: BaseException | None) -> int:
    """Return how many retries this cause gets: the table's limit, or the policy's own.

    What nobody has classified gets one, unless `on=` names its type: then somebody has.
    """
    limit = rule.options.attempts - 1
    if verdict.kind is Kind.UNKNOWN:
        return limit if isinstance(error, rule.matcher.types) else min(limit, 1)
    return limit if verdict.max_retries is None else min(limit, verdict.max_retries)
