"""How many clients may be connected, and who goes first when there are too many.

Who has asked for nothing yet costs a place and gives nothing: a client whose request has not
come, or one that keeps its connection for the next. The one that has been like that for longest
goes; only if all are being served is the newcomer refused. One that has not taken all of its
answer is being served.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.gateway.client import Client


class Lobby:
    """Who is connected to one process.

    waiting: those of whom no whole head has come, in the order in which they began to wait.
    """

    __slots__ = ("_by_host", "count", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[Client, None] = {}
        self.count = 0
        self._by_host: dict[str, int] = {}

    def enter(self, client: Client, *, most: int, of_host: int) -> bool:
        """Let one in, if need be in the place of another; False if there is none.

        most: clients in all.  of_host: clients with the same address; 0 for any number.
        """
        host = client.host
        if of_host and host and self._by_host.get(host, 0) >= of_host and not self._make_room(host):
            return False
        if self.count >= most and not self._make_room(""):
            return False
        self.count += 1
        self.waiting[client] = None
        if host:
            self._by_host[host] = self._by_host.get(host, 0) + 1
        client.entered = True
        return True

    def _make_room(self, host: str) -> bool:
        oldest = next(
            (one for one in self.waiting if (not host or one.host == host) and not one.unwritten),
            None,
        )
        if oldest is None:
            return False
        oldest.give_way()
        self.leave(oldest)
        return True

    def leave(self, client: Client) -> None:
        """Take note that one is gone."""
        self.waiting.pop(client, None)
        if not client.entered:
            return
        client.entered = False
        self.count -= 1
        host = client.host
        if host:
            left = self._by_host[host] - 1
            if left:
                self._by_host[host] = left
            else:
                del self._by_host[host]
