"""The Faust agents: where frames come in.

An agent does nothing but hand frames to its stage; an error in a stage ends the worker, since skipping a frame would
stall its partition for ever. This file does not start anything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import faust

from schemas.frame import Frame

Handler = Callable[[Frame], Awaitable[None]]


def frame_agent(
    app: faust.App, name: str, topics: list[str], handle: Handler, fail: Callable[[Exception], None]
) -> Any:
    """An agent that passes every frame of these topics to `handle`; `fail` is told of what `handle` cannot cope
    with."""

    async def agent(frames: Any) -> None:
        async for frame in frames:
            try:
                await handle(frame)
            except Exception as error:
                fail(error)
                raise

    return app.agent(app.topic(*topics), name=name)(agent)
