"""Error codes of the AWS services.

Source: botocore's standard and legacy retry tables; S3's and STS' error lists for the
codes of AUTH and for the two conflicts. All other codes go by their HTTP status.
"""

from __future__ import annotations

from holdfast.core.tables.row import Provider, Row, rows
from holdfast.core.verdict import AUTH, CONCURRENCY, THROTTLED, TRANSIENT, Sent

PROVIDER = Provider(
    name="aws",
    codes={
        **rows(
            Row(THROTTLED, Sent.YES),
            "Throttling ThrottlingException ThrottledException RequestThrottled"
            " RequestThrottledException TooManyRequestsException"
            " ProvisionedThroughputExceededException TransactionInProgressException"
            " RequestLimitExceeded BandwidthLimitExceeded LimitExceededException SlowDown"
            " PriorRequestNotComplete EC2ThrottledException",
        ),
        **rows(
            Row(TRANSIENT, Sent.YES),
            "RequestTimeout RequestTimeoutException InternalError IDPCommunicationError BadDigest",
        ),
        **rows(
            Row(CONCURRENCY, Sent.YES),
            "ReplicatedWriteConflictException OperationAborted ConditionalRequestConflict",
        ),
        # Once more, signed afresh: with new credentials, or by a corrected clock.
        **rows(
            Row(AUTH, Sent.YES, max_retries=1),
            "ExpiredToken ExpiredTokenException RequestTimeTooSkewed SignatureDoesNotMatch",
        ),
    },
    paths=(("response", "Error", "Code"), ("Error", "Code"), ("code",)),
)
