"""Contexts of endpoints with TLS of their own: made once, kept within a bound, and never a word of the key."""

from __future__ import annotations

import asyncio

import pytest
import trustme

from connectors.tls import CertificateError, EndpointContexts
from schemas.endpoint_tls import EndpointTls

AUTHORITY = trustme.CA()
CA = AUTHORITY.cert_pem.bytes().decode()
ISSUED = AUTHORITY.issue_cert("client.test")
TLS = EndpointTls(
    owner="sub_1",
    certificate=ISSUED.cert_chain_pems[0].bytes().decode(),
    key=ISSUED.private_key_pem.bytes().decode(),
    ca=CA,
)


def pinned(owner: str) -> EndpointTls:
    return EndpointTls(owner=owner, ca=CA)


async def test_all_who_ask_at_once_get_one_context() -> None:
    contexts = EndpointContexts()
    made = await asyncio.gather(*[contexts.of(TLS) for _ in range(5)])
    again = await contexts.of(EndpointTls(owner="sub_1", certificate=TLS.certificate, key=TLS.key, ca=TLS.ca))
    assert len({id(each) for each in (*made, again)}) == 1
    assert await contexts.of(EndpointTls(owner="sub_2", certificate=TLS.certificate, key=TLS.key, ca=CA)) is not again


async def test_who_gives_up_does_not_take_it_from_the_others() -> None:
    contexts = EndpointContexts()
    first, second = (asyncio.ensure_future(contexts.of(TLS)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is await contexts.of(TLS)


async def test_the_ones_used_last_are_kept() -> None:
    contexts = EndpointContexts(contexts_max=2)
    a = await contexts.of(pinned("a"))
    await contexts.of(pinned("b"))
    assert await contexts.of(pinned("a")) is a
    await contexts.of(pinned("c"))
    assert contexts.kept == 2
    assert await contexts.of(pinned("a")) is a


async def test_what_cannot_be_used_is_remembered_within_the_same_bound() -> None:
    contexts = EndpointContexts(contexts_max=2)
    for _ in range(2):
        for owner in "abc":
            with pytest.raises(CertificateError, match="not a PEM certificate"):
                await contexts.of(EndpointTls(owner=owner, ca="none"))
    assert contexts.kept == 2


async def test_a_context_speaks_tls_1_2_at_least_and_checks_names() -> None:
    context = await EndpointContexts().of(TLS)
    assert context.minimum_version.name == "TLSv1_2"
    assert context.check_hostname
    assert context.verify_mode.name == "CERT_REQUIRED"
    assert len(context.get_ca_certs()) == 1


def test_a_key_is_in_no_repr() -> None:
    assert "PRIVATE" not in repr(TLS)
