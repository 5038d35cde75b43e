"""The addresses of endpoints: looked up beside the loop, remembered for a minute.

What was known is still used when the name server fails or is slow: an endpoint does not move
because nobody can be asked where it is.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import socket
from typing import TYPE_CHECKING, Any

from holdfast.runtime.clock import clock

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    Asked = tuple[str, int]

KEPT_SECONDS = 60.0
AGAIN_SECONDS = 5.0
"""After a failed look-up the old answer holds for so long before it is asked again."""
PATIENCE = 0.25
"""Seconds that a new answer is waited for while there is an old one."""


class _Answer:
    __slots__ = ("found", "until")

    def __init__(self, found: list[str], until: float) -> None:
        self.found = found
        self.until = until


class Names:
    """Looks up and remembers. For the loop's thread; the look-up itself is in its executor.

    kept: seconds for which an answer holds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, kept: float = KEPT_SECONDS) -> None:
        self._loop = loop
        self._kept = kept
        self._known: dict[Asked, _Answer] = {}
        self._asking: dict[Asked, asyncio.Task[list[str] | OSError]] = {}

    async def addresses(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host, in the order to try them; one at least.

        Families take turns, as RFC 8305 (4) wants it. Several who ask share one look-up, and one
        that leaves does not end it. Raises socket.gaierror if there is no answer, old or new.
        """
        if is_address(host):
            return [host]
        asked = (host, port)
        known = self._known.get(asked)
        if known is not None and clock.monotonic() < known.until:
            return known.found
        task = self._asking.get(asked)
        if task is None:
            task = self._asking[asked] = self._loop.create_task(self._look_up(asked))
        if known is None:
            answer = await asyncio.shield(task)
        else:
            await asyncio.wait((task,), timeout=PATIENCE)
            answer = task.result() if task.done() and not task.cancelled() else known.found
        if isinstance(answer, OSError):
            # A copy: one error that several raise would gather the traceback of each.
            raise type(answer)(*answer.args)
        return answer

    async def _look_up(self, asked: Asked) -> list[str] | OSError:
        """Return what is known now; the error if that is nothing."""
        host, port = asked
        try:
            infos = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = _in_turn(infos)
        except OSError as error:
            return self._old(asked) or error
        except UnicodeError:  # a label that is empty or too long is no name at all
            return socket.gaierror(socket.EAI_NONAME, f"`{host}` is no host name")
        finally:
            self._asking.pop(asked, None)
        if not found:
            return self._old(asked) or socket.gaierror(socket.EAI_NONAME, "no address")
        self._known[asked] = _Answer(found, clock.monotonic() + self._kept)
        return found

    def _old(self, asked: Asked) -> list[str] | None:
        known = self._known.get(asked)
        if known is None:
            return None
        known.until = clock.monotonic() + AGAIN_SECONDS
        return known.found

    def succeed(self, before: Names, asked: Collection[Asked]) -> None:
        """Know what another one knows of some: a name server may be away when it is asked anew."""
        self._known |= {one: known for one, known in before._known.items() if one in asked}

    def close(self) -> None:
        """Give up all look-ups."""
        for task in list(self._asking.values()):
            task.cancel()


def is_address(host: str) -> bool:
    """Say whether a host is an address in numbers, which is no question for a name server."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _in_turn(infos: Iterable[tuple[Any, ...]]) -> list[str]:
    """Return the addresses with the families in turn, beginning with the first one's."""
    families: dict[int, dict[str, None]] = {}
    for family, _, _, _, where in infos:
        text = str(where[0])
        if len(where) == 4 and where[3] and "%" not in text:
            text += f"%{where[3]}"  # a link-local address is of use with its link only
        families.setdefault(family, {})[text] = None
    rounds = itertools.zip_longest(*families.values())
    return [one for group in rounds for one in group if one is not None]
