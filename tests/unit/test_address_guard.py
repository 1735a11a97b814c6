"""The address guard: every row of its tables, the order of its rules, and no address that slips through."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.address_guard import METADATA_NAMES, VERDICTS_CACHED_MAX, AddressGuard
from connectors.http_target import parse_target
from connectors.own_listeners import OwnListeners, find_listeners, is_ours, place, place_of_url
from streams.settings import DENY_PORTS
from tests.docs import ROOT, tables
from tests.guard_cases import CASES, Case

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
    "fd00:c1::a9fe:a9fe": "metadata",
    "fd00:42::42": "metadata",
    "fd20:ce::254": "metadata",
    "64:ff9b:1::1": "reserved",
    "100::1": "reserved",
    "2001:2::1": "benchmark",
    "2001:20::1": "reserved",
    "2001:db8::1": "documentation",
    "3fff::1": "documentation",
    "5f00::1": "reserved",
}


def refused(guard: AddressGuard, address: str) -> str | None:
    """As over HTTPS, at its port."""
    return guard.refusal(address, 443, tls=True)


def verdict(guard: AddressGuard, url: str) -> str | None:
    """Why a URL with an address, or with a name that need not be resolved for it, is refused."""
    try:
        return guard.target_refusal(parse_target(url))
    except ValueError as error:
        return str(error)


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
        0x26064700 << 96 | 0x5EFE << 32 | bits,  # ISATAP
        0x26064700 << 96 | 0x02005EFE << 32 | bits,  # ISATAP, an identifier that is universal
    ]
    return [str(ipaddress.IPv6Address(form)) for form in forms]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    assert refused(AddressGuard(), address) is None


@pytest.mark.parametrize(("address", "kind"), [*PRIVATE.items(), *SPECIAL.items()])
def test_everything_else_is_refused_with_its_kind(address: str, kind: str) -> None:
    sentence = refused(AddressGuard(), address)
    assert sentence is not None
    assert kind in sentence
    assert sentence.startswith(f"{address} is ")
    assert sentence.endswith(".")


def test_allow_private_opens_private_networks_only() -> None:
    guard = AddressGuard(allow_private=True)
    assert [address for address in PRIVATE if refused(guard, address)] == []
    assert [address for address in SPECIAL if not refused(guard, address)] == []


@pytest.mark.parametrize("inner", [*(a for a in PRIVATE if "." in a), *(a for a in SPECIAL if "." in a)])
def test_a_refused_address_inside_another_is_refused(inner: str) -> None:
    guard = AddressGuard()
    assert [form for form in embeddings(inner) if refused(guard, form) is None] == []


def test_a_public_address_inside_another_is_allowed() -> None:
    guard = AddressGuard()
    assert [refused(guard, form) for form in embeddings("1.2.3.4")] == [None] * 8


def test_allow_wins_over_what_is_refused_by_default() -> None:
    guard = AddressGuard(allow=["10.1.0.0/16", "fd00:1::/32", "169.254.0.0/16", "2002::/16"])
    for address in ("10.1.2.3", "fd00:1::5", "169.254.1.1", "::ffff:10.1.2.3", "64:ff9b::a01:203"):
        assert refused(guard, address) is None
    assert refused(guard, "2002:a00:1::1") is None, "the outer form itself is allowed"
    assert refused(guard, "10.2.0.1") is not None
    assert refused(guard, "64:ff9b::a02:1") is not None


def test_deny_wins_over_everything() -> None:
    guard = AddressGuard(allow_private=True, allow=["10.0.0.0/8", "1.0.0.0/8"], deny=["10.0.0.0/24", "1.1.1.1/32"])
    for address in ("10.0.0.7", "1.1.1.1", *embeddings("1.1.1.1")):
        sentence = refused(guard, address)
        assert sentence is not None
        assert "denied" in sentence
    assert refused(guard, "10.0.1.1") is None
    assert refused(guard, "1.1.1.2") is None


@pytest.mark.parametrize("address", ["fe80::1%eth0", "2606:4700::1%1"])
def test_a_scoped_address_is_refused_even_if_allowed(address: str) -> None:
    assert "interface" in (refused(AddressGuard(allow=["::/0"]), address) or "")


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "0x7f000001", "1.2.3.4.5", "::g", "1.2.3.4/8"])
def test_what_is_not_an_address_is_refused(text: str) -> None:
    assert "not an IP address" in (refused(AddressGuard(allow=["0.0.0.0/0", "::/0"]), text) or "")


@pytest.mark.parametrize("cidr", ["10.0.0.1/8", "x", "10.0.0.0/33", ""])
def test_a_bad_network_is_a_sentence(cidr: str) -> None:
    with pytest.raises(ValueError, match=r"is not a network: .*\.$"):
        AddressGuard(allow=[cidr])
    with pytest.raises(ValueError, match=r"is not a network: .*\.$"):
        AddressGuard(deny=[cidr])


def test_a_cached_verdict_is_the_same_and_the_cache_is_bounded() -> None:
    guard = AddressGuard()
    first = refused(guard, "10.0.0.1")
    for number in range(VERDICTS_CACHED_MAX + 10):
        refused(guard, str(ipaddress.IPv4Address(number)))
    assert refused(guard, "10.0.0.1") == first
    assert guard.verdicts_cached <= VERDICTS_CACHED_MAX


@given(st.ip_addresses())
def test_what_is_allowed_is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """The standard library's own table is the oracle."""
    if refused(AddressGuard(), str(address)) is None:
        assert address.is_global
        assert not address.is_multicast


@given(st.ip_addresses(v=4))
def test_an_embedded_address_is_judged_like_itself(address: ipaddress.IPv4Address) -> None:
    guard = AddressGuard()
    alone = refused(guard, str(address)) is not None
    assert [refused(guard, form) is not None for form in embeddings(str(address))] == [alone] * 8


# --- the table of the documentation ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_every_case_is_refused_by_default_in_its_words(case: Case) -> None:
    guard = AddressGuard(deny_ports=DENY_PORTS)
    assert [url for url in case.urls if case.words not in (verdict(guard, url) or "")] == []


def test_the_table_of_the_documentation_is_this_one() -> None:
    shown = (ROOT / "docs/reference/address-guard.md").read_text()
    rows = [
        f"| {case.what} | {', '.join(f'`{ascii_url(url)}`' for url in case.urls)} | {case.words} |" for case in CASES
    ]
    assert [row for row in rows if row not in shown] == []
    assert len(tables(shown, "What is refused by default")) == len(rows), "a row that is no case"


def ascii_url(url: str) -> str:
    """A URL as it can be shown: what is no printable ASCII is escaped."""
    return url.encode("unicode_escape").decode().replace("\\\\", "\\")


def test_every_name_of_a_metadata_service_is_in_the_table() -> None:
    shown = {parse_target(url).host for case in CASES for url in case.urls if "metadata service" in case.words}
    assert shown >= METADATA_NAMES


# --- plain HTTP, ports, own listeners ---------------------------------------------------------------------------


def test_plain_http_is_for_what_is_not_public_and_opened() -> None:
    url = "http://10.0.0.1/"
    assert "a private address" in (verdict(AddressGuard(allow_http=True), url) or "")
    assert verdict(AddressGuard(allow_private=True), url) is None
    assert verdict(AddressGuard(allow=["10.0.0.0/8"]), url) is None
    assert verdict(AddressGuard(allow_http=True), "http://1.1.1.1/") is None
    for opened in (AddressGuard(allow_private=True), AddressGuard(allow=["1.1.1.1/32", "::/0"])):
        for public in ("http://1.1.1.1/", "http://[::ffff:1.1.1.1]/", "http://[64:ff9b::1.1.1.1]/"):
            assert "without encryption" in (verdict(opened, public) or "")


def test_ports_are_denied_wherever_they_are() -> None:
    guard = AddressGuard(allow_private=True, allow=["10.0.0.0/8"], deny_ports=["25", "6000-6010"])
    for url in ("https://10.0.0.1:25/", "https://hooks.example:6005/", "https://[::1]:6010/"):
        assert "is not for webhooks" in (verdict(guard, url) or "")
    for url in ("https://10.0.0.1:26/", "https://hooks.example:6011/", "https://10.0.0.1/"):
        assert verdict(guard, url) is None
    assert AddressGuard().refusal("1.1.1.1", 25, tls=True) is None


@pytest.mark.parametrize("text", ["", "0", "x", "1-", "-5", "9-2", "70000", "1-70000", "٣"])
def test_a_bad_range_of_ports_is_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"range of ports; .*\.$"):
        AddressGuard(deny_ports=[text])


def test_through_a_proxy_a_name_is_judged_as_far_as_it_goes() -> None:
    def refusal(guard: AddressGuard, url: str) -> str | None:
        return guard.target_refusal(parse_target(url), proxied=True)

    assert refusal(AddressGuard(), "https://hooks.example/") is None
    assert "without encryption" in (refusal(AddressGuard(), "http://hooks.example/") or "")
    assert refusal(AddressGuard(allow_http=True), "http://hooks.example/") is None
    assert refusal(AddressGuard(allow_private=True), "http://hooks.example/") is None
    assert "metadata" in (refusal(AddressGuard(allow_private=True), "http://metadata.google.internal/") or "")
    assert "loopback" in (refusal(AddressGuard(), "https://127.0.0.1/") or "")
    assert AddressGuard().target_refusal(parse_target("http://hooks.example/")) is None, "its address may be private"


def test_what_this_system_listens_on_is_no_endpoint_though_its_network_is_allowed() -> None:
    own = OwnListeners([("127.0.0.1", 9092), ("10.0.0.5", 8081), ("*", 8080)], ours=lambda one: one.is_loopback)
    guard = AddressGuard(allow_private=True, allow=["0.0.0.0/0", "::/0"], own=own)
    for url in (
        "http://127.0.0.1:9092/",
        "http://127.9.9.9:9092/",
        "http://[::1]:9092/",
        "http://[::ffff:127.0.0.1]:9092/",
        "http://10.0.0.5:8081/",
        "http://[64:ff9b::10.0.0.5]:8081/",
        "http://127.0.0.1:8080/",
    ):
        assert "where this system itself listens" in (verdict(guard, url) or ""), url
    for url in ("http://127.0.0.1:9093/", "http://10.0.0.5:9092/", "http://10.0.0.6:8081/", "http://10.0.0.5:8080/"):
        assert verdict(guard, url) is None, url


def test_which_addresses_are_ours_is_known_of_the_system() -> None:
    assert is_ours(ipaddress.ip_address("127.0.0.1"))
    assert is_ours(ipaddress.ip_address("127.3.4.5"))
    assert not is_ours(ipaddress.ip_address("192.0.2.1"))
    assert not is_ours(ipaddress.ip_address("2001:db8::1"))


async def test_names_of_listeners_are_looked_up_and_one_without_addresses_does_not_matter() -> None:
    async def lookup(host: str) -> list[str]:
        if host == "broker.test":
            return ["192.0.2.7", "2001:db8::7%1"]
        raise OSError("Name or service not known")

    own = await find_listeners([("broker.test", 9092), ("nobody.test", 9092), ("*", 8080)], lookup)
    assert own.holds(ipaddress.ip_address("192.0.2.7"), 9092)
    assert own.holds(ipaddress.ip_address("2001:db8::7"), 9092)
    assert own.holds(ipaddress.ip_address("127.0.0.1"), 8080)
    assert not own.holds(ipaddress.ip_address("192.0.2.7"), 9093)
    assert not own.holds(ipaddress.ip_address("192.0.2.8"), 9092)


def test_places_are_written_with_their_port() -> None:
    assert place("api.example:8080") == ("api.example", 8080)
    assert place("[fd00::1]:80") == ("fd00::1", 80)
    assert place("*:9") == ("*", 9)
    assert place_of_url("http://registry:8081/x") == ("registry", 8081)
    assert [place_of_url(f"{scheme}://r")[1] for scheme in ("http", "https")] == [80, 443]
    for text in ("", "host", "host:", "host:0", "host:x", "host:99999", "a@b:1", "host:1/x", ":80"):
        with pytest.raises(ValueError, match="write it as host:port"):
            place(text)
    with pytest.raises(ValueError, match="has no host"):
        place_of_url("registry")


def test_deny_counts_for_what_is_hidden_in_an_allowed_address() -> None:
    guard = AddressGuard(allow=["64:ff9b:1::/48", "::/96"], deny=["10.0.0.0/8"])
    for address in ("64:ff9b:1::10.0.0.1", "64:ff9b:1:a00:0:100::", "::10.0.0.1"):
        assert "denied" in (refused(guard, address) or ""), address
    assert refused(guard, "64:ff9b:1::11.0.0.1") is None
