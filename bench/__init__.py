"""Measurements: each figure next to its reference in the same run, in CPU seconds of the process that does the work.

`python -m bench` runs all, `python -m bench NAME` one. Nothing here asserts anything: figures are for people.
"""
