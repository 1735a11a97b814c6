"""The providers that are known, one file each. What stands in a file is told in `schemas/provider.py`.

This package holds no code for any provider.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

from schemas.provider import Provider, provider_from_toml


@cache
def providers() -> dict[str, Provider]:
    """Every provider by its name, in alphabetical order."""
    files = sorted(resources.files("connectors.providers").iterdir(), key=lambda file: file.name)
    found = [provider_from_toml(file.read_text("utf-8")) for file in files if file.name.endswith(".toml")]
    return {provider.name: provider for provider in found}
