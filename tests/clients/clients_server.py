"""What the clients' tests share: a server by script, their events, a certificate."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import holdfast as hf
from scripted import Scripted

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

    from scripted import Script


@contextmanager
def serving(script: Script, context: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    with Scripted(script, context) as server:
        yield server


@contextmanager
def listening() -> Iterator[list[Any]]:
    """Collect the events of the block."""
    events: list[Any] = []
    stop = hf.subscribe(events.append)
    try:
        yield events
    finally:
        stop()


def attempts_of(events: list[Any]) -> list[Any]:
    return [event for event in events if type(event).__name__ == "Attempt"]


def certificate(folder: Path) -> tuple[str, str]:
    """Make a certificate for 127.0.0.1; return (its file, the key's file)."""
    crt, key = folder / "crt.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "30", "-subj", "/CN=127.0.0.1", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(crt)],
        check=True, capture_output=True,
    )  # fmt: skip
    return str(crt), str(key)
