"""A secret as a value: shown nowhere, equal in constant time, never pickled."""

from __future__ import annotations

import base64
import copy
import dataclasses
import gc
import json
import pickle
from urllib.parse import quote

import pytest

import holdfast as hf

Secret, redact = hf.telemetry.Secret, hf.telemetry.redact
WORD = "opäque+words/of no shape"


@dataclasses.dataclass(frozen=True)
class Config:
    user: str
    key: Secret


def test_no_form_of_it_shows_the_text():
    secret = Secret(WORD)
    shown = [
        str(secret), repr(secret), f"{secret}", f"{secret!r:>40}", f"{secret:>40}", f"{secret:.3}",
        "".join(map(str, [secret])), repr([secret]), repr(Config("u", secret)), repr({secret: 1}),
    ]  # fmt: skip
    assert all("op" not in text and "***" in text for text in shown)
    assert not hasattr(secret, "__dict__")
    with pytest.raises(TypeError):
        json.dumps({"key": secret})
    assert secret.reveal() == WORD


def test_equal_secrets_are_equal_and_strings_are_not():
    assert Secret("abc") == Secret("abc")
    assert Secret("abc") != Secret("abd")
    assert Secret("abc") != "abc"
    assert len({Secret("abc"), Secret("abc"), Secret("x")}) == 2
    assert Secret("\ud800") == Secret("\ud800")
    assert Secret("a")
    assert not Secret("")


def test_it_is_not_pickled_and_copies_are_itself():
    secret = Secret(WORD)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="not pickled") as caught:
            pickle.dumps(secret, protocol)
        assert WORD not in str(caught.value)
    assert copy.copy(secret) is copy.deepcopy([secret])[0] is secret
    assert dataclasses.asdict(Config("u", secret))["key"] is secret


@pytest.mark.parametrize("wrong", [None, 5, b"bytes"])
def test_only_text_is_a_secret(wrong):
    with pytest.raises(TypeError, match="takes a str"):
        Secret(wrong)


def test_while_it_lives_its_text_is_masked_in_every_form():
    secret = Secret(WORD)
    raw = WORD.encode()
    forms = [WORD, quote(WORD), quote(WORD, safe="")]
    for form in forms:
        assert redact.text(f"no such key <{form}>") == "no such key <***>"
    for before in (b"", b"u", b"us", b"user:"):
        for code in (base64.b64encode, base64.urlsafe_b64encode):
            shown = redact.text(code(before + raw + b"tail").decode())
            middle = code(b"\0" * (len(before) % 3) + raw).decode()[4:-4]
            assert middle not in shown
    assert redact.data(["x", WORD, secret]) == ["x", "***", "***"]
    del secret
    gc.collect()
    assert redact.text(WORD) == WORD


def test_a_secret_that_holds_another_leaves_no_tail():
    kept = [Secret("abcdefgh"), Secret("abcdefgh-and-more")]
    assert redact.text("x abcdefgh-and-more y abcdefgh z") == "x *** y *** z"
    assert kept


def test_short_secrets_and_masks_are_not_looked_for():
    kept = [Secret("cat"), Secret("********")]
    assert redact.text("a cat, ************") == "a cat, ************"
    assert kept


def test_living_secrets_keep_redaction_idempotent():
    kept = [Secret("abcdefgh"), Secret("defghabc"), Secret("habcdefg")]
    noise = "abcdefghabcdefghabc" * 3
    once = redact.text(noise)
    assert redact.text(once) == once
    assert kept
