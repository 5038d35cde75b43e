"""Codes of the Kling API (可灵), from its documentation.

429 alone means four things here: too fast (1302), no slot (1303), no money (1100-1102),
the address is not allowed (1304).
"""

from __future__ import annotations

from holdfast.core.tables.row import Provider, Row, rows
from holdfast.core.verdict import AUTH, CONCURRENCY, PERMANENT, THROTTLED, TRANSIENT, Sent

PROVIDER = Provider(
    name="kling",
    codes={
        # A key that is wrong stays wrong; a token whose time is off is signed once more.
        **rows(Row(AUTH, Sent.YES, not_executed=True, max_retries=0), "1000 1001 1002"),
        **rows(Row(AUTH, Sent.YES, not_executed=True, max_retries=1), "1003 1004"),
        **rows(
            Row(PERMANENT, Sent.YES, not_executed=True),
            "1100 1101 1102 1103 1200 1201 1202 1203 1300 1301 1304",
        ),
        "1302": Row(THROTTLED, Sent.YES, not_executed=True),
        # All slots are taken by running tasks, which last minutes: no need to ask at once.
        "1303": Row(CONCURRENCY, Sent.YES, not_executed=True, retry_after=1.0),
        **rows(Row(TRANSIENT, Sent.YES), "5000 5001 5002"),
    },
    paths=(("code",), ("body", "code")),
)
