"""Downloads by aria2: a client that supervises a service, and a service of one's own.

client = hf.Aria2Client("http://localhost:6800/jsonrpc", secret=token)
with hf.Aria2Process("data") as aria2, aria2.client() as client: ...
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.downloads.aria2.client import Aria2Client
    from holdfast.downloads.aria2.errors import (
        Aria2AuthError,
        Aria2Error,
        Aria2ProcessError,
        Aria2Refused,
        Aria2Unavailable,
    )
    from holdfast.downloads.aria2.model import (
        BatchDownloadProgress,
        DownloadProgress,
        Failure,
        RetryInfo,
    )
    from holdfast.downloads.aria2.process import Aria2Process
    from holdfast.downloads.aria2.via import Via, ViaFailed

__all__ = [
    "Aria2AuthError",
    "Aria2Client",
    "Aria2Error",
    "Aria2Process",
    "Aria2ProcessError",
    "Aria2Refused",
    "Aria2Unavailable",
    "BatchDownloadProgress",
    "DownloadProgress",
    "Failure",
    "RetryInfo",
    "Via",
    "ViaFailed",
]

# The client needs aiohttp; nothing of it is loaded before it is used.
_HOMES = {
    "client": ("Aria2Client",),
    "errors": (
        "Aria2AuthError",
        "Aria2Error",
        "Aria2ProcessError",
        "Aria2Refused",
        "Aria2Unavailable",
    ),
    "model": (
        "BatchDownloadProgress",
        "DownloadProgress",
        "Failure",
        "RetryInfo",
    ),
    "process": ("Aria2Process",),
    "via": ("Via", "ViaFailed"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
