"""The reference of providers says what their files say."""

from __future__ import annotations

import msgspec
import pytest

from connectors.providers import providers
from schemas.provider import Challenge, EventTime, EventType, Provider, Signature, Timestamp
from tests.docs import ROOT, tables

TEXT = (ROOT / "docs/reference/providers.md").read_text()


def row(provider: Provider) -> list[str]:
    """The provider's line in the table."""
    signatures = list(
        dict.fromkeys(
            f"`{rule.header}`: {rule.algorithm} of `{rule.signed}`, {rule.encoding}" for rule in provider.signatures
        )
    )
    tolerance = f"{provider.timestamp.tolerance_s:,} s" if provider.timestamp else "none"
    ids = ", ".join(f"`{each}`" for each in provider.id) or "the digest"
    types = ", ".join(f"`{each}`" for each in provider.type.references) or f"`{provider.type.default}`"
    prefix = f"`{provider.type.prefix}` and " if provider.type.prefix else ""
    then = f", `{provider.type.then}`" if provider.type.then else ""
    return [
        f"`{provider.name}`",
        provider.title,
        "; ".join(signatures),
        tolerance,
        ids,
        f"{prefix}{types}{then}",
        provider.unsigned or "nothing",
    ]


def test_the_table_of_providers() -> None:
    assert tables(TEXT, "The table") == [row(provider) for provider in providers().values()]


def test_where_their_secrets_are() -> None:
    said = [[f"`{each.name}`", each.secret] for each in providers().values()]
    assert tables(TEXT, "Their secrets") == said


def test_their_documentation_is_linked() -> None:
    for provider in providers().values():
        assert not provider.documentation or f"]({provider.documentation})" in TEXT, provider.name


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("A provider's file", Provider),
        ("`signatures`", Signature),
        ("`timestamp`", Timestamp),
        ("`type`", EventType),
        ("`time`", EventTime),
        ("`challenges`", Challenge),
    ],
)
def test_members_of_a_file(heading: str, kind: type[msgspec.Struct]) -> None:
    names = [cells[0].strip("`") for cells in tables(TEXT, heading)]
    assert names == [field.name for field in msgspec.structs.fields(kind)]
