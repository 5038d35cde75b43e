"""Credentials for S3, and the headers that prove them (Signature Version 4).

    anonymous   none are looked for; needs nothing but this package
    auto        what lies on this machine: environment variables, the shared files; else anonymous.
                Nothing is asked over the network, and no program is run
    chain       all that botocore knows: also roles, single sign-on, containers, the metadata
                service of a virtual machine; none found is an error

botocore (the extra `[s3]`) finds the credentials, renews those that expire, and signs; our own
connections carry the requests. A signature is good for 15 minutes around its time, so every
request is signed when it is made, retries included.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from holdfast.downloads.failures import DownloadError
from holdfast.wire.urls import parse

if TYPE_CHECKING:
    from collections.abc import Mapping

Auth = Literal["auto", "anonymous", "chain"]
AUTHS: tuple[Auth, ...] = ("auto", "anonymous", "chain")
# botocore's names of what reads only this machine's environment and files. `custom-process`
# runs a program, which usually asks a server; the others ask one themselves.
_LOCAL = frozenset({"env", "shared-credentials-file", "config-file"})
_EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
DEFAULT_REGION = "us-east-1"


class Credentials(Protocol):
    """What botocore finds."""

    def get_frozen_credentials(self) -> Any:  # noqa: ANN401 - a named tuple of botocore's
        """Return access key, secret key and token of one moment, renewed if need be."""
        ...


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs requests to S3 in one region. For any thread.

    region: empty is read as us-east-1, where a bucket of an unknown region is asked first.
    """

    credentials: Credentials
    region: str = ""

    def __repr__(self) -> str:
        return f"Signer(***, region={self.region!r})"

    def __call__(
        self, url: str, method: str, headers: Mapping[str, str], now_wall: float
    ) -> dict[str, str]:
        """Return `headers` with those that prove who asks.

        headers: are signed along; what is added later (Range, If-Match) need not be signed.
        now_wall: seconds since the epoch, by the server's clock if that is known to differ.
        Raises DownloadError (HF-1011) if the credentials cannot be renewed.
        """
        from botocore.auth import S3SigV4Auth  # type: ignore[import-untyped]  # noqa: PLC0415 - it has no types; 60 ms, only for who signs
        from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]  # noqa: PLC0415 - the same

        frozen = self._frozen()
        auth = S3SigV4Auth(frozen, "s3", self.region or DEFAULT_REGION)
        time = datetime.fromtimestamp(now_wall, UTC).strftime("%Y%m%dT%H%M%SZ")
        added = {"X-Amz-Date": time, "X-Amz-Content-SHA256": _EMPTY_SHA256}
        if frozen.token:
            added["X-Amz-Security-Token"] = frozen.token
        host = {"Host": parse(url).netloc}  # as it will be sent
        request = AWSRequest(method=method, url=url, headers={**headers, **added, **host})
        # The steps of `add_auth`, which would ask the machine for the time.
        request.context["timestamp"] = time
        text = auth.string_to_sign(request, auth.canonical_request(request))
        signed = auth.signed_headers(auth.headers_to_sign(request))
        proof = (
            f"AWS4-HMAC-SHA256 Credential={auth.scope(request)}, "
            f"SignedHeaders={signed}, Signature={auth.signature(text, request)}"
        )
        return {**headers, **added, "Authorization": proof}

    def same_as(self, other: Signer) -> bool:
        """Whether both prove the same now."""
        return bool(self._frozen() == other._frozen())

    def _frozen(self) -> Any:  # noqa: ANN401 - a named tuple of botocore's
        from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]  # noqa: PLC0415 - it has no types; see above

        try:
            return self.credentials.get_frozen_credentials()
        except BotoCoreError as error:
            text = f"the credentials cannot be renewed ({error})"
            raise DownloadError("no-credentials", text, exit_code=1) from None


@dataclass(frozen=True, slots=True)
class Found:
    """What was found. signer: None is anonymous.

    region: that of the user's configuration, or empty.  note: why there is no signer, for the
    text of a refusal.
    """

    signer: Signer | None = None
    region: str = ""
    note: str = ""


def find(auth: Auth) -> Found:
    """Look for credentials.

    Raises DownloadError: HF-1003 for another word, HF-1010 if `chain` needs the extra, HF-1011
    if it finds nothing or the configuration is broken.
    """
    if auth not in AUTHS:
        raise DownloadError("bad-option", f"`{auth}`: not one of {', '.join(AUTHS)}")
    if auth == "anonymous":
        return Found(note="it was asked anonymously")
    try:
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - see above
        from botocore.session import Session  # type: ignore[import-untyped]  # noqa: PLC0415 - it has no types; see above
    except ImportError:
        if auth == "chain":
            text = "credentials for S3 need botocore, which is not installed"
            raise DownloadError("missing-extra", text) from None
        return Found(note="no credentials were looked for: the extra `[s3]` is not installed")
    try:
        return _search(Session(), auth)
    except BotoCoreError as error:
        raise DownloadError("no-credentials", f"the AWS configuration: {error}") from None


def _search(session: Any, auth: Auth) -> Found:  # noqa: ANN401 - botocore has no types
    region = str(session.get_config_variable("region") or "")
    if auth == "auto":
        resolver = session.get_component("credential_provider")
        resolver.providers = [one for one in resolver.providers if one.METHOD in _LOCAL]
    credentials = session.get_credentials()
    if credentials is not None:
        return Found(Signer(credentials, region), region)
    if auth == "chain":
        raise DownloadError("no-credentials", "no credentials for S3 are found")
    note = "no credentials are in the environment and in the shared files (others: `chain`)"
    return Found(region=region, note=note)
