"""boto3 and botocore: `attach(client, policy)`.

    s3 = hf.clients.botocore.attach(boto3.client("s3"), policy)

How it fits into botocore. A client method makes one request through its endpoint; the
endpoint signs, sends, parses, and asks the handlers of `needs-retry` whether to sign and send
once more. Here

    make_request   (of this client's endpoint) is the logical call: one `Flight`
    before-send    admits an attempt: permits, rate, breaker
    the session    sends within the attempt's limits, and reads what can be read at once
    needs-retry    tells the policy how it went, waits by its clock, answers 0 or None

so a repetition is signed anew, at the time when it goes out. The handler of botocore's own
retries is taken away; S3's redirector stays, and each redirect is a logical call of its own
that shares the deadline of the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

try:
    from botocore.httpsession import URLLib3Session  # type: ignore[import-untyped]  # no types
except ModuleNotFoundError as missing:
    message = "hf.clients.botocore needs botocore: `pip install 'botocore>=1.36'`"
    raise ModuleNotFoundError(message, name="botocore") from missing

from holdfast.clients._botocore_flight import PARAMS, Attached
from holdfast.clients._botocore_requests import pools
from holdfast.clients._botocore_single import current
from holdfast.clients.options import MIB, Options
from holdfast.clients.sync import refuse_hedge
from holdfast.core.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.runtime.policy import Policy

C = TypeVar("C")

__all__ = ["attach"]


def attach(
    client: C,
    policy: Policy,
    *,
    idempotent: Iterable[str] = (),
    replay_reused: str = "idempotent",
    buffer: int = MIB,
    replay_buffer: int = 0,
) -> C:
    """Let `policy` decide about every call of `client`, and return the client.

    client: of `boto3.client`, `boto3.resource(...).meta.client` or a botocore session; the
        others of its session stay as they are. Its own retries are switched off.
    idempotent: names of operations ("SendMessage") that may be repeated although it is not
        known whether they were executed; see the documentation for those that are anyway.
    replay_reused, buffer, replay_buffer: as in `holdfast.clients.options.Options`.

    Raises ValueError for a client in retry mode "adaptive" (its limiter would delay each
    attempt again: use `RateLimit.adaptive()`), for one that is attached already, and for
    `Retry(idempotency_key=True)` (AWS takes no such header; its tokens are used as they are).
    Raises TypeError for what is no botocore client, or has an HTTP session of another kind.
    """
    options = Options(
        provider="aws", replay_reused=replay_reused, buffer=buffer, replay_buffer=replay_buffer
    )
    named = frozenset((idempotent,) if isinstance(idempotent, str) else idempotent)
    endpoint = getattr(client, "_endpoint", None)
    session = getattr(endpoint, "http_session", None)
    if isinstance(session, _Session):
        raise ValueError("a policy is attached to this client already: make another client")  # noqa: TRY004 - the type is right
    if endpoint is None or not isinstance(session, URLLib3Session):
        raise TypeError(f"`attach` takes a botocore client with its own HTTP session: {client!r}")
    _check(client, policy, named)
    attached = Attached(client, policy, options, named)
    _without_own_retries(client)
    _watch(session)
    endpoint.make_request = attached.around(endpoint.make_request)
    endpoint.http_session = _Session(session)
    _register(cast("Any", client).meta.events, attached.service)
    return client


def _check(client: Any, policy: Policy, named: frozenset[str]) -> None:
    refuse_hedge(policy, "botocore")
    mode = (getattr(client.meta.config, "retries", None) or {}).get("mode")
    if mode == "adaptive":
        raise ValueError(
            "retry mode `adaptive` limits the rate inside every attempt and cannot be taken away: "
            'make the client with `Config(retries={"mode": "standard"})`, and give the policy '
            "`RateLimit.adaptive()`"
        )
    retry = policy._shape.part(Retry)
    if retry is not None and retry.idempotency_key:
        raise ValueError(
            "`Retry(idempotency_key=True)`: AWS services do not know the header Idempotency-Key, "
            "so it would make nothing safe to repeat; tokens of the service are used without it"
        )
    unknown = named.difference(client.meta.service_model.operation_names)
    if unknown:
        service = client.meta.service_model.service_name
        raise ValueError(f"idempotent: `{service}` has no operation {', '.join(sorted(unknown))}")


def _without_own_retries(client: Any) -> None:
    service = client.meta.service_model.service_id.hyphenize()
    events = client.meta.events
    events.unregister(f"needs-retry.{service}", unique_id=f"retry-config-{service}")
    # Standard mode tells the server its own number of attempts in `amz-sdk-request`.
    events.unregister(f"request-created.{service}", unique_id=f"seed-max-attempts-{service}")


def _watch(session: Any) -> None:
    """Give this session, and no other, pools that tell what their connections do."""
    _close_pools(session)  # of the client's earlier calls
    classes = session._pool_classes_by_scheme = pools(session._pool_classes_by_scheme)
    for manager in _managers(session):
        manager.pool_classes_by_scheme = classes
        manager.clear()


def _managers(session: Any) -> list[Any]:
    return [session._manager, *session._proxy_managers.values()]


def _close_pools(session: Any) -> None:
    # urllib3 lets go of its pools and trusts that they are collected then; but each of its
    # errors is in a cycle with the frames that hold the pool, so that may be much later.
    for manager in _managers(session):
        for key in manager.pools.keys():  # noqa: SIM118 - it cannot be iterated over
            pool = manager.pools.get(key)
            if pool is not None:
                pool.close()


class _Session:
    """The endpoint's HTTP session: sends what a flight wants to send."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def send(self, request: Any) -> Any:
        flight = current()
        return self._inner.send(request) if flight is None else flight.send(self._inner, request)

    def close(self) -> None:
        _close_pools(self._inner)
        self._inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _register(events: Any, service: str) -> None:
    events.register(f"before-send.{service}", _before_send)
    # After S3's redirector, so that it sees the answer first.
    events.register_last(
        f"needs-retry.{service}", _needs_retry, unique_id=f"retry-config-{service}"
    )
    if service == "s3":
        events.register_first("before-parameter-build.s3.GetObject", _note_params)


def _before_send(request: Any, **_: Any) -> None:
    flight = current()
    if flight is not None:
        flight.admit(request)


def _needs_retry(response: Any, caught_exception: Any, **_: Any) -> int | None:
    flight = current()
    return None if flight is None else flight.decide(response, caught_exception)


def _note_params(params: Any, context: Any, **_: Any) -> None:
    context[PARAMS] = dict(params)
