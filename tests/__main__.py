"""`python -m tests`: the whole suite by several processes at a time, with one Kafka for all of them.

Most of tests/integration waits for Kafka, and comes first; what computes fills the gaps. A file's tests stay together
and in order. With arguments, one pytest gets them all, and starts a Kafka when a test asks for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from connectors.local_kafka import kafka_cluster
from tests.conftest import BOOTSTRAP

HERE = Path(__file__).parent
FIRST = HERE / "integration"
#: More than cores, since most of a test is waiting; not many more, since deadlines are not.
PROCESSES = min(6, (os.cpu_count() or 1) + 1)


def main(arguments: list[str]) -> int:
    """The exit code: 0 when all tests passed."""
    pytest = [sys.executable, "-m", "pytest"]
    if arguments:
        return subprocess.call([*pytest, *arguments])
    others = sorted({str(each.parent) for each in HERE.glob("*/test_*.py")} - {str(FIRST)})
    shared = [f"--numprocesses={PROCESSES}", "--dist=loadfile", "--no-loadscope-reorder"]
    with kafka_cluster(given=os.environ.get("DISTRIBUTARY_BOOTSTRAP")) as cluster:
        environment = {**os.environ, BOOTSTRAP: cluster.bootstrap}
        return subprocess.call([*pytest, *shared, str(FIRST), *others], env=environment)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
