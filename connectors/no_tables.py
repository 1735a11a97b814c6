"""Faust's table manager for apps that have no tables: it starts at once.

Faust's own waits for a second, so that tables and streams are declared before the app subscribes; that was most of a
worker's start, once for each role. Here agents are started before this is, and an agent's topics are known to the app
as soon as it has started. No table ever lives here: what is followed as one is a compacted topic
(`connectors/compacted.py`).
"""

from __future__ import annotations

from faust.tables import TableManager


class NoTables(TableManager):
    """Starts as Faust's own does, without the second."""

    async def on_start(self) -> None:
        """The app may subscribe."""
        await self._update_channels()
        await self.recovery.start()
