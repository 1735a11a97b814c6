"""Stock Faust, set up once: the reference of the figures about agents.

The app is Faust as it comes, with its own driver; with another broker URL it is the same app on frames. What an agent
does with an event is each figure's own matter.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import faust

#: Faust's own default, in messages.
STREAM_BUFFER = 4096


async def run_agent(broker: Any, topic: str, process: Any, done: Any, *, stream_buffer: int = STREAM_BUFFER) -> None:
    """Run one agent that is `process(app, stream)` on a topic of raw bytes until the event `done` is set."""
    with tempfile.TemporaryDirectory() as datadir:  # Faust makes one, also for an app without tables
        app = faust.App(
            f"bench-{os.getpid()}",
            broker=broker,
            datadir=datadir,
            key_serializer="raw",
            value_serializer="raw",
            store="memory://",
            topic_disable_leader=True,
            web_enabled=False,
            consumer_auto_offset_reset="earliest",
            stream_wait_empty=False,
            autodiscover=False,
            stream_buffer_maxsize=stream_buffer,
        )

        @app.agent(app.topic(topic, key_type=bytes, value_type=bytes))
        async def agent(stream: Any) -> None:
            await process(app, stream)

        await app.start()
        await done.wait()
