"""Event loops for conformance tests: the senders' suite runs on the stock loop and on uvloop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

    LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    """Called by pytest-asyncio for every async test in this folder."""
    if item.path.name in ("test_senders.py", "test_sender_tls.py"):
        return {"stock": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"stock": asyncio.new_event_loop}
