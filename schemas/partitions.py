"""Which partition a key belongs to, as the Java clients' default partitioner and librdkafka's `murmur2` have it.

This file knows no topic.
"""

from __future__ import annotations


def murmur2(data: bytes) -> int:
    """How Kafka's Java clients find a key's partition: 32-bit MurmurHash2 with seed 0x9747b28c, unsigned."""
    factor, mask = 0x5BD1E995, 0xFFFF_FFFF
    mixed = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * factor & mask
        word = (word ^ word >> 24) * factor & mask
        mixed = mixed * factor & mask ^ word
    if rest := data[whole:]:
        mixed = (mixed ^ int.from_bytes(rest, "little")) * factor & mask
    mixed = (mixed ^ mixed >> 13) * factor & mask
    return mixed ^ mixed >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of records with this key, of a topic with so many."""
    return (murmur2(key) & 0x7FFF_FFFF) % partitions
