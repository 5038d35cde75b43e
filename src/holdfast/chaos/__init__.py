"""Faults on purpose: a fault server and a fault proxy on real sockets.

    with hf.chaos.server(hf.chaos.Object("/big", 64 << 20), seed=1) as s:
        async with hf.chaos.proxy(s.address, hf.chaos.Reset(mean_bytes=8 << 20), seed=7) as p:
            ...

`proxy` breaks any TCP connection: Reset, Fin, Truncate, Stall, Slow, Slices, Latency, Flip,
Refuse. `server` does that too and speaks HTTP: Status, Replace, IdleClose, Interim, Misrange,
Captive, NodeEtag, Surplus. See docs/chaos.md.
"""

from holdfast.chaos.content import Content as Content
from holdfast.chaos.content import expected_sha256 as expected_sha256
from holdfast.chaos.fault import Fault as Fault
from holdfast.chaos.fault import HttpFault as HttpFault
from holdfast.chaos.fault import Positioned as Positioned
from holdfast.chaos.faults import *  # noqa: F403 - a fault is named once, in faults/__init__.py
from holdfast.chaos.line import Cut as Cut
from holdfast.chaos.line import Line as Line
from holdfast.chaos.message import Answer as Answer
from holdfast.chaos.message import Framing as Framing
from holdfast.chaos.message import Request as Request
from holdfast.chaos.proxy import Proxy as Proxy
from holdfast.chaos.proxy import proxy as proxy
from holdfast.chaos.routes import Call as Call
from holdfast.chaos.routes import Handler as Handler
from holdfast.chaos.routes import Object as Object
from holdfast.chaos.routes import Redirect as Redirect
from holdfast.chaos.routes import Route as Route
from holdfast.chaos.routes import Validators as Validators
from holdfast.chaos.server import Server as Server
from holdfast.chaos.server import server as server
from holdfast.chaos.stats import Entry as Entry
from holdfast.chaos.stats import Hit as Hit
from holdfast.chaos.stats import Stats as Stats
