"""How the world is touched: Kafka, HTTP, schema registries and the clock: edges that know `schemas` only.

Nothing here decides what is delivered, and nothing here imports `streams`.
"""
