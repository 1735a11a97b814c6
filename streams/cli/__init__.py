"""The command line: one file per group of commands, and four that they share.

`root.py` puts them together, `running.py` runs them and turns errors into sentences, `options.py` holds options and
settings, `output.py` prints, `values.py` decodes. Commands hold no logic that another program would need:
that is in `connectors` and in the composition root.
"""

from __future__ import annotations

from streams.cli.root import main

__all__ = ["main"]
