"""Exceptions of Python and its standard library, by qualified name."""

from __future__ import annotations

from holdfast.core.tables.row import CAUSED, ITSELF, Row, rows
from holdfast.core.verdict import (
    CANCELLED,
    CONNECT,
    PERMANENT,
    TRANSIENT,
    UNKNOWN,
    Sent,
)

_CANCELLED = Row(CANCELLED, needs=ITSELF)
_BUG = Row(PERMANENT, needs=CAUSED)
_BROKEN = Row(TRANSIENT)
_TLS_EOF = Row(CONNECT)  # in a handshake as a rule, but nothing proves it: sent stays maybe

# An OSError made without its errno (by hand, by asyncio) means what its class stands for.
_OS_ERRORS = {
    "OSError": "",
    "BlockingIOError": "EAGAIN",
    "ChildProcessError": "ECHILD",
    "ConnectionError": "ECONNRESET",
    "BrokenPipeError": "EPIPE",
    "ConnectionAbortedError": "ECONNABORTED",
    "ConnectionRefusedError": "ECONNREFUSED",
    "ConnectionResetError": "ECONNRESET",
    "FileExistsError": "EEXIST",
    "FileNotFoundError": "ENOENT",
    "InterruptedError": "EINTR",
    "IsADirectoryError": "EISDIR",
    "NotADirectoryError": "ENOTDIR",
    "PermissionError": "EACCES",
    "ProcessLookupError": "ESRCH",
    "TimeoutError": "ETIMEDOUT",
}

TYPES: dict[str, Row] = {
    **{
        f"builtins.{name}": Row(UNKNOWN, by="errno", errno=code)
        for name, code in _OS_ERRORS.items()
    },
    **rows(_CANCELLED, "KeyboardInterrupt SystemExit GeneratorExit", "builtins."),
    "asyncio.exceptions.CancelledError": _CANCELLED,
    "concurrent.futures._base.CancelledError": _CANCELLED,
    "trio.Cancelled": _CANCELLED,
    # The program's own mistakes: the same call fails the same way.
    **rows(
        _BUG,
        "TypeError ValueError LookupError AttributeError AssertionError ArithmeticError"
        " NameError ImportError SyntaxError NotImplementedError",
        "builtins.",
    ),
    **rows(Row(PERMANENT, local=True, needs=CAUSED), "MemoryError RecursionError", "builtins."),
    # An end of file where more was due: asyncio.IncompleteReadError is one too.
    "builtins.EOFError": _BROKEN,
    # TLS. These are OSErrors, but their errno is OpenSSL's: 1 is not EPERM.
    "ssl.SSLError": Row(PERMANENT),
    "ssl.SSLCertVerificationError": Row(PERMANENT, Sent.NO),
    "ssl.SSLEOFError": _TLS_EOF,
    "ssl.SSLZeroReturnError": _BROKEN,
    "ssl.SSLSyscallError": _BROKEN,
    "ssl.SSLWantReadError": _BROKEN,
    "ssl.SSLWantWriteError": _BROKEN,
    # getaddrinfo's errors are judged by their own codes (tables.errnos.GETADDRINFO).
    "socket.gaierror": Row(CONNECT, Sent.NO, by="getaddrinfo"),
    "socket.herror": Row(CONNECT, Sent.NO, max_retries=1),
    # http.client: what came was not HTTP, or stopped.
    **rows(_BROKEN, "BadStatusLine RemoteDisconnected LineTooLong UnknownProtocol", "http.client."),
    "http.client.IncompleteRead": Row(TRANSIENT, Sent.YES),
    "http.client.UnknownTransferEncoding": Row(PERMANENT, Sent.YES),
    "http.client.InvalidURL": Row(PERMANENT, Sent.NO),
    # The connection object was used out of order.
    **rows(
        Row(PERMANENT), "NotConnected UnimplementedFileMode ImproperConnectionState", "http.client."
    ),
    "urllib.error.HTTPError": Row(UNKNOWN, Sent.YES, by="status"),
    "urllib.error.URLError": Row(UNKNOWN, inside=True),
    "urllib.error.ContentTooShortError": Row(TRANSIENT, Sent.YES),
    # Decisions of a policy inside the one that asks.
    "holdfast.core.errors.Rejected": Row(UNKNOWN, by="holdfast"),
    "holdfast.core.errors.DeadlineExceeded": Row(UNKNOWN, by="holdfast"),
    # The bytes came whole and are still no gzip or deflate.
    "zlib.error": Row(PERMANENT, Sent.YES),
    "gzip.BadGzipFile": Row(PERMANENT, Sent.YES),
}
