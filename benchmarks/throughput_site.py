"""What the throughput benchmark downloads: an nginx over made-up files, all in memory.

The folder of the files is served plainly, so that it also passes for a bucket of S3 to whoever
asks with path style and without a signature: `GET /bucket/key` and `HEAD /bucket/key`.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from processes import Running, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY = Path("/dev/shm")
BUCKET = "bucket"
BLOCK = 1 << 20

CONF = """\
daemon off;
worker_processes 2;
pid {home}/nginx.pid;
error_log {home}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    default_type application/octet-stream;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    root {home}/www;
    server {{ listen 127.0.0.1:{plain}; }}
    server {{
        listen 127.0.0.1:{tls} ssl;
        ssl_certificate {home}/cert.pem;
        ssl_certificate_key {home}/key.pem;
    }}
}}
"""


@dataclass(frozen=True)
class Served:
    """One file: its name, below the bucket, its size in bytes and its SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass
class Site:
    """The server, and room beside it. out: an empty folder, made afresh before each run."""

    home: Path
    plain: int
    tls: int
    files: dict[str, list[Served]] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        return self.home / "out"

    @property
    def certificate(self) -> Path:
        return self.home / "cert.pem"

    def url(self, name: str, *, tls: bool = False) -> str:
        scheme, port = ("https", self.tls) if tls else ("http", self.plain)
        return f"{scheme}://127.0.0.1:{port}/{BUCKET}/{name}"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.plain}"

    def publish(self, load: str, count: int, size: int) -> None:
        """Make `count` files of `size` bytes, each with content of its own."""
        folder = self.home / "www" / BUCKET
        folder.mkdir(parents=True, exist_ok=True)
        # One block of noise, and a different place to begin in it for each file: to make
        # gigabytes of noise would take longer than to fetch them.
        noise = random.Random(load).randbytes(BLOCK)
        made = []
        for number in range(count):
            name = f"{load}-{number:05d}.bin"
            digest, left, at = hashlib.sha256(), size, number * 4099 % BLOCK
            with (folder / name).open("wb") as file:
                while left:
                    piece = noise[at : at + left]
                    file.write(piece)
                    digest.update(piece)
                    left -= len(piece)
                    at = (at + len(piece) + 1) % BLOCK
            made.append(Served(name, size, digest.hexdigest()))
        self.files[load] = made

    def withdraw(self, load: str) -> None:
        """Take the files of a load away: memory is for the next one."""
        for served in self.files.pop(load, []):
            (self.home / "www" / BUCKET / served.name).unlink()
        self.empty()

    def empty(self) -> None:
        """Make room for the next run."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()

    def differences(self, load: str) -> list[str]:
        """Return the names of the load that are absent, of another size or content."""
        return [served.name for served in self.files[load] if not _is_same(self.out, served)]


def _is_same(folder: Path, served: Served) -> bool:
    path = folder / served.name
    if not path.is_file() or path.stat().st_size != served.size:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(BLOCK):
            digest.update(data)
    return digest.hexdigest() == served.sha256


@contextmanager
def serving(nginx: str, openssl: str) -> Iterator[Site]:
    """Run nginx over a folder in memory, and remove both at the end."""
    home = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=MEMORY if MEMORY.is_dir() else None))
    home.chmod(0o755)  # the workers of nginx are another user if root starts it
    try:
        plain, tls = free_ports(2)
        _certify(openssl, home)
        (home / "www").mkdir()
        (home / "nginx.conf").write_text(CONF.format(home=home, plain=plain, tls=tls))
        log = str(home / "error.log")
        command = [nginx, "-p", str(home), "-e", log, "-c", str(home / "nginx.conf")]
        with Running(command) as server:
            server.await_port(plain)
            yield Site(home, plain, tls)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _certify(openssl: str, home: Path) -> None:
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(home / "key.pem"), "-out", str(home / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
