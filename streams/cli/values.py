"""Values of records for people and programs, for commands: see `streams/values.py`."""

from __future__ import annotations

from schemas.subscription_codec import subscription_value
from streams.values import Values, iso, readable

__all__ = ["Values", "iso", "readable", "subscription_value"]
