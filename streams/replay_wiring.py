"""What the API and the command line share to order replays: where records go, ids, and the rules of what may be asked.

Part of the composition root. What an order is stands in `connectors/replay_desk.py`; `streams/replay.py` does it.
"""

from __future__ import annotations

import secrets

from connectors.pen import Pen
from connectors.replay_desk import ReplayDesk, ReplayTopics, Rules
from connectors.replays import ProgressTable, ReplaysTable
from schemas.codec import wire_header
from schemas.replay import REPLAY_PREFIX
from schemas.topics import Topics
from streams.core.replay import doubled, may_want
from streams.settings import Settings
from streams.wiring import OwnSchemas


def replay_topics(topics: Topics, own: OwnSchemas) -> ReplayTopics:
    """With the ids of our schemas."""
    return ReplayTopics(topics.replays, wire_header(own.replay), topics.audit, wire_header(own.audit_record))


def new_replay_id() -> str:
    """One that nobody has."""
    return f"{REPLAY_PREFIX}{secrets.token_hex(8)}"


def replay_desk(
    settings: Settings, own: OwnSchemas, pen: Pen, orders: ReplaysTable, progresses: ProgressTable
) -> ReplayDesk:
    """Where replays are ordered."""
    return ReplayDesk(
        orders,
        progresses,
        pen,
        replay_topics(settings.topics, own),
        new_replay_id,
        Rules(doubled, may_want),
        tenant_rate_max=settings.replay_rate_max,
    )
