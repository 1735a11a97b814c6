"""The Faust transport `frames://` with our ledger: what Faust's entry point loads.

Part of the composition root: the one place where the transport (connectors) and the ledger (core) meet.
"""

from __future__ import annotations

from connectors import frames
from streams.core.ledger import Ledger


class Transport(frames.Transport):
    """An agent of any Faust app receives frames with `broker="frames://host:9092"`; finished frames are committed."""

    def default_settings(self) -> frames.FrameSettings:
        return frames.FrameSettings(ledger=lambda topic, partition, position, metadata: Ledger(position, metadata))
