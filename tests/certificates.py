"""Certificates for tests, made by `openssl` when they are asked for."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from typing import NamedTuple

import pytest


class Pair(NamedTuple):
    """The paths of a certificate, which also vouches for itself, and of its key."""

    cert: str
    key: str

    def server(self):
        """Return the context of a server that shows it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self)
        return context

    def client(self):
        """Return the context of a client that trusts it and nothing else."""
        return ssl.create_default_context(cafile=self.cert)


def make(place, name, *subjects):
    """Return a pair for such subjects (`DNS:localhost`, `IP:127.0.0.1`)."""
    if shutil.which("openssl") is None:
        pytest.skip("no `openssl` to make a certificate with: install Debian's openssl")
    pair = Pair(str(place / f"{name}.pem"), str(place / f"{name}.key"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", pair.key, "-out", pair.cert, "-days", "2", "-subj", f"/CN={name}",
         "-addext", f"subjectAltName={','.join(subjects)}"],
        check=True, capture_output=True,
    )  # fmt: skip
    return pair
