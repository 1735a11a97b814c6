"""The syntax of endpoints: what a URL becomes, and that no header can say more than itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.http_target import (
    HEADERS_MAX,
    URL_CHARS_MAX,
    FieldNames,
    parse_target,
    render_fields,
    static_headers,
)


@pytest.mark.parametrize(
    ("url", "origin", "authority", "path"),
    [
        ("https://example.com", "https://example.com:443", "example.com", "/"),
        ("https://example.com/", "https://example.com:443", "example.com", "/"),
        ("HTTPS://Example.COM/A", "https://example.com:443", "example.com", "/A"),
        ("https://example.com:443/a", "https://example.com:443", "example.com", "/a"),
        ("https://example.com:/a", "https://example.com:443", "example.com", "/a"),
        ("http://example.com:443/a", "http://example.com:443", "example.com:443", "/a"),
        ("http://example.com?x", "http://example.com:80", "example.com", "/?x"),
        ("http://example.com/a?", "http://example.com:80", "example.com", "/a?"),
        ("http://example.com/a?b=c&d=%20/?", "http://example.com:80", "example.com", "/a?b=c&d=%20/?"),
        ("http://example.com//a/../b", "http://example.com:80", "example.com", "//a/../b"),
        ("http://example.com/\u00e9?\u00e9", "http://example.com:80", "example.com", "/%C3%A9?%C3%A9"),
        ("http://example.com./a", "http://example.com.:80", "example.com.", "/a"),
        ("http://my_service-1:8080/", "http://my_service-1:8080", "my_service-1:8080", "/"),
        ("http://10.0.0.1:8080/", "http://10.0.0.1:8080", "10.0.0.1:8080", "/"),
        ("http://[2606:4700::1]/", "http://[2606:4700::1]:80", "[2606:4700::1]", "/"),
        ("http://[::1]:8080/", "http://[::1]:8080", "[::1]:8080", "/"),
    ],
)
def test_a_url_becomes_a_target(url: str, origin: str, authority: str, path: str) -> None:
    target = parse_target(url)
    assert (target.origin, target.authority, target.path) == (origin, authority, path)
    assert target.tls == origin.startswith("https")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/hook",
        "ftp://example.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https:///hook",
        "https://",
        "https://:80/",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://@example.com/",
        "https://example.com/#",
        "https://example.com/#part",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://example.com:-1/",
        "https://example.com:x/",
        "https://example.com/a b",
        " https://example.com/",
        "https://example.com/\n",
        "https://exa\tmple.com/",
        "https://example.com/\r\nx: y",
        "https://example.com/\0",
        "https://example.com\\@10.0.0.1/",
        "https://exam%70le.com/",
        "https://b\u00fccher.example/",
        "https://exa,mple.com/",
        "https://-example.com/",
        "https://example..com/",
        "https://.example.com/",
        f"https://{'a' * 64}.com/",
        f"https://{'a.' * 127}com/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://1.2.3.4.5/",
        "https://[::1/",
        "https://[1.2.3.4]/",
        "https://[example.com]/",
        "https://[fe80::1%25eth0]/",
        "https://[v1.x]/",
        "https://::1/",
        "https://example.com/" + "a" * URL_CHARS_MAX,
    ],
)
def test_a_url_that_must_not_be_used_is_refused_in_a_sentence(url: str) -> None:
    with pytest.raises(ValueError, match=r"^[A-Z][^\n]*\.$"):
        parse_target(url)


@given(st.text(max_size=40))
def test_whatever_a_url_is_made_of_its_request_line_has_three_words(text: str) -> None:
    try:
        target = parse_target(f"https://example.com/{text}")
    except ValueError:
        return
    line = f"POST {target.path} HTTP/1.1".encode("ascii")
    assert len(line.split()) == 3
    assert b"\n" not in line
    assert target.authority == "example.com"


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=12)), max_size=4))
def test_rendered_fields_parse_back_to_themselves_or_are_refused(headers: list[tuple[str, str]]) -> None:
    try:
        rendered = render_fields(headers, FieldNames())
    except ValueError:
        return
    lines = rendered.decode("latin-1").split("\r\n")
    assert lines.pop() == ""
    assert [tuple(line.split(": ", 1)) for line in lines] == headers


@given(st.text(alphabet="\r\n\0: abc\t\x7f\x85\xa0", max_size=6))
def test_a_control_character_never_passes(value: str) -> None:
    harmless = not set(value) & set("\r\n\0\x7f\x85\xa0")
    try:
        rendered = render_fields([("x", value), ("y", "z")], FieldNames())
    except ValueError:
        assert not harmless
    else:
        assert harmless
        assert rendered == f"x: {value}\r\ny: z\r\n".encode()


def test_a_refusal_names_the_header_and_hides_the_value() -> None:
    with pytest.raises(ValueError, match="'x-secret'") as raised:
        render_fields([("a", "b"), ("x-secret", "hunter2\n")], FieldNames())
    assert "hunter2" not in str(raised.value)


def test_latin_1_is_sent_as_it_is() -> None:
    assert render_fields([("x", "caf\u00e9\ttab")], FieldNames()) == b"x: caf\xe9\ttab\r\n"


@pytest.mark.parametrize(
    "name",
    [
        "Connection",
        "content-length",
        "Expect",
        "HOST",
        "keep-alive",
        "TE",
        "trailer",
        "Transfer-Encoding",
        "Upgrade",
    ],
)
def test_a_field_of_the_connection_cannot_be_set(name: str) -> None:
    with pytest.raises(ValueError, match="belongs to the connection"):
        render_fields([(name, "x")], FieldNames())


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\n", "\u00e9", "(x)", "x" * 257])
def test_a_field_name_is_a_token(name: str) -> None:
    with pytest.raises(ValueError, match="not allowed"):
        render_fields([(name, "x")], FieldNames())


def test_known_names_are_bounded() -> None:
    names = FieldNames()
    for number in range(3 * FieldNames.NAMES_MAX):
        assert names[f"x-{number}"] == f"x-{number}: "
        assert len(names) <= FieldNames.NAMES_MAX


def test_static_headers_get_defaults_unless_given() -> None:
    assert static_headers({"X": "1"}, FieldNames()) == [
        ("X", "1"),
        ("user-agent", "Distributary"),
        ("accept-encoding", "identity"),
    ]
    assert static_headers({"User-Agent": "acme", "Accept-Encoding": "gzip"}, FieldNames()) == [
        ("User-Agent", "acme"),
        ("Accept-Encoding", "gzip"),
    ]


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Webhook-Id": "x"}, "written by the engine"),
        ({"webhook-anything": "x"}, "written by the engine"),
        ({"a": "1", "A": "2"}, "given twice"),
        ({"a": "\n"}, "control"),
        ({"Host": "x"}, "belongs to the connection"),
        ({f"x-{n}": "" for n in range(HEADERS_MAX + 1)}, "at most 64"),
        ({f"x-{n}": "v" * 4_000 for n in range(5)}, "larger than 16384 bytes"),
    ],
)
def test_static_headers_that_must_not_be_sent(headers: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        static_headers(headers, FieldNames())
