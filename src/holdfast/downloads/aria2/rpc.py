"""aria2's JSON-RPC: calls by HTTP POST, notifications by websocket.

Every call that can be repeated is: ids are ours, so adding twice adds once. What the service
answers, an error included, ends a call; only silence is repeated.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.core.retry import Retry
from holdfast.core.verdict import CONCURRENCY, CONNECT, THROTTLED, TIMEOUT, TRANSIENT
from holdfast.downloads.aria2.errors import Aria2AuthError, Aria2Refused, Aria2Unavailable
from holdfast.runtime.policy import policy
from holdfast.telemetry import redact
from holdfast.wire.http1 import USER_AGENT

try:
    import aiohttp
except ImportError as missing:
    raise ImportError(
        "`holdfast.Aria2Client` needs aiohttp: pip install 'holdfast[aria2]'"
    ) from missing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from holdfast.core.verdict import Kind, Verdict
    from holdfast.telemetry.secret import Secret
    from holdfast.wire.urls import Url

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 20.0
"""A service that allocates a large file, or waits for a dying disk, answers late."""
MAX_ANSWER = 64 * 1024 * 1024
MAX_TEXT = 500
# aria2 says everything with code 1 and HTTP 400; this is the whole text of this one cause.
_UNAUTHORIZED = "Unauthorized"

Call = tuple[str, tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Fault:
    """What one call of a multicall came to, if not to a result."""

    reason: str


class BadAnswer(aiohttp.ClientError):
    """An answer that is not aria2's: of a proxy, or of another server on that port.

    status: of it; the tables read it, so that a gateway's 502 is repeated and a 404 is not.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Rpc:
    """The calls of one service. Used on one loop only.

    attempts: in all, for `call`.  delay: seconds; the n-th wait is `delay * 2 ** (n - 1)`.
    say: where lines about attempts and waits go.
    """

    def __init__(
        self,
        url: Url,
        secret: Secret | None,
        *,
        attempts: int,
        delay: float,
        say: Callable[[str], None],
    ) -> None:
        self.url = url
        self.address = f"[{url.host}]:{url.port}" if ":" in url.host else f"{url.host}:{url.port}"
        self._secret = secret
        self._attempts = attempts
        self._delay = delay
        self._say = say
        self._numbers = itertools.count(1)
        self._session: aiohttp.ClientSession | None = None
        kinds: Kind = CONNECT | TRANSIENT | THROTTLED | CONCURRENCY | TIMEOUT
        retry = Retry(attempts, on=kinds, backoff=self._wait, budget=None)
        self._policy = policy(retry, name="aria2", order="free")

    def __repr__(self) -> str:
        return f"Rpc({self.address!r})"

    async def aclose(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def session(self) -> aiohttp.ClientSession:
        """Return the session; it is made with its first use, on the running loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"User-Agent": USER_AGENT}, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session

    # -- calls ---------------------------------------------------------------------------------

    async def call(self, method: str, *params: object) -> Any:  # noqa: ANN401 - JSON
        """Call a method, as often as allowed.

        Raises Aria2Unavailable, Aria2AuthError or Aria2Refused.
        """
        tried = 0

        async def attempt() -> Any:  # noqa: ANN401 - JSON
            nonlocal tried
            tried += 1
            try:
                return await self._exchange(method, params)
            except (aiohttp.ClientError, OSError) as error:
                self._say(f"no answer (attempt {tried}/{self._attempts}): {_words(error)}")
                raise

        try:
            return await self._policy.acall(attempt)
        except (aiohttp.ClientError, OSError) as error:
            raise self._unavailable(error, tried) from error

    async def succeeds(self, method: str, gid: str) -> bool:
        """Call a method about a download; False if it is refused."""
        try:
            await self.call(method, gid)
        except Aria2Refused:
            return False
        return True

    async def status(self, gid: str) -> str | None:
        """Return aria2's word for a download, None if it does not know it."""
        try:
            found = await self.call("aria2.tellStatus", gid, ["status"])
        except Aria2Refused:
            return None
        return str(found.get("status", ""))

    async def multicall(self, calls: Sequence[Call]) -> list[Any]:
        """Do several calls in one exchange, once; a `Fault` stands for each that was refused."""
        bodies = [{"methodName": name, "params": self._params(params)} for name, params in calls]
        try:
            found = await self._exchange("system.multicall", (bodies,), token=False)
        except (aiohttp.ClientError, OSError) as error:
            raise self._unavailable(error, 1) from error
        if not isinstance(found, list) or len(found) != len(calls):
            raise Aria2Refused(
                "system.multicall", "an answer of another form", address=self.address
            )
        return [self._each(each) for each in found]

    def _each(self, found: object) -> Any:  # noqa: ANN401 - JSON
        if isinstance(found, list) and len(found) == 1:
            return found[0]
        reason = _reason_in(found)
        if reason == _UNAUTHORIZED:
            raise self._unauthorized()
        return Fault(reason)

    async def _exchange(self, method: str, params: Sequence[object], *, token: bool = True) -> Any:  # noqa: ANN401 - JSON
        body = {
            "jsonrpc": "2.0",
            "id": str(next(self._numbers)),
            "method": method,
            "params": self._params(params) if token else list(params),
        }
        limits = aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS)
        async with self.session().post(
            self.url.full(), json=body, timeout=limits, allow_redirects=False
        ) as answer:
            status, data = answer.status, await _limited(answer)
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        if not isinstance(found, dict) or not {"result", "error"} & found.keys():
            raise BadAnswer(status, f"not an answer of aria2 (status: {status})")
        if "result" in found:
            return found["result"]
        reason = _reason_in(found["error"])
        if reason == _UNAUTHORIZED:
            raise self._unauthorized()
        raise Aria2Refused(method, reason, address=self.address)

    def _params(self, params: Sequence[object]) -> list[object]:
        if self._secret is None:
            return list(params)
        return [f"token:{self._secret.reveal()}", *params]

    # -- notifications ---------------------------------------------------------------------------

    async def listen(self, heard: Callable[[str], None]) -> bool:
        """Call `heard(gid)` whenever aria2 says that something happened to a download.

        Returns True when the connection ends, False if there is none to be had this way.
        """
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                socket = await self.session().ws_connect(
                    self.url.full(), timeout=_CLOSING, max_msg_size=1 << 20
                )
        except (aiohttp.ClientError, OSError):
            return False
        async with socket:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    for gid in _gids_in(message.data):
                        heard(gid)
        return True

    # -- what went wrong -------------------------------------------------------------------------

    def _wait(self, n: int, _: Verdict) -> float:
        seconds = self._delay * 2.0 ** (n - 1)
        self._say(f"waits {seconds:g} s")
        return seconds

    def _unavailable(self, error: Exception, attempts: int) -> Aria2Unavailable:
        times = "attempt" if attempts == 1 else "attempts"
        text = f"`{self.address}`: no answer from aria2 ({attempts} {times}): {_words(error)}"
        return Aria2Unavailable(text, address=self.address, attempts=attempts)

    def _unauthorized(self) -> Aria2AuthError:
        text = f"`{self.address}`: aria2 does not accept the secret"
        return Aria2AuthError(text, address=self.address)


_CLOSING = aiohttp.ClientWSTimeout(ws_close=1.0)


async def _limited(answer: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in answer.content.iter_any():
        size += len(part)
        if size > MAX_ANSWER:
            raise BadAnswer(answer.status, f"an answer of more than {MAX_ANSWER} bytes")
        parts.append(part)
    return b"".join(parts)


def _reason_in(error: object) -> str:
    found = error.get("message") if isinstance(error, dict) else None
    text = found if isinstance(found, str) else "an error without words"
    return redact.text(text)[:MAX_TEXT]


def _gids_in(data: str) -> list[str]:
    try:
        found = json.loads(data)
        method, params = found["method"], found["params"]
    except (ValueError, KeyError, TypeError):
        return []
    if not isinstance(method, str) or not method.startswith("aria2.on"):
        return []
    gids = [each.get("gid") for each in params if isinstance(each, dict)]
    return [gid for gid in gids if isinstance(gid, str)]


def _words(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return redact.text(text)[:MAX_TEXT]
