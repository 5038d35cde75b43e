"""2,000 small files from a real nginx, on both planes."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from downloads_rig import downloads, names_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
COUNT = 2000
CONF = """
daemon off; pid {dir}/pid; error_log {dir}/error.log; worker_processes 1;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; keepalive_requests 700;
  client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  server {{
    listen 127.0.0.1:{port}; root {dir}/www;
    location = /status {{ stub_status; }}
  }}
}}
"""


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[str]:
    if NGINX is None:
        pytest.skip("nginx is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    base = tmp_path / "nginx"
    (base / "www").mkdir(parents=True)
    base.chmod(0o755)
    for n in range(COUNT):
        (base / "www" / f"{n:04}").write_bytes(content(n))
    (base / "conf").write_text(CONF.format(dir=base, port=port))
    process = subprocess.Popen([NGINX, "-c", str(base / "conf"), "-g", "user root;"])
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def content(n: int) -> bytes:
    block = hashlib.sha256(str(n).encode()).digest()
    return (block * 200)[: n * 3 % 6000]


@pytest.mark.parametrize("plane", ["asyncio", "threads"])
def test_two_thousand_files_of_nginx(plane: str, nginx: str, tmp_path: Path) -> None:
    into = tmp_path / "d"
    missing = [f"{nginx}/none/{n}" for n in range(20)]
    with downloads(into, plane=plane) as d:
        d.add_many([f"{nginx}/{n:04}" for n in range(COUNT)] + missing)
        report = d.run()
        assert (report.done, len(report.failed), report.left) == (COUNT, 20, 0)
        assert {item.reason for item in report.failed} == {"not-found"}
        assert {item.attempts for item in report.failed} == {1}
        assert d.run().skipped == COUNT
    assert names_in(into) == [f"{n:04}" for n in range(COUNT)]
    assert all((into / f"{n:04}").read_bytes() == content(n) for n in range(COUNT))
