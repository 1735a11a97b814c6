"""Whose address counts behind proxies, and that nobody can choose it."""

from __future__ import annotations

import pytest

from schemas.client_address import client_address, contains, network

PROXIES = ["10.0.0.0/8", "fd00::/8"]


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "expected"),
    [
        ("203.0.113.7", [], "203.0.113.7"),
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),  # no proxy of ours: its header is what a client says
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["192.0.2.1, 198.51.100.1"], "198.51.100.1"),  # the left one was there before
        ("10.0.0.1", ["192.0.2.1", "198.51.100.1"], "198.51.100.1"),  # in a header of its own, too
        ("10.0.0.1", ["198.51.100.1, 10.0.0.2"], "198.51.100.1"),  # two proxies
        ("10.0.0.1", ["192.0.2.1, 198.51.100.1, 10.0.0.2, 10.0.0.3"], "198.51.100.1"),
        ("10.0.0.1", ["10.9.9.9"], "10.9.9.9"),  # only proxies: the first of them
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("fd00::1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["unknown"], None),
        ("10.0.0.1", ["198.51.100.1,"], None),
        ("10.0.0.1", [""], None),
        ("10.0.0.1", ["198.51.100.1, nonsense, 10.0.0.2"], None),
        ("10.0.0.1", ["fe80::1%eth0"], None),
        ("nonsense", [], None),
        ("10.0.0.1", [", ".join(["198.51.100.1"] + ["10.0.0.2"] * 100)], "10.0.0.2"),  # after 32, it is enough
    ],
)
def test_x_forwarded_for(peer: str, forwarded_for: list[str], expected: str | None) -> None:
    found = client_address(peer, forwarded_for, [], PROXIES)
    assert (str(found) if found else None) == expected


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        (["for=198.51.100.1"], "198.51.100.1"),
        (["for=192.0.2.1, for=198.51.100.1;proto=https;by=10.0.0.1"], "198.51.100.1"),
        (['proto=http;For="[2001:db8::1]:4711"'], "2001:db8::1"),
        (['for="198.51.100.1:80"', "for=10.0.0.2"], "198.51.100.1"),
        (["for=unknown"], None),
        (["for=_hidden"], None),
        (["proto=https"], None),
        (['for="a, for=198.51.100.1'], "198.51.100.1"),  # an open quote ends with its element
        (['for="198.51.100.1, for=192.0.2.9"'], None),
    ],
)
def test_forwarded(forwarded: list[str], expected: str | None) -> None:
    found = client_address("10.0.0.1", [], forwarded, PROXIES)
    assert (str(found) if found else None) == expected


def test_two_headers_that_disagree_prove_nothing() -> None:
    agree = client_address("10.0.0.1", ["198.51.100.1"], ["for=198.51.100.1"], PROXIES)
    assert str(agree) == "198.51.100.1"
    assert client_address("10.0.0.1", ["198.51.100.1"], ["for=192.0.2.1"], PROXIES) is None
    assert str(client_address("203.0.113.7", ["198.51.100.1"], ["for=192.0.2.1"], PROXIES)) == "203.0.113.7"


def test_networks() -> None:
    address = client_address("192.0.2.77", [], [], [])
    assert address is not None
    assert contains(["2001:db8::/32", "192.0.2.0/24"], address)
    assert contains(["192.0.2.77"], address)
    assert not contains(["192.0.2.0/26", "::/0"], address)
    assert not contains([], address)


@pytest.mark.parametrize("text", ["", "192.0.2.1/24", "192.0.2.0/33", "example.com", "1.2.3", "192.0.2.0/24 x"])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match="is no network as CIDR"):
        network(text)
