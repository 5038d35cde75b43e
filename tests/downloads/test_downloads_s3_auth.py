"""Credentials and signatures: what is looked for where, and that botocore would sign the same."""

from __future__ import annotations

import builtins
import socket
from datetime import UTC, datetime
from urllib.parse import quote

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast as hf
from holdfast.downloads.s3_auth import Found, Signer, find

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z


@pytest.fixture(autouse=True)
def _no_credentials_of_this_machine(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


@pytest.fixture
def no_network(monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("somebody asked the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.mark.usefixtures("no_network")
def test_auto_is_anonymous_where_nothing_lies_on_the_machine() -> None:
    found = find("auto")
    assert found.signer is None
    assert "chain" in found.note


@pytest.mark.usefixtures("no_network")
def test_auto_takes_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t0ken")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    found = find("auto")
    assert found.region == "eu-west-3"
    assert found.signer is not None
    headers = found.signer("https://b.s3.eu-west-3.amazonaws.com/k", "GET", {}, NOW)
    assert headers["X-Amz-Security-Token"] == "t0ken"
    assert "Credential=AKID/20260101/eu-west-3/s3/aws4_request" in headers["Authorization"]
    assert "s3cret" not in repr(found)
    assert "t0ken" not in repr(found)


@pytest.mark.usefixtures("no_network")
def test_auto_takes_the_shared_files_and_passes_over_what_asks_a_server(tmp_path) -> None:
    (tmp_path / "config").write_text(
        "[default]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = base\n"
        "[profile process]\ncredential_process = /bin/false\n"
    )
    (tmp_path / "credentials").write_text(
        "[base]\naws_access_key_id = BASE\naws_secret_access_key = x\n"
    )
    assert find("auto").signer is None  # a role is asked for at a server
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = FILE\naws_secret_access_key = x\n"
    )
    signer = find("auto").signer
    assert signer is not None
    assert signer.credentials.get_frozen_credentials().access_key == "FILE"


def test_anonymous_looks_for_nothing(monkeypatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    assert find("anonymous") == Found(note="it was asked anonymously")


def test_chain_without_anything_is_an_error(monkeypatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(hf.downloads.DownloadError, match="no credentials") as caught:
        find("chain")
    assert caught.value.code == "HF-1011"


def test_half_of_a_pair_is_an_error_that_names_the_other_half(monkeypatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    with pytest.raises(hf.downloads.DownloadError, match="AWS_SECRET_ACCESS_KEY") as caught:
        find("auto")
    assert caught.value.code == "HF-1011"


def test_a_profile_that_does_not_exist_is_an_error(monkeypatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nowhere")
    with pytest.raises(hf.downloads.DownloadError, match="nowhere"):
        find("auto")


def test_another_word_is_refused() -> None:
    with pytest.raises(hf.downloads.DownloadError, match="auto, anonymous, chain"):
        find("none")


def test_without_the_extra_auto_is_anonymous_and_chain_says_what_to_install(monkeypatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: object, **options: object) -> object:
        if name.startswith("botocore"):
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert find("auto").signer is None
    assert "[s3]" in find("auto").note
    with pytest.raises(hf.downloads.DownloadError) as caught:
        find("chain")
    assert caught.value.code == "HF-1010"
    assert "pip install" in caught.value.next_step


KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    key=KEYS,
    prefix=KEYS,
    token=st.sampled_from([None, "t0ken/+="]),
    secure=st.booleans(),
    now=st.integers(0, 4_000_000_000),
)
def test_botocore_itself_would_sign_the_same(key, prefix, token, secure, now) -> None:
    credentials = Credentials("AKID", "s3cret", token)
    url = f"{'https' if secure else 'http'}://b.example:9000/{quote(key, safe='/-._~')}"
    url += f"?list-type=2&prefix={quote(prefix, safe='-._~')}"
    headers = {"x-amz-request-payer": "requester"}
    request = AWSRequest("GET", url, headers=dict(headers))
    with pytest.MonkeyPatch.context() as patch:
        moment = datetime.fromtimestamp(now, UTC)
        patch.setattr(botocore.auth, "get_current_datetime", lambda: moment)
        botocore.auth.S3SigV4Auth(credentials, "s3", "us-west-2").add_auth(request)
    ours = Signer(credentials, "us-west-2")(url, "GET", headers, float(now))
    theirs = {name.lower(): value for name, value in request.headers.items()}
    signed = {name.lower(): value for name, value in ours.items()}
    # We name the host, they let it be added: both sign it, so the proof is the same.
    assert signed == theirs


def test_the_host_is_signed_as_it_is_sent() -> None:
    signer = Signer(Credentials("AKID", "s3cret"))
    proofs = {
        signer(f"https://{host}/k", "GET", {}, NOW)["Authorization"]
        for host in ("bücher.example", "xn--bcher-kva.example", "XN--bcher-kva.example:443")
    }
    assert len(proofs) == 1
