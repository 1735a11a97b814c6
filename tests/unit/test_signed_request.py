"""Signatures of providers: published ones are accepted, and whatever is changed about a request refuses it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import partial

import msgspec
import pytest

from connectors.providers import providers
from schemas.signed_request import SIGNATURES_MAX, Reason, Refused, Request, Verified, secret_fits, verify
from tests.provider_cases import CASES, FORM, JSON, NOW_MS, OWN, PUBLIC_KEY, PUBLISHED, TIMESTAMP, Case, stripe

IDS = [f"{case.provider}-{number}" for number, case in enumerate(CASES)]
replace = msgspec.structs.replace


def judged(case: Case, request: Request | None = None, *, secrets: tuple[str, ...] = (), now_ms: int = 0) -> str:
    """`verified`, or the reason."""
    found = verify(
        providers()[case.provider], request or case.request, secrets or (case.secret,), now_ms or case.now_ms
    )
    return "verified" if isinstance(found, Verified) else found.reason


def with_header(request: Request, name: str, change: Callable[[str], str]) -> Request:
    return replace(
        request, headers=tuple((each, change(value) if each == name else value) for each, value in request.headers)
    )


def _replaced(old: str, new: str, text: str) -> str:
    return text.replace(old, new)


def _instead(new: str, _: str) -> str:
    return new


def signature_header(case: Case) -> str:
    return providers()[case.provider].signatures[0].header


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_accepts_what_was_signed(case: Case) -> None:
    assert judged(case) == "verified"


def test_every_provider_has_a_case() -> None:
    assert {case.provider for case in CASES} == set(providers())
    assert {case.provider for case in PUBLISHED} >= {"github", "slack", "twilio", "sendgrid", "standard"}


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_refuses_another_body(case: Case) -> None:
    for body in (case.request.body + b" ", case.request.body[:-1], b"", b"\xff\xfe" + case.request.body):
        assert judged(case, replace(case.request, body=body)) in ("wrong_signature", "wrong_digest", "bad_form"), body


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_refuses_another_secret(case: Case) -> None:
    other = {
        "standard": "whsec_" + base64.b64encode(bytes(24)).decode(),
        "sendgrid": (
            "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqTxd43gyp8IOEto2LdIfjRQrIbsd4SXZkLW6jDutdhXSJCWHw8REntlo7aNDthvj+y7G"
            "jUuFDb/R1NGe1OPzpA=="
        ),
    }.get(case.provider, "another")
    assert secret_fits(providers()[case.provider], other)
    assert judged(case, secrets=(other,)) == "wrong_signature"
    assert judged(case, secrets=(other, case.secret)) == "verified"  # while it is rotated
    assert judged(case, secrets=(case.secret, other)) == "verified"
    assert verify(providers()[case.provider], case.request, [], case.now_ms)[0] == "no_secret"


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_refuses_without_its_signature_and_with_two(case: Case) -> None:
    name = signature_header(case)
    without = tuple(each for each in case.request.headers if each[0] != name)
    assert judged(case, replace(case.request, headers=without)) == "no_signature"
    twice = case.request.headers + tuple(each for each in case.request.headers if each[0] == name)
    assert judged(case, replace(case.request, headers=twice)) == "twice"


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_refuses_a_signature_that_only_looks_the_same(case: Case) -> None:
    name = signature_header(case)
    for change in (str.swapcase, lambda text: text + "=", lambda text: text + "é", lambda text: text[:-1]):
        changed = with_header(case.request, name, change)
        assert judged(case, changed) in ("wrong_signature", "no_timestamp"), changed
    assert judged(case, with_header(case.request, name, lambda text: f"{text}\udcff")) == "wrong_signature"
    assert judged(case, with_header(case.request, name, lambda _: "")) in ("wrong_signature", "no_timestamp")


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_refuses_a_replay(case: Case) -> None:
    timestamp = providers()[case.provider].timestamp
    if timestamp is None:  # nothing tells when it was signed: the delivery's id must
        assert judged(case, now_ms=case.now_ms + 10**12) == "verified"
        return
    tolerance_ms = timestamp.tolerance_s * 1000
    assert judged(case, now_ms=case.now_ms + tolerance_ms) == "verified"
    assert judged(case, now_ms=case.now_ms - tolerance_ms) == "verified"
    assert judged(case, now_ms=case.now_ms + tolerance_ms + 1000) == "stale"
    assert judged(case, now_ms=case.now_ms - tolerance_ms - 1000) == "stale"


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_refuses_another_time(case: Case) -> None:
    timestamp = providers()[case.provider].timestamp
    if timestamp is None:
        return
    signed = str(case.now_ms // 1000)
    later = with_header(case.request, timestamp.header, lambda text: text.replace(signed, str(int(signed) + 1)))
    assert judged(case, later) == "wrong_signature"
    for wrong in ("", "x", f"+{signed}", f" {signed}", f"{signed}.0", f"0{signed}", "-1", "٣", "9" * 17):
        changed = with_header(case.request, timestamp.header, partial(_replaced, signed, wrong))
        assert judged(case, changed) == "no_timestamp", wrong
    if timestamp.header != signature_header(case):
        twice = (*case.request.headers, (timestamp.header, signed))
        assert judged(case, replace(case.request, headers=twice)) == "twice"
        without = tuple(each for each in case.request.headers if each[0] != timestamp.header)
        assert judged(case, replace(case.request, headers=without)) == "no_timestamp"


def test_stripes_header_may_hold_several_signatures_but_one_time() -> None:
    case = OWN[0]
    mac = stripe().all("stripe-signature")[0].split("v1=")[1][:64]

    def header(text: str) -> str:
        return judged(case, replace(case.request, headers=(JSON, ("stripe-signature", text))))

    assert header(f"t={TIMESTAMP},v1={'0' * 64},v1={mac}") == "verified"
    assert header(f"t={TIMESTAMP},v0={mac}") == "wrong_signature"
    assert header(f"t={TIMESTAMP},t={TIMESTAMP},v1={mac}") == "twice"
    assert header(f"v1={mac}") == "no_timestamp"
    assert header(f"t={TIMESTAMP}," + ",".join(["v1=0"] * SIGNATURES_MAX + [f"v1={mac}"])) == "wrong_signature"


def test_standard_webhooks_signs_the_id() -> None:
    case = next(case for case in PUBLISHED if case.provider == "standard")
    wrong: dict[str, Reason] = {
        "msg_other": "wrong_signature",
        "msg_p5jXN8AQM9LWM0D4loKWxJek.": "no_id",  # a dot would let id and time be told apart in two ways
        "": "no_id",
        "é": "no_id",
    }
    for message, reason in wrong.items():
        assert judged(case, with_header(case.request, "webhook-id", partial(_instead, message))) == reason
    several = with_header(case.request, "webhook-signature", lambda text: f"v1,bm90IGl0 v1a,bm90IGl0 {text}")
    assert judged(case, several) == "verified"


def test_the_secret_says_which_of_two_algorithms() -> None:
    symmetric = next(case for case in PUBLISHED if case.provider == "standard")
    asymmetric = next(case for case in OWN if case.provider == "standard")
    assert judged(symmetric, secrets=(PUBLIC_KEY, symmetric.secret)) == "verified"
    assert judged(symmetric, secrets=(PUBLIC_KEY,)) == "wrong_signature"
    assert judged(asymmetric, secrets=(symmetric.secret,)) == "wrong_signature"
    # The prefix may be missing, as the reference libraries allow.
    assert judged(symmetric, secrets=(symmetric.secret.removeprefix("whsec_"),)) == "verified"


def test_base64_that_stands_for_the_same_bytes_is_another_signature() -> None:
    case = next(case for case in OWN if case.provider == "standard")

    def with_other_bits(text: str) -> str:  # of the last character before the padding, four bits stand for nothing
        return f"{text[:-3]}{chr(ord(text[-3]) + 1)}=="

    name = "webhook-signature"
    given, other = (
        base64.b64decode(change(case.request.all(name)[0].removeprefix("v1a,"))) for change in (str, with_other_bits)
    )
    assert given == other
    assert judged(case, with_header(case.request, name, with_other_bits)) == "wrong_signature"


def test_twilio_signs_url_and_parameters() -> None:
    case = next(case for case in PUBLISHED if case.provider == "twilio")
    shuffled = b"&".join(reversed(case.request.body.split(b"&")))
    assert judged(case, replace(case.request, body=shuffled)) == "verified"
    assert judged(case, replace(case.request, url=case.request.url.replace("foo=1", "foo=2"))) == "wrong_signature"
    assert judged(case, replace(case.request, url=case.request.url.replace("https", "http"))) == "wrong_signature"
    assert judged(case, replace(case.request, url=case.request.url + "\udcff")) == "wrong_signature"
    assert judged(case, replace(case.request, body=b"a" * 10)) == "bad_form"
    assert judged(case, replace(case.request, body=b"&".join([b"a=1"] * 1001))) == "bad_form"
    assert judged(case, replace(case.request, body=b"a=%ff")) == "bad_form"
    # The form's parameters are all that is signed of it: as another type, the body would not be covered.
    for kind in (JSON, ("content-type", "text/plain"), ("x-nothing", "")):
        other = (*(each for each in case.request.headers if each != FORM), kind)
        assert judged(case, replace(case.request, headers=other)) in ("wrong_signature", "wrong_type")


def test_twilio_signs_json_by_its_digest() -> None:
    case = next(case for case in PUBLISHED if "JSON" in case.published)
    assert judged(case, replace(case.request, body=case.request.body + b" ")) == "wrong_digest"
    many = replace(case.request, url=case.request.url + "&a" * 1000)
    assert many.query("foo") == []
    assert case.request.query("foo") == ["1"]
    # Signed is a URL without the digest: whoever has seen one such signature could send any body.
    plain = next(case for case in PUBLISHED if case.provider == "twilio" and not case.request.body.startswith(b"{"))
    bare = replace(plain.request, body=b"", headers=(JSON, *plain.request.headers[1:]))
    assert judged(plain, bare) == "wrong_signature"


@pytest.mark.parametrize(
    ("provider", "secret"),
    [
        ("stripe", ""),
        ("standard", "whsec_not base64"),
        ("standard", "whpk_" + base64.b64encode(bytes(31)).decode()),
        ("standard", "whsec_"),
        ("sendgrid", "bm8ga2V5"),
        ("sendgrid", "not base64"),
        ("sendgrid", "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="),  # a key, and not of P-256
    ],
)
def test_secrets_that_are_no_keys(provider: str, secret: str) -> None:
    assert not secret_fits(providers()[provider], secret)
    case = next(case for case in CASES if case.provider == provider)
    assert judged(case, secrets=(secret, case.secret)) == "verified"
    assert judged(case, secrets=(secret,)) == "wrong_signature"


def test_a_public_key_that_is_no_point_verifies_nothing() -> None:
    case = next(case for case in OWN if case.provider == "standard")
    assert judged(case, secrets=("whpk_" + base64.b64encode(b"\xff" * 32).decode(),)) == "wrong_signature"


def test_no_sentence_quotes_a_secret() -> None:
    for case in CASES:
        found = verify(providers()[case.provider], replace(case.request, body=b"{}"), [case.secret], NOW_MS)
        assert isinstance(found, Refused)
        assert case.secret not in found.detail
