"""botocore: which operations may be repeated when it is not known whether they ran."""

from __future__ import annotations

import botocore.session
import pytest

from holdfast.clients._botocore_operations import _ALIKE, _NOT_READS, is_safe_to_repeat

SESSION = botocore.session.get_session()


def operation(service, name):
    return SESSION.get_service_model(service).operation_model(name)


@pytest.mark.parametrize(
    ("service", "name"),
    [
        ("s3", "GetObject"), ("s3", "PutObject"), ("s3", "DeleteObject"), ("s3", "HeadObject"),
        ("s3", "CopyObject"), ("s3", "UploadPart"), ("s3", "DeleteObjects"),
        ("s3", "CompleteMultipartUpload"), ("s3", "CreateMultipartUpload"),
        ("dynamodb", "GetItem"), ("dynamodb", "Query"), ("dynamodb", "TransactWriteItems"),
        ("dynamodb", "BatchWriteItem"), ("sqs", "ReceiveMessage"), ("sqs", "DeleteMessage"),
        ("ec2", "DescribeInstances"), ("ec2", "RunInstances"), ("kms", "Decrypt"),
        ("sts", "AssumeRole"), ("sts", "GetCallerIdentity"), ("kinesis", "GetRecords"),
        ("logs", "FilterLogEvents"), ("lambda", "GetFunction"), ("athena", "GetQueryResults"),
    ],
)  # fmt: skip
def test_what_ends_alike_however_often_it_runs_may_be_repeated(service, name):
    assert is_safe_to_repeat(operation(service, name))


@pytest.mark.parametrize(
    ("service", "name"),
    [
        ("sqs", "SendMessage"), ("sns", "Publish"), ("dynamodb", "UpdateItem"),
        ("dynamodb", "PutItem"), ("lambda", "Invoke"), ("kinesis", "PutRecord"),
        ("stepfunctions", "GetActivityTask"),
        pytest.param("cognito-idp", "GetTokensFromRefreshToken", marks=pytest.mark.newest),
        ("cognito-idp", "GetUserAttributeVerificationCode"), ("ec2", "TerminateInstances"),
        ("bedrock-runtime", "InvokeModel"), ("dynamodb", "ExecuteStatement"),
        ("ses", "SendEmail"), ("ec2", "StopInstances"),
    ],
)  # fmt: skip
def test_what_does_more_the_second_time_is_not_repeated(service, name):
    assert not is_safe_to_repeat(operation(service, name))


def test_the_user_is_asked_first():
    assert is_safe_to_repeat(operation("sqs", "SendMessage"), {"SendMessage"})


@pytest.mark.newest
def test_the_tables_name_operations_that_exist():
    by_id = {}
    for service in SESSION.get_available_services():
        loaded = SESSION.get_component("data_loader").load_service_model(service, "service-2")
        name = loaded["metadata"]["serviceId"].replace(" ", "-").lower()
        by_id.setdefault(name, set()).update(loaded["operations"])
    named = {*_NOT_READS, *((service, name) for service in _ALIKE for name in _ALIKE[service])}
    assert {(service, name) for service, name in named if name not in by_id[service]} == set()
