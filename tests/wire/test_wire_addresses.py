"""Which addresses may be asked: what each of them is for, in whatever form it is written."""

from __future__ import annotations

import pickle
import socket
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.classify import classify
from holdfast.core.verdict import Kind, Sent
from holdfast.wire.addresses import (
    METADATA,
    TABLE,
    AddressDenied,
    AddressKind,
    Reach,
    check_host,
    kind_of,
    kind_of_host,
    literal,
    permitted,
)
from holdfast.wire.urls import BadUrl, parse

PUBLIC, LOOPBACK = AddressKind.PUBLIC, AddressKind.LOOPBACK


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("8.8.8.8", "public"),
        ("11.0.0.1", "public"),
        ("172.15.255.255", "public"),
        ("172.16.0.0", "private"),
        ("172.31.255.255", "private"),
        ("172.32.0.0", "public"),
        ("10.1.2.3", "private"),
        ("192.168.0.1", "private"),
        ("100.63.255.255", "public"),
        ("100.64.0.1", "carrier-grade NAT"),
        ("100.128.0.0", "public"),
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("169.254.1.1", "link-local"),
        ("169.254.169.254", "metadata service"),
        ("169.254.170.2", "metadata service"),
        ("100.100.100.200", "metadata service"),
        ("168.63.129.16", "metadata service"),
        ("192.0.0.1", "reserved"),
        ("192.0.2.1", "documentation"),
        ("198.18.0.1", "benchmarking"),
        ("224.0.0.1", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "broadcast"),
        ("2606:4700::1111", "public"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("::1%lo", "loopback"),
        ("fc00::1", "unique local"),
        ("fdff::1", "unique local"),
        ("fec0::1", "private"),
        ("ff02::1", "multicast"),
        ("2001:db8::1", "documentation"),
        ("3fff::1", "documentation"),
        ("2001:10::1", "reserved"),
        ("2001:2::1", "benchmarking"),
        ("4000::1", "reserved"),
        ("100::1", "reserved"),
        ("fd00:ec2::254", "metadata service"),
        ("fd20:ce::254", "metadata service"),
        ("fd00:ec2::254%eth0", "metadata service"),
    ],
)
def test_each_address_has_its_kind(address: str, kind: str) -> None:
    assert kind_of(address) == kind
    assert kind_of(ip_address(address)) == kind


@pytest.mark.parametrize(
    "form",
    [
        "::ffff:{0}",  # mapped
        "::{0}",  # compatible
        "::ffff:0:{0}",  # translated
        "64:ff9b::{0}",  # NAT64
        "64:ff9b:1::{0}",
        "2002:{1}::1",  # 6to4
        "2001:0:{1}::1",  # the server of Teredo
        "2001:0:808:808::{2}",  # its client
        "2606:4700::5efe:{0}",  # ISATAP
        "2606:4700::200:5efe:{0}",
    ],
)
@pytest.mark.parametrize(
    ("inside", "kind"),
    [("127.0.0.1", "loopback"), ("10.0.0.1", "private"), ("169.254.169.254", "metadata service")],
)
def test_what_an_address_carries_is_judged_too(form: str, inside: str, kind: str) -> None:
    number = int(ip_address(inside))
    halves = f"{number >> 16:x}:{number & 0xFFFF:x}"
    reverse = f"{~number >> 16 & 0xFFFF:x}:{~number & 0xFFFF:x}"
    found = kind_of(form.format(inside, halves, reverse))
    if form in {"::{0}", "::ffff:0:{0}"} and kind != "metadata service":
        assert found == "reserved"  # by itself: not in use any more
    elif form == "64:ff9b:1::{0}" and kind != "metadata service":
        assert found == "private"
    else:
        assert found == kind


def test_a_public_address_in_another_one_is_public() -> None:
    for form in ("::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"):
        assert kind_of(form) is PUBLIC


@given(st.ip_addresses())
def test_never_more_generous_than_the_standard_library(address) -> None:
    """It knows the registries of IANA. It has other views of addresses that carry others."""
    if kind_of(address) is PUBLIC and not str(address).startswith(("2001:", "2002:", "64:ff9b:")):
        assert address.is_global or (address.version == 6 and address.ipv4_mapped is not None)


def test_every_row_names_its_source() -> None:
    assert all(row.source.startswith("RFC ") for row in TABLE)
    assert all(kind_of(address) is AddressKind.METADATA for address in METADATA)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: str(row.network))
def test_the_ends_of_each_range_are_in_it(row) -> None:
    """A row that stands behind a wider one would never be reached."""
    ends = (row.network.network_address, row.network.broadcast_address)
    inside = {row.kind, AddressKind.METADATA}
    if row.network.prefixlen not in {0, 3, 4}:  # within these lie narrower ones
        assert all(kind_of(end) in inside or _embeds(end) for end in ends)


def _embeds(address) -> bool:
    return address.version == 6 and kind_of(address) is not PUBLIC


# -- hosts as they are written -------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7F.1",
        "0x7f.0x0.0x0.0x1",
        "017700000001",
        "0177.0.0.01",
        "00000177.1",
    ],
)
def test_all_forms_of_an_address_are_one(host: str) -> None:
    assert str(literal(host)) == "127.0.0.1"
    assert kind_of_host(host) is LOOPBACK
    assert socket.inet_aton(host.removesuffix(".")) == b"\x7f\0\0\1"  # as resolvers read it


@given(st.text("0123456789abcdefxX.", min_size=1, max_size=16))
def test_numbers_are_read_as_the_resolver_reads_them(host: str) -> None:
    try:
        told = socket.inet_aton(host)
    except OSError:
        return
    found = literal(host)
    assert found is not None
    assert found.packed == told


@pytest.mark.parametrize(
    "host", ["example.org", "1.2.3.4.5", "256.1.1.1", "1.2.3.256", "4294967296", "089.1", "a:b", ""]
)
def test_what_is_no_address_is_a_name(host: str) -> None:
    assert literal(host) is None
    assert kind_of_host(host) is None


@pytest.mark.parametrize(
    "text",
    [
        "http://\uff11\uff12\uff17.0.0.1/",  # full-width digits
        "http://127\u30020\u30020\u30021/",  # ideographic full stops
        "http://\u2460\u2461\u2466.1/",  # circled digits
        "http://0X7F.1/",
        "http://user@127.0.0.1:80/",
        "http://127.0.0.1./",
    ],
)
def test_no_way_of_writing_hides_an_address(text: str) -> None:
    """Names are normalised (IDNA) before they are looked up, and so before they are judged."""
    assert kind_of_host(parse(text).host) is LOOPBACK


@pytest.mark.parametrize("text", ["http://%31%32%37.0.0.1/", "http://127.0.0.1%00/", "http://a b/"])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(BadUrl):
        parse(text)


def test_ipv6_is_read_with_brackets_and_zone() -> None:
    assert str(literal("[::1]")) == "::1"
    assert str(literal("fe80::1%eth0")) == "fe80::1"


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("localhost", LOOPBACK),
        ("LOCALHOST.", LOOPBACK),
        ("a.localhost", LOOPBACK),
        ("metadata.google.internal", AddressKind.METADATA),
        ("localhost.example", None),
    ],
)
def test_names_with_one_meaning_have_a_kind(host: str, kind: AddressKind | None) -> None:
    assert kind_of_host(host) is kind


# -- reach ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reach", Reach)
@pytest.mark.parametrize("kind", AddressKind)
def test_who_may_go_where(reach: Reach, kind: AddressKind) -> None:
    if kind is AddressKind.METADATA:
        assert not reach.allows(kind)
    else:
        assert reach.allows(kind) == (kind is PUBLIC or reach in {Reach.TYPED, Reach.ANY})


@pytest.mark.parametrize(
    ("reach", "peer", "then"),
    [
        (Reach.TYPED, "127.0.0.1", Reach.TYPED),
        (Reach.TYPED, "10.0.0.1", Reach.TYPED),
        (Reach.TYPED, "8.8.8.8", Reach.PUBLIC),
        (Reach.TYPED, "", Reach.PUBLIC),
        (Reach.PUBLIC, "127.0.0.1", Reach.PUBLIC),
        (Reach.ANY, "8.8.8.8", Reach.ANY),
    ],
)
def test_a_redirect_reaches_no_further_than_who_sent_it(reach, peer, then) -> None:
    assert reach.after(peer) is then


def info(address: str):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return (family, socket.SOCK_STREAM, 6, "", (address, 80))


def addresses(found) -> list[str]:
    return [one[4][0] for one in found]


def test_families_take_turns_in_the_order_of_the_resolver() -> None:
    found = [info(a) for a in ("2606::1", "2606::2", "2606::3", "8.8.8.8", "9.9.9.9")]
    turns = ["2606::1", "8.8.8.8", "2606::2", "9.9.9.9", "2606::3"]
    assert addresses(permitted(found, "x", Reach.PUBLIC)) == turns
    assert addresses(permitted(reversed(found), "x", Reach.PUBLIC))[0] == "9.9.9.9"


def test_every_address_of_a_name_is_judged() -> None:
    found = [info(a) for a in ("127.0.0.1", "8.8.8.8", "::1", "169.254.169.254")]
    assert addresses(permitted(found, "x", Reach.PUBLIC)) == ["8.8.8.8"]
    assert addresses(permitted(found, "x", Reach.TYPED)) == ["127.0.0.1", "::1", "8.8.8.8"]


def test_a_name_with_nothing_but_denied_addresses_is_refused_for_good() -> None:
    with pytest.raises(AddressDenied) as caught:
        permitted([info("10.0.0.1"), info("127.0.0.1")], "intranet.example", Reach.PUBLIC)
    error = caught.value
    assert (error.host, error.kind) == ("intranet.example", AddressKind.PRIVATE)
    assert "intranet.example" in str(error)
    assert "private" in str(error)
    verdict = classify(error)
    assert (verdict.kind, verdict.sent) == (Kind.PERMANENT, Sent.NO)
    again = pickle.loads(pickle.dumps(error))
    assert (again.host, again.kind, str(again)) == (error.host, error.kind, str(error))


def test_a_name_without_addresses_is_not_denied() -> None:
    assert permitted([], "x", Reach.PUBLIC) == []


def test_what_a_proxy_looks_up_is_judged_by_its_text() -> None:
    check_host("example.org", Reach.PUBLIC)
    check_host("127.0.0.1", Reach.TYPED)
    for host in ("127.1", "localhost", "[::1]", "10.0.0.1"):
        with pytest.raises(AddressDenied):
            check_host(host, Reach.PUBLIC)
    with pytest.raises(AddressDenied):
        check_host("metadata.google.internal", Reach.ANY)


# -- the page ------------------------------------------------------------------------------------


def test_the_page_has_every_range_and_every_metadata_service() -> None:
    page = (Path(__file__).parents[2] / "docs" / "addresses.md").read_text(encoding="utf-8")
    rows = [f"| `{row.network}` | {row.kind} | {row.source} |" for row in TABLE]
    assert "\n".join(rows) in page
    listed = page.partition("Metadata services: ")[2].partition("\n\n")[0]
    assert {ip_address(text.strip(" .\n")) for text in listed.split(",")} == METADATA
