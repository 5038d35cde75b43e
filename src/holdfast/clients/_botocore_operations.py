"""Which AWS operations may be repeated when nobody knows whether they were executed.

In this order; the first that says something decides:

    the user          names given to `attach(idempotent=...)`
    the HTTP method   GET, HEAD, PUT, DELETE (RFC 9110, 9.2.2)
    a token           an input member with the trait `idempotencyToken`: botocore fills it in
                      once per call, and the service recognises a repetition by it
    the model         the traits `readonly` and `idempotent`, which newer models have
    the name          operations that only read: `Describe...`, `Get...`, `List...`, and the
                      others of _READS; most of AWS answers them to a POST without any trait
    the table below   operations that end alike however often they run

Everything else (SendMessage, UpdateItem, Invoke, RunInstances without a token, ...) is sent
again only if it was certainly not executed: not sent, or refused by throttling. That is
stricter than botocore, which repeats every operation after every broken connection.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from holdfast.core.retry import IDEMPOTENT_METHODS

if TYPE_CHECKING:
    from collections.abc import Container

_READS = re.compile(
    r"(?:BatchDescribe|BatchGet|Describe|Get|List|Search)(?:[A-Z0-9]|$)"
    r"|(?:FilterLogEvents|LookupEvents|Query|Scan|SelectObjectContent|TransactGetItems)$"
)

# Names that read like reading and are not: they send a message, hand out work, or trade in a
# token that is good for one use. (Of the 3,833 POST operations of botocore 1.44 that _READS
# matches and no trait describes, those with words such as Code, Token, Task, Job or Next were
# looked at one by one.)
_NOT_READS: Final = frozenset(
    (
        ("cognito-identity-provider", "GetTokensFromRefreshToken"),
        ("cognito-identity-provider", "GetUserAttributeVerificationCode"),
        ("sfn", "GetActivityTask"),
        ("sts", "GetDelegatedAccessToken"),
    )
)

# By service id. What each does the second time:
#   S3    removes what is gone; completes what is complete, or says NoSuchUpload; begins one
#         more upload, which is never completed (and is cleared by a lifecycle rule)
#   SQS   removes or hides what is removed or hidden; receives as the next turn of the
#         consumer's loop would (what the lost answer held comes back after its visibility time)
#   DynamoDB   puts and deletes the same items, unconditionally
#   KMS, STS   computes the same, or makes another key or session that nobody uses
_ALIKE: Final = {
    "s3": frozenset(("DeleteObjects", "CompleteMultipartUpload", "CreateMultipartUpload")),
    "sqs": frozenset(
        (
            "ReceiveMessage", "DeleteMessage", "DeleteMessageBatch", "ChangeMessageVisibility",
            "ChangeMessageVisibilityBatch",
        )
    ),
    "dynamodb": frozenset(("BatchWriteItem",)),
    "kms": frozenset(
        (
            "Decrypt", "Encrypt", "GenerateDataKey", "GenerateDataKeyPair",
            "GenerateDataKeyPairWithoutPlaintext", "GenerateDataKeyWithoutPlaintext",
            "GenerateMac", "GenerateRandom", "ReEncrypt", "Sign", "Verify", "VerifyMac",
        )
    ),
    "sts": frozenset(("AssumeRole", "AssumeRoleWithSAML", "AssumeRoleWithWebIdentity")),
}  # fmt: skip


def is_safe_to_repeat(operation: Any, named: Container[str] = ()) -> bool:
    """Say whether running `operation` (a botocore OperationModel) twice does no more than once.

    named: names of operations of which the user says so.
    """
    name: str = operation.name
    if name in named or operation.http["method"] in IDEMPOTENT_METHODS:
        return True
    if operation.idempotent_members:
        return True
    traits = getattr(operation, "_operation_model", {})  # no property for these two
    if traits.get("readonly") or traits.get("idempotent"):
        return True
    service: str = operation.service_model.service_id.hyphenize()
    if _READS.match(name):
        return (service, name) not in _NOT_READS
    return name in _ALIKE.get(service, ())
