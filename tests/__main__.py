"""`python -m tests`: the whole suite as two pytest runs side by side, each with a Kafka of its own.

Most of what tests/integration does is wait for Kafka, while most of the rest computes: together they take as long as
the first alone. What the second run says is printed when it is over. With arguments, one pytest gets them all.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SLOW = HERE / "integration"


def main(arguments: list[str]) -> int:
    """The exit code: 0 when both runs passed."""
    pytest = [sys.executable, "-m", "pytest"]
    if arguments:
        return subprocess.call([*pytest, *arguments])
    others = sorted(str(each.parent) for each in HERE.glob("*/test_*.py") if each.parent != SLOW)
    with tempfile.TemporaryFile() as said:
        beside = subprocess.Popen(
            [*pytest, "-p", "no:cacheprovider", *dict.fromkeys(others)], stdout=said, stderr=subprocess.STDOUT
        )
        try:
            code = subprocess.call([*pytest, str(SLOW)])
            code = beside.wait() or code
        finally:
            beside.kill()
            beside.wait()
        said.seek(0)
        sys.stdout.flush()
        sys.stdout.buffer.write(said.read())
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
