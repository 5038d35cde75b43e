"""The reader of S3's pages: what is a page, and that nothing else passes for one."""

from __future__ import annotations

import pickle
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.downloads.listing import (
    MAX_PAGE,
    BadListing,
    Listed,
    Page,
    PageReader,
    S3Error,
    read_error,
)

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
NS = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
ONE = (
    "<Contents><Key>d/a+b%2Bc%20%C3%A9.nc</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
    "<ETag>&quot;abc-2&quot;</ETag><ChecksumAlgorithm>CRC32</ChecksumAlgorithm><Size>42</Size>"
    "<StorageClass>STANDARD</StorageClass><Owner><ID>x</ID></Owner></Contents>"
)
END = "<IsTruncated>false</IsTruncated>"


def page(*parts: str, root: str = "ListBucketResult", head: str = HEAD) -> bytes:
    return f"{head}<{root}{NS}>{''.join(parts)}</{root}>\n".encode()


def read(data: bytes, step: int = 1 << 20) -> Page:
    reader = PageReader()
    for at in range(0, len(data), step):
        reader.feed(memoryview(data)[at : at + step])
    return reader.close()


WHOLE = page(
    "<Name>b</Name><EncodingType>url</EncodingType><KeyCount>1</KeyCount>",
    ONE,
    "<CommonPrefixes><Prefix>d/e%2F</Prefix></CommonPrefixes>",
    "<IsTruncated>true</IsTruncated><NextContinuationToken>a&amp;b==</NextContinuationToken>",
)
EXPECTED = Page(
    (Listed("d/a b+c é.nc", 42, '"abc-2"', "2024-01-01T00:00:00.000Z", "STANDARD"),),
    "a&b==",
    ("d/e/",),
)


@pytest.mark.parametrize("step", [1, 7, 64, 1 << 20])
def test_a_page_is_read_however_it_is_cut_into_pieces(step: int) -> None:
    assert read(WHOLE, step) == EXPECTED


def test_a_page_that_is_cut_anywhere_is_an_error() -> None:
    whole = len(WHOLE.rstrip())
    for end in range(whole):
        with pytest.raises(BadListing) as caught:
            read(WHOLE[:end])
        assert caught.value.cut
    assert read(WHOLE[:whole]) == EXPECTED


def test_other_namespaces_and_none_are_read_alike() -> None:
    text = WHOLE.decode()
    assert read(text.replace(NS, "").encode()) == EXPECTED
    assert read(text.replace("s3.amazonaws.com", "doc.s3.example").encode()) == EXPECTED


def test_without_an_encoding_keys_are_taken_as_they_are() -> None:
    found = read(page("<Contents><Key>a+b%20</Key><Size>0</Size></Contents>", END))
    assert [one.key for one in found.objects] == ["a+b%20"]


def test_an_etag_is_quoted_as_in_a_header() -> None:
    parts = "<Contents><Key>a</Key><Size>0</Size><ETag>{}</ETag></Contents>"
    found = [read(page(parts.format(t), END)).objects[0].etag for t in ("abc", '"abc"', "")]
    assert found == ['"abc"', '"abc"', ""]


@pytest.mark.parametrize(
    ("storage_class", "archived"),
    [("GLACIER", True), ("DEEP_ARCHIVE", True), ("GLACIER_IR", False), ("STANDARD", False)],
)
def test_what_lies_in_an_archive_is_told(storage_class: str, *, archived: bool) -> None:
    assert Listed("k", 1, storage_class=storage_class).is_archived is archived


DTD = '<!DOCTYPE x [<!ENTITY a "aaaa">]>'


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut"),
        (b"   ", "cut"),
        (b"{}", "not XML"),
        (page(END, root="Error"), "begins with `Error`"),
        (b"<html><body>login</body></html>", "begins with `html`"),
        (b"<!DOCTYPE html><html></html>", "document type"),
        (page(END, head=HEAD + DTD), "document type"),
        (page(END, head=HEAD + '<!DOCTYPE x SYSTEM "file:///etc/passwd">'), "document type"),
        (page("<?php x?>", END), "an instruction"),
        (page("<Contents><Key>&a;</Key></Contents>", END), "not XML"),
        (page(ONE), "does not say whether it goes on"),
        (page("<IsTruncated>TRUE</IsTruncated>"), "does not say whether it goes on"),
        (page("<IsTruncated>true</IsTruncated>"), "without a token"),
        (
            page("<IsTruncated>true</IsTruncated><NextContinuationToken/>"),
            "without a token",
        ),
        (page(END, "<NextContinuationToken>a</NextContinuationToken>"), "but with a token"),
        (page(END, END), "says `truncated` twice"),
        (page("<Contents><Key>a</Key><Key>b</Key></Contents>", END), "says `Key` twice"),
        (page("<Contents><Size>1</Size></Contents>", END), "without a key"),
        (page("<Contents><Key>a<b/>c</Key><Size>1</Size></Contents>", END), "without a key"),
        (page("<Contents><Key>a</Key></Contents>", END), "without a size"),
        (page("<Contents><Key>a</Key><Size>-1</Size></Contents>", END), "without a size"),
        (page("<Contents><Key>a</Key><Size>1e3</Size></Contents>", END), "without a size"),
        (page("<EncodingType>rot13</EncodingType>", END), "unknown encoding"),
        (
            page(
                "<EncodingType>url</EncodingType><Contents><Key>%zz</Key><Size>1</Size></Contents>",
                END,
            ),
            "broken escape",
        ),
        (
            page(
                "<EncodingType>url</EncodingType><Contents><Key>%ff</Key><Size>1</Size></Contents>",
                END,
            ),
            "not UTF-8",
        ),
        (page("<a>" * 9, "</a>" * 9, END), "elements deep"),
        (page("<Contents/>" * 10_001, END), "more than 10000 objects"),
        (page(END) + page(END), "not XML"),
    ],
)
def test_what_is_no_page_is_an_error(data: bytes, reason: str) -> None:
    with pytest.raises(BadListing, match=reason):
        read(data)


def test_a_page_that_never_ends_is_given_up_at_its_limit() -> None:
    reader = PageReader()
    reader.feed(HEAD.encode() + b"<ListBucketResult>")
    piece = b" " * (1 << 20)
    with pytest.raises(BadListing, match="longer than a page"):
        for _ in range(MAX_PAGE // len(piece) + 1):
            reader.feed(piece)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(0, len(WHOLE)))
def test_bytes_put_in_anywhere_give_a_page_or_an_error(data: bytes, at: int) -> None:
    try:
        found = read(WHOLE[:at] + data + WHOLE[at:])
    except BadListing:
        return
    assert found.next_token
    assert len(found.objects) <= 1


KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)


@settings(max_examples=300, deadline=None)
@given(key=KEYS, plus=st.booleans())
def test_any_key_comes_through_in_both_forms_of_the_encoding(key: str, *, plus: bool) -> None:
    text = escape(quote_plus(key) if plus else quote(key, safe=""))
    parts = f"<Contents><Key>{text}</Key><Size>1</Size></Contents>"
    assert read(page("<EncodingType>url</EncodingType>", parts, END)).objects[0].key == key


def test_an_error_is_read() -> None:
    data = (
        f"{HEAD}<Error><Code>AuthorizationHeaderMalformed</Code><Message>The region is wrong"
        "</Message><Region>eu-west-1</Region><RequestId>1</RequestId></Error>"
    )
    expected = S3Error("AuthorizationHeaderMalformed", "The region is wrong", "eu-west-1")
    assert read_error(data.encode()) == expected


@pytest.mark.parametrize("data", [b"", b"<html/>", b"<Error><Code>x", b"busy", b"\xff" * 100])
def test_an_answer_that_is_no_error_of_s3_says_nothing(data: bytes) -> None:
    assert read_error(data) == S3Error()


def test_the_error_keeps_what_it_knows_when_pickled() -> None:
    assert pickle.loads(pickle.dumps(BadListing("x", cut=True))).cut
