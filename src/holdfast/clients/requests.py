"""requests with a policy: `mount(session, policy)`, and nothing else of your code changes.

    session = hf.clients.requests.mount(requests.Session(), policy)
    session.get(url)

Every request of the session is then one logical call of the policy; each hop of a redirect is
one of its own. What comes back after the last attempt is what requests would give: a response,
also one with status 503, or the exception of requests with a note.

`Adapter` is requests' own `HTTPAdapter` with a policy in it, for those who mount adapters
themselves, and for subclasses (an SSL context, a source address).
"""

from __future__ import annotations

import copy
import json
import math
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

try:
    from requests.adapters import HTTPAdapter
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "hf.clients.requests needs requests: `pip install 'requests>=2.32.2'`", name="requests"
    ) from error
from requests.exceptions import ChunkedEncodingError, ContentDecodingError
from requests.exceptions import ConnectionError as BrokenConnection
from requests.exceptions import SSLError as BrokenTLS
from requests.utils import default_headers
from urllib3.exceptions import DecodeError, HTTPError, ProtocolError, ReadTimeoutError, SSLError
from urllib3.util import Timeout

from holdfast.clients._urllib3 import current, limited, watched
from holdfast.clients._urllib3_body import adopt
from holdfast.clients.body import PIECE, File, Once, is_seekable_file
from holdfast.clients.decoding import ACCEPT_ENCODING, DecodingFault, Limit
from holdfast.clients.exchange import KEY_HEADER, Answer, Exchange
from holdfast.clients.options import MIB, Options
from holdfast.clients.sync import refuse_hedge, run
from holdfast.core.classify import provider_code
from holdfast.core.retry import IDEMPOTENT_METHODS, Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from requests import PreparedRequest, Response, Session

    from holdfast.clients._urllib3_body import Raw
    from holdfast.clients.exchange import Try
    from holdfast.runtime.policy import Policy

__all__ = ["Adapter", "mount"]


def mount(
    session: Session,
    policy: Policy,
    prefixes: Iterable[str] = ("http://", "https://"),
    **options: Any,
) -> Session:
    """Let `session` send what begins with one of `prefixes` through `policy`; return it.

    The adapter that was mounted at a prefix is replaced and closed, and with it goes its
    `max_retries`; the sizes of its pools stay. Raises TypeError if it is not requests' own
    HTTPAdapter, since what a subclass adds would be lost: derive it from `Adapter` instead.

    The session asks for gzip and deflate from now on, unless it asks for something of its own.

    options: see `holdfast.clients.options.Options`.
    """
    adapters = {prefix: _in_place_of(session, prefix, policy, options) for prefix in prefixes}
    for prefix, adapter in adapters.items():
        old = session.adapters.get(prefix)
        session.mount(prefix, adapter)
        if old is not None:
            old.close()
    # brotli and zstd, if they are installed: only what is decoded here is surely bounded.
    if session.headers.get("Accept-Encoding") == default_headers()["Accept-Encoding"]:
        session.headers["Accept-Encoding"] = ACCEPT_ENCODING
    return session


def _in_place_of(session: Session, prefix: str, policy: Policy, options: dict[str, Any]) -> Adapter:
    old: Any = session.adapters.get(prefix)
    if old is None:
        return Adapter(policy, **options)
    if type(old) not in {HTTPAdapter, Adapter}:
        raise TypeError(
            f"mount: {prefix!r} has a {type(old).__name__}, which would be lost: "
            "derive it from hf.clients.requests.Adapter and mount that"
        )
    return Adapter(
        policy,
        pool_connections=old._pool_connections,
        pool_maxsize=old._pool_maxsize,
        pool_block=old._pool_block,
        **options,
    )


class Adapter(HTTPAdapter):
    """An HTTPAdapter that sends by a policy.

    pool_connections, pool_maxsize, pool_block: as of HTTPAdapter. max_retries: only 0, because
    the policy retries (ValueError). options: see `holdfast.clients.options.Options`.
    """

    __attrs__ = [*HTTPAdapter.__attrs__, "_policy", "_options"]  # noqa: RUF012 - requests' own way to pickle

    def __init__(
        self,
        policy: Policy,
        *,
        pool_connections: int = 10,
        pool_maxsize: int = 10,
        pool_block: bool = False,
        max_retries: int = 0,
        **options: Any,
    ) -> None:
        if max_retries != 0:
            raise ValueError(f"Adapter: max_retries: {max_retries!r} must be 0: the policy retries")
        refuse_hedge(policy, "requests")
        self._policy = policy
        self._options = Options(**options)
        super().__init__(pool_connections, pool_maxsize, 0, pool_block)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools; a subclass adds to `kwargs` and calls this."""
        super().init_poolmanager(*args, **kwargs)
        _watch(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Return the pools of a proxy."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        _watch(manager)
        return manager

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002 - the signature of HTTPAdapter
        timeout: Any = None,
        verify: Any = True,  # noqa: FBT002 - the signature of HTTPAdapter
        cert: Any = None,
        proxies: Any = None,
    ) -> Response:
        """Make one logical call. Parameters and errors as of HTTPAdapter.

        With `stream=False` the body is read inside the attempts, so a cut in it is retried.
        timeout: bounds connecting and each read, within the limits of the policy.
        """
        body = _body_of(request.body, self._options.replay_buffer)
        exchange = Exchange(
            self._policy,
            self._options,
            Request(method=request.method, host=_host_of(request.url)),
            body=body,
            keyed=request.method not in IDEMPOTENT_METHODS and KEY_HEADER in request.headers,
            fast=True,
        )
        sent = _Sent(self, request, stream=stream, timeout=timeout)
        if body is not None:
            sent.with_body(body)
        if exchange.key is not None:
            sent.with_key(exchange.key)
        sent.route = {"verify": verify, "cert": cert, "proxies": proxies}
        return run(exchange, sent)

    def close(self) -> None:
        """Close all pools, now: cycles in the errors of urllib3 keep some until a collection."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 - iterating over the container itself is refused
                pool = manager.pools.get(key)
                if pool is not None:
                    pool.close()
        super().close()

    def send_once(self, request: PreparedRequest, **kwargs: Any) -> Response:
        """Send one attempt; `kwargs` as of HTTPAdapter.send, always with `stream=True`."""
        return super().send(request, **kwargs)


def _host_of(url: Any) -> str:
    start = url.find("://") + 3
    host: str = url[start : url.find("/", start)]
    if start == 2 or "@" in host or "[" in host or "?" in host or "#" in host:
        return urlsplit(url).hostname or ""
    return host.partition(":")[0].lower()  # what urlsplit gives, in a tenth of the time


def _watch(manager: Any) -> None:
    manager.pool_classes_by_scheme = watched(manager.pool_classes_by_scheme)


class _Sent:
    """One logical call: a `Sender`."""

    __slots__ = (
        "_adapter", "_file", "_fresh", "_limit", "_options", "_shown", "_stream", "_timeout",
        "_wire", "route",
    )  # fmt: skip

    route: dict[str, Any]

    def __init__(
        self, adapter: Adapter, request: PreparedRequest, *, stream: bool, timeout: Any
    ) -> None:
        self._adapter = adapter
        self._options = adapter._options
        self._wire = request  # what is sent
        self._shown = request  # what the response shows
        self._file: File | None = None
        self._fresh = False
        self._stream = stream
        self._timeout = timeout
        self._limit = Limit(self._options.max_decoded, self._options.max_ratio)

    def with_body(self, body: File | Once) -> None:
        """Send `body` again from its start, each time."""
        if isinstance(body, File):
            self._file = body
        else:
            self._wire = copy.copy(self._wire)
            once: Any = body
            self._wire.body = once

    def with_key(self, key: str) -> None:
        """Send `key` along. The user's request stays as it is: sent twice, it is two calls."""
        headers = self._shown.headers.copy()
        headers[KEY_HEADER] = key
        self._shown, self._wire = copy.copy(self._shown), copy.copy(self._wire)
        self._shown.headers = self._wire.headers = headers

    # -- Sender --------------------------------------------------------------------------

    def send(self, this: Try) -> Answer[Response]:
        if self._file is not None:
            self._file.rewind()
        this.fresh = this.fresh or self._fresh
        token = current.set(this)
        try:
            response = self._adapter.send_once(
                self._wire, stream=True, timeout=_within(self._timeout, this), **self.route
            )
        except Exception:
            # A connection that was kept alive and then silent says nothing about a new one,
            # but much about the others in the pool.
            self._fresh = this.reused and not this.answered
            raise
        finally:
            current.reset(token)
        response.request = self._shown
        # 421: this connection is not for this host (RFC 9110, 15.5.20), another one may be.
        self._fresh = response.status_code == 421
        raw = adopt(response.raw, self._limit)
        if raw is None:
            return Answer(response, response.status_code, response.headers, complete=True)
        try:
            complete, code = self._taken(response, raw)
        except BaseException:
            raw.close()
            raise
        return Answer(response, response.status_code, response.headers, complete, code)

    def _taken(self, response: Response, raw: Raw) -> tuple[bool, str | None]:
        """Read what is to be read in the attempt; return (whether all is read, code)."""
        provider = self._options.provider
        if not self._stream:
            content = _read(response, raw)
            return True, None if provider is None else _code(content, provider)
        length = raw.length_remaining
        if length is None or length > self._options.buffer or _is_events(response):
            return length == 0, None
        try:
            kept = raw.keep()
        except HTTPError as error:
            _raise_as_requests_does(error, response.request)
        if provider is None:
            return True, None
        try:
            return True, _code(raw.decoded(kept), provider)
        except DecodingFault:
            return True, None  # its reader will hear of it

    def discard(self, answer: Answer[Response]) -> None:
        raw: Any = answer.response.raw
        raw.dispose()

    def hold(self, answer: Answer[Response], exchange: Exchange) -> Response:
        raw: Any = answer.response.raw
        raw.informs(exchange)
        return answer.response


def _read(response: Response, raw: Raw) -> bytes:
    """Read the whole body, as `response.content` would, with its errors."""
    length = raw.length_remaining
    if length is None or length > MIB or "content-encoding" in raw.headers:
        content = b"".join(response.iter_content(PIECE))
    else:
        try:
            content = raw.read(decode_content=False)
        except HTTPError as error:
            _raise_as_requests_does(error, response.request)
    response._content = content
    response._content_consumed = True
    return content


def _raise_as_requests_does(error: HTTPError, request: Any) -> NoReturn:
    """Raise what `iter_content` makes of an error of urllib3."""
    if isinstance(error, ProtocolError):
        raise ChunkedEncodingError(error, request=request) from error
    if isinstance(error, DecodeError):
        raise ContentDecodingError(error, request=request) from error
    if isinstance(error, ReadTimeoutError):
        raise BrokenConnection(error, request=request) from error
    if isinstance(error, SSLError):
        raise BrokenTLS(error, request=request) from error
    raise error


def _body_of(body: Any, replay_buffer: int) -> File | Once | None:
    """Return what sends `body` again, None if it can be sent as it is."""
    if body is None or isinstance(body, (bytes, str, bytearray)):
        return None
    if is_seekable_file(body):
        return File(body)
    if hasattr(body, "read"):
        return Once(_pieces_of(body), replay_buffer)
    try:
        memoryview(body)
    except TypeError:
        return Once(body, replay_buffer)
    return None


def _pieces_of(file: Any) -> Iterator[bytes]:
    while piece := file.read(PIECE):
        yield piece


def _within(timeout: Any, this: Try) -> Any:
    """Return requests' own timeout, within the limit of this try."""
    if this.limit == math.inf:
        return timeout
    if isinstance(timeout, Timeout):
        return limited(timeout, this)
    if not isinstance(timeout, tuple):
        return Timeout(total=this.limit, connect=timeout, read=timeout)
    if len(timeout) != 2:
        return timeout  # requests says what is wrong with it
    return Timeout(total=this.limit, connect=timeout[0], read=timeout[1])


def _is_events(response: Response) -> bool:
    kind: str = response.headers.get("content-type", "")
    return kind.lower().startswith("text/event-stream")


def _code(content: bytes, provider: str) -> str | None:
    """Return the provider's code in the text of an answer."""
    try:
        return provider_code(provider, json.loads(content))
    except (ValueError, RecursionError):
        return None
