"""Where no delivery goes by default: what it is called, URLs that lead there, and words of the refusal.

The same rows stand in docs/reference/address-guard.md. This file judges nothing.
"""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """One row: every URL of it must be refused with these words."""

    what: str
    urls: tuple[str, ...]
    words: str


CASES = (
    Case("loopback", ("https://127.0.0.1/", "https://127.255.255.254/", "https://[::1]/"), "a loopback address"),
    Case(
        "private networks",
        ("https://10.0.0.1/", "https://172.16.0.1/", "https://172.31.255.255/", "https://192.168.1.1/"),
        "a private address",
    ),
    Case("carrier-grade NAT", ("https://100.64.0.1/", "https://100.127.255.255/"), "a carrier-grade NAT address"),
    Case("unique local IPv6", ("https://[fc00::1]/", "https://[fd12:3456::1]/"), "a unique local address"),
    Case("unspecified", ("https://0.0.0.0/", "https://0.1.2.3/", "https://[::]/"), "an unspecified address"),
    Case(
        "link-local, with the metadata services of AWS, Google, Azure, Oracle, Tencent, DigitalOcean, OpenStack",
        ("https://169.254.169.254/", "https://169.254.170.2/", "https://169.254.0.23/", "https://[fe80::a9fe:a9fe]/"),
        "a link-local address",
    ),
    Case(
        "metadata services elsewhere: Alibaba, AWS, Google, Oracle, Scaleway",
        (
            "https://100.100.100.200/",
            "https://[fd00:ec2::254]/",
            "https://[fd00:ec2::23]/",
            "https://[fd20:ce::254]/",
            "https://[fd00:c1::a9fe:a9fe]/",
            "https://[fd00:42::42]/",
        ),
        "a cloud metadata address",
    ),
    Case("Azure's platform", ("https://168.63.129.16/",), "a cloud platform address"),
    Case(
        "metadata services by name, in any case and with a dot at the end",
        (
            "https://metadata.google.internal/",
            "https://METADATA.Google.Internal./",
            "https://metadata/",
            "https://metadata.goog/",
            "https://metadata.azure.internal/",
            "https://metadata.tencentyun.com/",
            "https://metadata.platformequinix.com/",
            "https://metadata.packet.net/",
            "https://instance-data/",
            "https://instance-data.ec2.internal/",
            "https://rancher-metadata/",
        ),
        "the name of a cloud metadata service",
    ),
    Case("multicast", ("https://224.0.0.1/", "https://239.255.255.255/", "https://[ff02::1]/"), "a multicast address"),
    Case(
        "reserved",
        ("https://240.0.0.1/", "https://255.255.255.255/", "https://[100::1]/", "https://[2001:20::1]/"),
        "a reserved address",
    ),
    Case("protocol assignments", ("https://192.0.0.192/",), "reserved for protocol assignments"),
    Case(
        "documentation",
        (
            "https://192.0.2.1/",
            "https://198.51.100.1/",
            "https://203.0.113.1/",
            "https://[2001:db8::1]/",
            "https://[3fff::1]/",
        ),
        "a documentation address",
    ),
    Case(
        "benchmarks", ("https://198.18.0.1/", "https://198.19.255.255/", "https://[2001:2::1]/"), "a benchmark address"
    ),
    Case("6to4 relays", ("https://192.88.99.1/",), "a 6to4 relay address"),
    Case("site-local IPv6", ("https://[fec0::1]/",), "a site-local address"),
    Case(
        "IPv4-mapped: it is that IPv4 address",
        ("https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/"),
        "a loopback address",
    ),
    Case("IPv4-compatible", ("https://[::127.0.0.1]/", "https://[::1.1.1.1]/"), "a reserved address"),
    Case("IPv4-translated", ("https://[::ffff:0:10.0.0.1]/",), "an IPv4-translated address holding 10.0.0.1"),
    Case("NAT64", ("https://[64:ff9b::10.0.0.1]/", "https://[64:ff9b::a00:1]/"), "a NAT64 address holding 10.0.0.1"),
    Case("NAT64 with a prefix of its own", ("https://[64:ff9b:1::a00:1]/",), "a reserved address"),
    Case("6to4", ("https://[2002:a00:1::1]/",), "a 6to4 address holding 10.0.0.1"),
    Case(
        "Teredo, as server or as client",
        ("https://[2001:0:a00:1::fefe:fefe]/", "https://[2001:0:101:101::f5ff:fffe]/"),
        "a Teredo address holding 10.0.0.1",
    ),
    Case(
        "ISATAP",
        ("https://[2606:4700::5efe:a00:1]/", "https://[2606:4700::200:5efe:10.0.0.1]/"),
        "an ISATAP address holding 10.0.0.1",
    ),
    Case(
        "decimal, hexadecimal, octal and short hosts",
        (
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0x7f.0.0.0x1/",
            "https://0177.0.0.1/",
            "https://017700000001/",
            "https://127.1/",
            "https://127.0.0.1./",
        ),
        "looks like a number",
    ),
    Case(
        "full-width digits and other letters that some parsers fold",
        ("https://１２７.0.0.1/", "https://ⓛocalhost/"),
        "is not ASCII",
    ),
    Case("a scope or an encoded host", ("https://[fe80::1%25eth0]/", "https://%3127.0.0.1/"), "holds a '%'"),
    Case(
        "credentials, which some parsers take for the host",
        ("https://hooks.example@127.0.0.1/", "https://127.0.0.1:80@hooks.example/"),
        "holds a user name or password",
    ),
    Case(
        "backslashes, spaces and control characters",
        ("https://hooks.example\\@127.0.0.1/", "https://hooks.example/\r\nX: y", "https://127.0.0.1 .hooks.example/"),
        "percent-encode it",
    ),
    Case(
        "other schemes",
        ("file:///etc/passwd", "gopher://127.0.0.1:6379/_FLUSHALL", "ftp://hooks.example/", "unix:/run/docker.sock"),
        "must begin with https:// or http://",
    ),
    Case(
        "ports below 1024 that are not HTTP's",
        ("https://hooks.example:22/", "https://hooks.example:25/", "https://1.1.1.1:53/", "https://1.1.1.1:445/"),
        "is not for webhooks",
    ),
    Case("public addresses without TLS", ("http://1.1.1.1/", "http://[2606:4700::1111]/"), "without encryption"),
)
