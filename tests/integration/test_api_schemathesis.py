"""Schemathesis against the running API: whatever its document allows, and what it does not, is answered as documented.

No answer is a 5xx, none has a status, a media type, a header or a body that the document does not have.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

from streams.api_app import api_app
from streams.settings import Settings
from tests.integration.test_api import KEYS, settings

__all__ = ["settings"]  # the fixture

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
EXAMPLES = 5


@pytest.mark.timeout(400)
async def test_every_answer_is_documented(settings: Settings, tmp_path: Path) -> None:
    async with api_app(settings, KEYS) as app, TestServer(app) as server:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).parent / "schemathesis"),
            "run",
            str(server.make_url("/v1/openapi.json")),
            "--header=Authorization: Bearer operator",
            f"--checks={','.join(CHECKS)}",
            f"--max-examples={EXAMPLES}",
            "--phases=examples,coverage,fuzzing,stateful",
            "--seed=1",
            "--generation-database=none",
            "--suppress-health-check=all",
            "--request-timeout=120",
            "--exclude-path=/v1/events/listen",  # an answer without an end: tests/integration/test_listen.py
            "--continue-on-failure",
            "--no-color",
            "--warnings=off",  # most ids that it makes up do not exist
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, said.decode()
    # All operations were asked, also those of other modules.
    assert re.search(r"([1-9][0-9]{2,}) generated, \1 passed", said.decode()), said.decode()
