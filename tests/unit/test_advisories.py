"""Advisories are found, ignored with a reason, and missed without a fuss where nobody can be asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from connectors.local_kafka import steady_ports
from tests.advisories import UnreachableError, look_up, main, pinned

PINS = {"good": "1.0", "old": "0.9"}


@pytest.fixture
async def database() -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Its URL, and what it answers by package, or to everything."""
    answers: dict[str, Any] = {}

    async def answer(request: web.Request) -> web.Response:
        asked = (await request.json())["queries"]
        assert all(query["package"]["ecosystem"] == "PyPI" and query["version"] for query in asked)
        found = [answers.get(query["package"]["name"], {}) for query in asked]
        return web.json_response(answers.get("*", {"results": found}))

    app = web.Application(client_max_size=1 << 20)
    app.router.add_post("/", answer)
    async with TestServer(app) as server:
        yield str(server.make_url("/")), answers


def test_pins_are_read_with_and_without_markers() -> None:
    text = "a-b==1.0 \\\n    --hash=sha256:00\nc==2 ; python_version < '3' \\\n    --hash=sha256:01\n"
    assert pinned(text) == {"a-b": "1.0", "c": "2"}


async def test_advisories_are_told_unless_they_are_ignored(database: tuple[str, dict[str, Any]]) -> None:
    url, answers = database
    assert await asyncio.to_thread(look_up, PINS, url) == []
    answers["old"] = {"vulns": [{"id": "GHSA-1"}, {"id": "GHSA-2"}]}
    found = await asyncio.to_thread(lambda: look_up(PINS, url, ignored={"GHSA-1": "we do not use that part"}))
    assert [line.partition(";")[0] for line in found] == ["old 0.9: GHSA-2"]


async def test_the_check_fails_for_an_advisory_only(
    database: tuple[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    url, answers = database
    assert await asyncio.to_thread(main, url) == 0
    answers["aiohttp"] = {"vulns": [{"id": "GHSA-3"}]}
    assert await asyncio.to_thread(main, url) == 1
    assert "GHSA-3; upgrade it" in capsys.readouterr().out


@pytest.mark.parametrize("answer", [{}, [], {"results": [{}]}, {"results": 7}, "no"])
async def test_an_answer_that_is_none_is_as_good_as_no_answer(
    database: tuple[str, dict[str, Any]], answer: Any
) -> None:
    url, answers = database
    answers["*"] = answer
    with pytest.raises(UnreachableError):
        await asyncio.to_thread(look_up, PINS, url)


def test_where_nobody_answers_it_says_so_and_passes(capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = steady_ports(1)
    assert main(f"http://127.0.0.1:{port}/") == 0
    assert "not looked up" in capsys.readouterr().out
