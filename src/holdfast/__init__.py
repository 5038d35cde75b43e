"""Holdfast makes network work finish: calls, streams, downloads and paid jobs.

    import holdfast as hf

    api = hf.policy(hf.Deadline(30), hf.Retry(4), hf.Breaker(), hf.Timeout(10))

    @api
    def fetch(): ...

Every public name is imported when it is first used, so `import holdfast` costs next to
nothing and needs no dependency.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from holdfast._version import __version__

if TYPE_CHECKING:
    from holdfast import chaos, clients, telemetry, testing
    from holdfast.core.adaptive import AdaptiveBulkhead
    from holdfast.core.backoff import Constant, Decorrelated, Exponential, Linear
    from holdfast.core.breaker import Breaker
    from holdfast.core.budget import Budget
    from holdfast.core.bulkhead import Bulkhead
    from holdfast.core.deadline import Deadline, Timeout
    from holdfast.core.errors import (
        BudgetEmpty,
        BulkheadFull,
        CircuitOpen,
        DeadlineExceeded,
        HoldfastError,
        RateLimited,
        Rejected,
        Stopped,
    )
    from holdfast.core.fallback import Fallback
    from holdfast.core.hedge import Hedge
    from holdfast.core.policy import PolicyWarning
    from holdfast.core.ratelimit import RateLimit
    from holdfast.core.retry import Request, Retry
    from holdfast.core.throttle import ClientThrottle
    from holdfast.core.verdict import (
        AUTH,
        CANCELLED,
        CONCURRENCY,
        CONNECT,
        PERMANENT,
        THROTTLED,
        TIMEOUT,
        TRANSIENT,
        UNKNOWN,
        Kind,
        Sent,
        Verdict,
    )
    from holdfast.downloads import Downloads
    from holdfast.downloads.aria2 import Aria2Client, Aria2Process
    from holdfast.gateway.gateway import Gateway
    from holdfast.gateway.options import Endpoint
    from holdfast.runtime.ending import Outcome
    from holdfast.runtime.hub import record, subscribe
    from holdfast.runtime.policy import Policy, hold, policy
    from holdfast.runtime.scope import deadline, remaining

# The room or module that each public name comes from; modules are names too.
_HOMES = {
    "core.adaptive": ("AdaptiveBulkhead",),
    "core.backoff": ("Constant", "Decorrelated", "Exponential", "Linear"),
    "core.breaker": ("Breaker",),
    "core.budget": ("Budget",),
    "core.bulkhead": ("Bulkhead",),
    "core.deadline": ("Deadline", "Timeout"),
    "core.errors": (
        "BudgetEmpty",
        "BulkheadFull",
        "CircuitOpen",
        "DeadlineExceeded",
        "HoldfastError",
        "RateLimited",
        "Rejected",
        "Stopped",
    ),
    "core.fallback": ("Fallback",),
    "core.hedge": ("Hedge",),
    "core.policy": ("PolicyWarning",),
    "core.ratelimit": ("RateLimit",),
    "core.retry": ("Request", "Retry"),
    "core.throttle": ("ClientThrottle",),
    "core.verdict": (
        "AUTH",
        "CANCELLED",
        "CONCURRENCY",
        "CONNECT",
        "PERMANENT",
        "THROTTLED",
        "TIMEOUT",
        "TRANSIENT",
        "UNKNOWN",
        "Kind",
        "Sent",
        "Verdict",
    ),
    "downloads": ("Downloads",),
    "downloads.aria2": ("Aria2Client", "Aria2Process"),
    "gateway.gateway": ("Gateway",),
    "gateway.options": ("Endpoint",),
    "runtime.ending": ("Outcome",),
    "runtime.hub": ("record", "subscribe"),
    "runtime.policy": ("Policy", "hold", "policy"),
    "runtime.scope": ("deadline", "remaining"),
}
_MODULES = ("chaos", "clients", "telemetry", "testing")
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AUTH",
    "CANCELLED",
    "CONCURRENCY",
    "CONNECT",
    "PERMANENT",
    "THROTTLED",
    "TIMEOUT",
    "TRANSIENT",
    "UNKNOWN",
    "AdaptiveBulkhead",
    "Aria2Client",
    "Aria2Process",
    "Breaker",
    "Budget",
    "BudgetEmpty",
    "Bulkhead",
    "BulkheadFull",
    "CircuitOpen",
    "ClientThrottle",
    "Constant",
    "Deadline",
    "DeadlineExceeded",
    "Decorrelated",
    "Downloads",
    "Endpoint",
    "Exponential",
    "Fallback",
    "Gateway",
    "Hedge",
    "HoldfastError",
    "Kind",
    "Linear",
    "Outcome",
    "Policy",
    "PolicyWarning",
    "RateLimit",
    "RateLimited",
    "Rejected",
    "Request",
    "Retry",
    "Sent",
    "Stopped",
    "Timeout",
    "Verdict",
    "__version__",
    "chaos",
    "clients",
    "deadline",
    "hold",
    "policy",
    "record",
    "remaining",
    "subscribe",
    "telemetry",
    "testing",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"holdfast.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    value = getattr(import_module(f"holdfast.{_HOME_OF[name]}"), name)
    globals()[name] = value  # the next access is an ordinary one
    return value


def __dir__() -> list[str]:
    return __all__
