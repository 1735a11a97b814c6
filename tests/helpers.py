"""What tests of every kind share: waiting for a condition with a deadline, in both colours.

The only place in the tests that sleeps: between two looks at a condition, or where slowness itself is tested.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

POLL_SECONDS = 0.02


def eventually(condition: Callable[[], T], *, timeout_s: float = 120.0, message: str = "condition") -> T:
    """The first truthy value of `condition`; fails with `message` and the last value after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {message} (last: {value!r})")
        time.sleep(POLL_SECONDS)
    return value


@overload
async def eventually_async(
    condition: Callable[[], Awaitable[T]], *, timeout_s: float = 120.0, message: str = "condition"
) -> T: ...


@overload
async def eventually_async(
    condition: Callable[[], T], *, timeout_s: float = 120.0, message: str = "condition"
) -> T: ...


async def eventually_async(
    condition: Callable[[], Any], *, timeout_s: float = 120.0, message: str = "condition"
) -> Any:
    """`eventually` for coroutines: the event loop runs between two looks; `condition` may be awaitable."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {message} (last: {value!r})")
        await asyncio.sleep(POLL_SECONDS)


async def drip() -> None:
    """What a slow server does between two bytes: part of what is tested, and nothing waits for it to be enough."""
    await asyncio.sleep(POLL_SECONDS)
