"""The command line: one file per group of commands, and four that they share.

`commands.py` lists them and imports each when it is called, `running.py` runs them and turns errors into sentences,
`options.py` holds options and settings, `output.py` prints, `values.py` decodes. Commands hold no logic that another
program would need: that is in `connectors` and in the composition root.
"""

from __future__ import annotations

import signal
import threading

# The imports take a second, or many on a busy machine: Ctrl-C ends the process meanwhile, without Python's traceback.
_importing = (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
)
if _importing:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from streams.cli.root import main  # noqa: E402 - between the two, as said

if _importing:
    signal.signal(signal.SIGINT, signal.default_int_handler)

__all__ = ["main"]
