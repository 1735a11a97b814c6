"""`python -m streams.cli` is `distributary`, for children that must not depend on the PATH."""

from __future__ import annotations

from streams.cli import main

main()
