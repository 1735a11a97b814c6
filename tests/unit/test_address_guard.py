"""The address guard: every row of its tables, the order of its rules, and no address that slips through."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.address_guard import VERDICTS_CACHED_MAX, AddressGuard

PUBLIC = ["1.1.1.1", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"]
PRIVATE = {
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "10.0.0.1": "private",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.168.1.1": "private",
    "100.64.0.1": "carrier-grade",
    "::1": "loopback",
    "fc00::1": "unique local",
    "fd12:3456::1": "unique local",
}
SPECIAL = {
    "0.0.0.0": "unspecified",
    "0.1.2.3": "unspecified",
    "169.254.169.254": "link-local",
    "168.63.129.16": "platform",
    "100.100.100.200": "metadata",
    "192.0.0.192": "protocol assignments",
    "192.0.2.1": "documentation",
    "192.88.99.1": "6to4 relay",
    "198.18.0.1": "benchmark",
    "198.19.255.255": "benchmark",
    "198.51.100.1": "documentation",
    "203.0.113.1": "documentation",
    "224.0.0.1": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "::": "unspecified",
    "::2": "reserved",
    "::7f00:1": "reserved",  # IPv4-compatible, long deprecated
    "fe80::1": "link-local",
    "fec0::1": "site-local",
    "ff02::1": "multicast",
    "fd00:ec2::254": "metadata",
    "fd20:ce::254": "metadata",
    "64:ff9b:1::1": "reserved",
    "100::1": "reserved",
    "2001:2::1": "benchmark",
    "2001:20::1": "reserved",
    "2001:db8::1": "documentation",
    "3fff::1": "documentation",
    "5f00::1": "reserved",
}


def embeddings(inner: str) -> list[str]:
    """IPv6 forms that reach an IPv4 address."""
    bits = int(ipaddress.IPv4Address(inner))
    forms = [
        0xFFFF << 32 | bits,  # mapped
        0xFFFF << 48 | bits,  # translated
        0x64FF9B << 96 | bits,  # NAT64
        0x2002 << 112 | bits << 80 | 1,  # 6to4
        0x2001 << 112 | bits << 64 | 0xFEFEFEFE,  # Teredo: this server, a public client
        0x2001 << 112 | 0x01010101 << 64 | bits ^ 0xFFFFFFFF,  # Teredo: this client
    ]
    return [str(ipaddress.IPv6Address(form)) for form in forms]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    assert AddressGuard().refusal(address) is None


@pytest.mark.parametrize(("address", "kind"), [*PRIVATE.items(), *SPECIAL.items()])
def test_everything_else_is_refused_with_its_kind(address: str, kind: str) -> None:
    refusal = AddressGuard().refusal(address)
    assert refusal is not None
    assert kind in refusal
    assert refusal.startswith(f"{address} is ")
    assert refusal.endswith(".")


def test_allow_private_opens_private_networks_only() -> None:
    guard = AddressGuard(allow_private=True)
    assert [address for address in PRIVATE if guard.refusal(address)] == []
    assert [address for address in SPECIAL if not guard.refusal(address)] == []


@pytest.mark.parametrize("inner", [*(a for a in PRIVATE if "." in a), *(a for a in SPECIAL if "." in a)])
def test_a_refused_address_inside_another_is_refused(inner: str) -> None:
    guard = AddressGuard()
    assert [form for form in embeddings(inner) if guard.refusal(form) is None] == []


def test_a_public_address_inside_another_is_allowed() -> None:
    guard = AddressGuard()
    assert [guard.refusal(form) for form in embeddings("1.2.3.4")] == [None] * 6


def test_allow_wins_over_what_is_refused_by_default() -> None:
    guard = AddressGuard(allow=["10.1.0.0/16", "fd00:1::/32", "169.254.0.0/16", "2002::/16"])
    for address in ("10.1.2.3", "fd00:1::5", "169.254.1.1", "::ffff:10.1.2.3", "64:ff9b::a01:203"):
        assert guard.refusal(address) is None
    assert guard.refusal("2002:a00:1::1") is None, "the outer form itself is allowed"
    assert guard.refusal("10.2.0.1") is not None
    assert guard.refusal("64:ff9b::a02:1") is not None


def test_deny_wins_over_everything() -> None:
    guard = AddressGuard(allow_private=True, allow=["10.0.0.0/8", "1.0.0.0/8"], deny=["10.0.0.0/24", "1.1.1.1/32"])
    for address in ("10.0.0.7", "1.1.1.1", *embeddings("1.1.1.1")):
        refusal = guard.refusal(address)
        assert refusal is not None
        assert "denied" in refusal
    assert guard.refusal("10.0.1.1") is None
    assert guard.refusal("1.1.1.2") is None


@pytest.mark.parametrize("address", ["fe80::1%eth0", "2606:4700::1%1"])
def test_a_scoped_address_is_refused_even_if_allowed(address: str) -> None:
    assert "interface" in (AddressGuard(allow=["::/0"]).refusal(address) or "")


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "0x7f000001", "1.2.3.4.5", "::g", "1.2.3.4/8"])
def test_what_is_not_an_address_is_refused(text: str) -> None:
    assert "not an IP address" in (AddressGuard(allow=["0.0.0.0/0", "::/0"]).refusal(text) or "")


@pytest.mark.parametrize("cidr", ["10.0.0.1/8", "x", "10.0.0.0/33", ""])
def test_a_bad_network_is_a_sentence(cidr: str) -> None:
    with pytest.raises(ValueError, match=r"is not a network: .*\.$"):
        AddressGuard(allow=[cidr])
    with pytest.raises(ValueError, match=r"is not a network: .*\.$"):
        AddressGuard(deny=[cidr])


def test_a_cached_verdict_is_the_same_and_the_cache_is_bounded() -> None:
    guard = AddressGuard()
    first = guard.refusal("10.0.0.1")
    for number in range(VERDICTS_CACHED_MAX + 10):
        guard.refusal(str(ipaddress.IPv4Address(number)))
    assert guard.refusal("10.0.0.1") == first
    assert guard.verdicts_cached <= VERDICTS_CACHED_MAX


@given(st.ip_addresses())
def test_what_is_allowed_is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """The standard library's own table is the oracle."""
    if AddressGuard().refusal(str(address)) is None:
        assert address.is_global
        assert not address.is_multicast


@given(st.ip_addresses(v=4))
def test_an_embedded_address_is_judged_like_itself(address: ipaddress.IPv4Address) -> None:
    guard = AddressGuard()
    refused = guard.refusal(str(address)) is not None
    assert [guard.refusal(form) is not None for form in embeddings(str(address))] == [refused] * 6
