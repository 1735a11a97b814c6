"""The HTTP API: what customers and operators do over HTTP, which is to write to Kafka and to read its tables.

`routes.py` has the words (route, call, reply, problem), `table.py` the list of all routes, `app.py` the dispatcher;
every other module holds the routes of one noun. Nothing here imports `streams`: what it needs comes as services.
"""
