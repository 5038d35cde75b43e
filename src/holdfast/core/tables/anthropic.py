"""Error types of the Anthropic API, and the exceptions of its SDK.

An error may also come as an event inside a stream that began with 200; then its type
alone decides (`weak`).
"""

from __future__ import annotations

from holdfast.core.tables.row import Provider, Row, rows
from holdfast.core.verdict import (
    AUTH,
    PERMANENT,
    THROTTLED,
    TIMEOUT,
    TRANSIENT,
    UNKNOWN,
    Sent,
)

PROVIDER = Provider(
    name="anthropic",
    codes={
        "rate_limit_error": Row(THROTTLED, Sent.YES, not_executed=True),
        "overloaded_error": Row(THROTTLED, Sent.YES),
        "api_error": Row(TRANSIENT, Sent.YES),
        # A 429 of type rate_limit_error, too, but until the month or the contract ends.
        **rows(
            Row(PERMANENT, Sent.YES, not_executed=True),
            "enforced_spend_limit_reached contract_spend_limit_reached",
        ),
    },
    weak={
        "timeout_error": Row(TRANSIENT, Sent.YES),
        "authentication_error": Row(AUTH, Sent.YES, max_retries=1),
        **rows(
            Row(PERMANENT, Sent.YES),
            "invalid_request_error billing_error permission_error not_found_error"
            " request_too_large conflict_error",
        ),
    },
    paths=(
        ("error_code",),
        ("body", "error", "details", "error_code"),
        ("body", "error", "type"),
        ("error", "details", "error_code"),
        ("error", "type"),
    ),
)

TYPES: dict[str, Row] = {
    "anthropic.APIStatusError": Row(UNKNOWN, Sent.YES, by="status", provider="anthropic"),
    "anthropic.APIConnectionError": Row(TRANSIENT, inside=True),
    "anthropic.APITimeoutError": Row(TIMEOUT, inside=True),
    "anthropic.lib.credentials._workload.WorkloadIdentityError": Row(AUTH, Sent.NO),
    "anthropic.APIResponseValidationError": Row(PERMANENT, Sent.YES),
}
