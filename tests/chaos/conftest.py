"""The plain clients and peers of `chaos_clients`, as fixtures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import chaos_clients
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def get() -> chaos_clients.Get:
    return chaos_clients.get


@pytest.fixture
def raw() -> chaos_clients.Raw:
    return chaos_clients.raw


@pytest.fixture
def served() -> chaos_clients.Served:
    return chaos_clients.served


@pytest.fixture
def sink() -> Iterator[chaos_clients.Sink]:
    peer = chaos_clients.Sink()
    yield peer
    peer.stop()
