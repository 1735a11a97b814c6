"""Which schema registry the settings name: a server by URL, or a folder of files as the embedded default.

Both honour the `Registry` port (`connectors/registry_client.py`, `connectors/registry_folder.py`); this file only
chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from connectors.registry_client import ConfluentRegistry
from connectors.registry_folder import FolderRegistry


def registry_from(
    *,
    url: str | None = None,
    folder: Path | None = None,
    conf: Mapping[str, Any] | None = None,
    monotonic: Callable[[], float],
) -> FolderRegistry | ConfluentRegistry:
    """The registry that the settings name; our own schemas alone when they name none. ValueError for both."""
    if url and folder:
        raise ValueError("a schema registry URL and a schema folder are both set; keep one of them")
    if url:
        return ConfluentRegistry(url, conf=conf, monotonic=monotonic)
    return FolderRegistry(folder, monotonic=monotonic)
