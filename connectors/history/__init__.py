"""What became of deliveries: the topic of attempts, read backwards, or materialised in SQLite or PostgreSQL.

`attempts.py` has the words and the port that the API asks; `topic.py` answers from Kafka alone, `sql_store.py` from a
database that `ingest.py` fills. Nothing of the data path needs any of it.
"""
