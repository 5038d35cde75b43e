"""aria2's exit and error codes (aria2c(1), "EXIT STATUS"), for one download of it.

Code 8 (the server cannot resume) and 32 (the checksum is wrong) are worth a repeat only
from the first byte; the reason names the code, so that the caller can do that.
"""

from __future__ import annotations

from holdfast.core.tables.row import Provider, Row, rows
from holdfast.core.verdict import AUTH, CONCURRENCY, CONNECT, PERMANENT, TRANSIENT, Sent

PROVIDER = Provider(
    name="aria2",
    codes={
        # 1 unknown (refused connections too), 2 timeout, 5 too slow, 6 network, 7 unfinished,
        # 8 no resume, 29 the server is overloaded.
        **rows(Row(TRANSIENT), "1 2 5 6 7 8 29"),
        "32": Row(TRANSIENT, Sent.YES, max_retries=1),
        "19": Row(CONNECT, Sent.NO, max_retries=1),  # name resolution
        "24": Row(AUTH, Sent.YES),
        # The same file or the same torrent is on its way already.
        **rows(Row(CONCURRENCY), "11 12"),
        # Disk space, piece length, and all that can be wrong with a local file.
        **rows(Row(PERMANENT, local=True), "9 10 13 14 15 16 17 18"),
    },
    rest=Row(PERMANENT),
    paths=(("error_code",), ("errorCode",), ("code",)),
)
