"""A server on a loopback port that fails in one named way, with raw sockets."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
CUT = HEAD + b"Content-Length: 1000\r\n\r\n0123456789"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
THROTTLE = b"HTTP/1.1 503 No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"


def end(peer: socket.socket, *, reset: bool) -> None:
    if reset:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def respond(peer: socket.socket, what: str, done: threading.Event) -> None:
    """Read one request head (or TLS hello) and fail in the way that `what` names."""
    seen = peer.recv(65536)
    while what != "tls_eof" and b"\r\n\r\n" not in seen:
        more = peer.recv(65536)
        if not more:
            break
        seen += more
    answers = {
        "garbage": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "rst_body": CUT,
        "fin_body": CUT,
        "cut_chunk": CHUNKED,
        "bad_chunk": CHUNKED + b"zz\r\nhello\r\n",
        "silent_body": CUT,
        "throttled": THROTTLE,
        "missing": b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",
    }
    peer.sendall(answers.get(what, b""))
    if what.startswith("silent"):
        done.wait(5)
    elif what == "rst_body":
        # A reset overtakes what the client has not read yet: let it read the head first.
        done.wait(0.1)
    end(peer, reset=what.startswith("rst"))


@contextmanager
def failing_server(what: str) -> Iterator[int]:
    """Listen on a free port and treat every connection as `what` says."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                if done.is_set():
                    peer.close()
                    return
                respond(peer, what, done)

        thread = threading.Thread(target=serve)
        if what == "refused":
            listener.close()
            yield port
            return
        thread.start()
        try:
            yield port
        finally:
            done.set()
            with socket.create_connection(("127.0.0.1", port)):  # wakes accept()
                pass
            thread.join()
