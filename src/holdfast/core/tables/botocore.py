"""botocore 1.44, with boto3 and s3transfer on it. Codes of the services: see tables.aws."""

from __future__ import annotations

from holdfast.core.tables.row import Row, rows
from holdfast.core.verdict import (
    AUTH,
    CONCURRENCY,
    CONNECT,
    PERMANENT,
    TIMEOUT,
    TRANSIENT,
    UNKNOWN,
    Sent,
)

_IN_BODY = Row(TRANSIENT, Sent.YES)

_BOTOCORE = {
    "ClientError": Row(UNKNOWN, Sent.YES, by="status", provider="aws"),
    "ConnectionError": Row(TRANSIENT, inside=True),
    "EndpointConnectionError": Row(CONNECT, Sent.NO, inside=True, connecting=True),
    "ConnectTimeoutError": Row(CONNECT, Sent.NO),
    "ProxyConnectionError": Row(CONNECT, Sent.NO),
    "SSLError": Row(PERMANENT, inside=True),
    "ReadTimeoutError": Row(TIMEOUT),
    "ConnectionClosedError": Row(TRANSIENT),
    # "Something else happened in urllib3": only what is inside can say.
    "HTTPClientError": Row(UNKNOWN, inside=True),
    **rows(
        _IN_BODY,
        "ResponseStreamingError IncompleteReadError ChecksumError FlexibleChecksumError",
    ),
    # The adaptive mode's own token bucket is empty.
    "CapacityNotAvailableError": Row(CONCURRENCY, Sent.NO, local=True),
    **rows(
        Row(AUTH, Sent.NO),
        "NoCredentialsError PartialCredentialsError CredentialRetrievalError NoAuthTokenError"
        " TokenRetrievalError SSOError LoginError RefreshWithMFAUnsupportedError",
    ),
    **rows(
        Row(PERMANENT, Sent.NO),
        "ParamValidationError ValidationError MissingParametersError UnseekableStreamError"
        " BaseEndpointResolverError EndpointProviderError InvalidConfigError ConfigNotFound"
        " ConfigParseError ProfileNotFound DataNotFoundError InvalidDNSNameError"
        " InvalidHostLabelError OperationNotPageableError PaginationError",
    ),
}

TYPES: dict[str, Row] = {
    **{f"botocore.exceptions.{name}": row for name, row in _BOTOCORE.items()},
    # Both give up after their own repeats of a broken body.
    "s3transfer.exceptions.RetriesExceededError": _IN_BODY,
    "boto3.exceptions.RetriesExceededError": _IN_BODY,
    "boto3.exceptions.S3UploadFailedError": Row(UNKNOWN, inside=True),
    "boto3.exceptions.S3TransferFailedError": Row(UNKNOWN, inside=True),
}
