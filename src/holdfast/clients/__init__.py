"""Adapters: keep your HTTP client, lose the failures. One module per library.

    hf.clients.httpx       transports for httpx2 and httpx
    hf.clients.requests    mount(session, policy)
    hf.clients.aiohttp     Middleware(policy)
    hf.clients.botocore    attach(client, policy)

Each is imported when it is first used, and needs only its own library.
"""

from __future__ import annotations

from importlib import import_module

_MODULES = ("aiohttp", "botocore", "httpx", "requests")

__all__ = ["aiohttp", "botocore", "httpx", "requests"]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'holdfast.clients' has no attribute {name!r}")
    return import_module(f"holdfast.clients.{name}")


def __dir__() -> list[str]:
    return __all__
