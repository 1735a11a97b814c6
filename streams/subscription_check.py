"""Checking subscriptions: records of the compacted topic that are no subscriptions go to quarantine, each once.

Every worker's table meets such a record at every start, and only logs it; this stage is a member of the fan-out group,
so one worker meets it once. What can be read of it is kept without its secrets. This file does not keep subscriptions
(`connectors/subscriptions.py` does).
"""

from __future__ import annotations

from schemas.errors import UndecodableError
from schemas.frame import Frame, Out, Record
from schemas.subscription_codec import SubscriptionDecoder
from schemas.topics import Topics
from streams.counters import Counters
from streams.lookup import schema_text
from streams.ports import Registry
from streams.quarantine import quarantined
from streams.settle import Settler


class SubscriptionCheck:
    """The stage; one per fan-out worker."""

    def __init__(self, topics: Topics, registry: Registry, settler: Settler, counters: Counters) -> None:
        self._topics = topics
        self._registry = registry
        self._settler = settler
        self._counters = counters
        self._decoder = SubscriptionDecoder()

    async def process(self, frame: Frame) -> None:
        """Check a frame and hand what is bad to the settler, with the offsets of all."""
        if not frame.ledger.live or frame.ledger.retiring:
            return
        done = frame.open()
        outs: list[Out] = []
        for record in frame.records:
            done.append(record.offset())
            try:
                await self._check(record)
            except UndecodableError as error:
                place = (self._topics.quarantine, frame.topic, frame.partition)
                topic, key, value, partition, headers = quarantined(*place, record, error, self._counters)
                # The record itself stands on the compacted topic until it is replaced; its copy would outlive that.
                outs.append((topic, key, self._decoder.without_secrets(value), partition, headers))
        self._settler.settle(frame.topic, frame.partition, frame.ledger, done, outs)
        await self._settler.room()

    async def _check(self, record: Record) -> None:
        value = record.value()
        wanted = self._decoder.wanted(value)
        if wanted is not None:
            self._decoder.learn(wanted, await schema_text(self._registry, wanted, self._counters))
        self._decoder.decode(record.key(), value)
