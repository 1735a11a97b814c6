"""What a database of attempts promises, on SQLite and on PostgreSQL: each batch once and whole, searches in pages that
miss nothing, latencies, retention in steps, one who writes."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from connectors.history.attempts import HistoryUnavailableError, LoggedAttempt, Place
from connectors.history.histogram import HOUR_MS, percentile_us
from connectors.history.sql_store import TRIM_ROWS, WINDOW_MIN, SqlStore
from connectors.history.store import Batch, HistoryStore, Span, StoreMismatchError, Wanted
from connectors.history.stores import open_store
from connectors.memory import ManualClock
from tests.attempts import T0, attempt


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'a ?%.db'}"
    database: str = request.getfixturevalue("database")
    return database


def opened(url: str) -> SqlStore:
    return open_store(url, ManualClock().monotonic)  # no search runs out of time


@asynccontextmanager
async def writer(url: str) -> AsyncIterator[SqlStore]:
    store = opened(url)
    try:
        assert await store.acquire("attempts") is not None
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlStore]:
    async with writer(url) as made:
        yield made


def batch(attempts: list[LoggedAttempt], start: int | None, end: int, partition: int = 0) -> Batch:
    return Batch(attempts, {partition: Span(start, end)})


async def fill(store: HistoryStore, attempts: list[LoggedAttempt]) -> None:
    """All of them at once, into positions of their own."""
    await store.write(Batch(attempts, {99: Span(None, 1)}))


async def found(store: HistoryStore, *, limit: int = 500, **wanted: Any) -> list[int]:
    """The offsets of all pages."""
    offsets: list[int] = []
    before = None
    while True:
        page = await store.search(Wanted(**wanted), limit=limit, before=before)
        assert len(page.attempts) <= limit
        offsets += [each.offset for each in page.attempts]
        before = page.next
        if before is None:
            return offsets


async def test_what_is_written_is_read_back_field_for_field(store: SqlStore) -> None:
    whole = attempt(
        7,
        partition=3,
        attempt=2,
        outcome="retryable",
        status=0,
        cause="timeout",
        detail="it's a 100% \\ “detail”?",
        excerpt=b'{\n\t"a": 1}',
        subject="o-1",
        due_ms=2**53,
        duration_us=30_000_000,
    )
    bare = attempt(8, event_time_ms=-1, excerpt=b"\xffok")
    await fill(store, [whole, bare])
    page = await store.search(Wanted(), limit=10)
    assert page.attempts[1] == whole
    assert page.attempts[0].excerpt == "\ufffdok".encode()
    assert (page.next, page.partial) == (None, False)
    assert await store.find("dlv_7") == whole
    assert await store.find("dlv_none") is None


async def test_positions_are_where_the_last_batch_ended(store: SqlStore, url: str) -> None:
    await store.write(Batch([attempt(5)], {0: Span(None, 6), 4: Span(None, 100)}))
    await store.write(Batch([attempt(6), attempt(7)], {0: Span(6, 9)}))
    await store.release()
    again = opened(url)
    assert await again.acquire("attempts") == {0: 9, 4: 100}
    assert await found(again) == [7, 6, 5]
    await again.close()


@pytest.mark.parametrize("start", [None, 3, 7])
async def test_a_batch_that_does_not_begin_where_the_store_is_changes_nothing(
    store: SqlStore, start: int | None
) -> None:
    await store.write(batch([attempt(5)], None, 6))
    with pytest.raises(StoreMismatchError, match="another process has written"):
        await store.write(Batch([attempt(8)], {1: Span(None, 9), 0: Span(start, 9)}))
    assert await found(store) == [5]
    await store.write(batch([attempt(6)], 6, 7))
    assert await found(store) == [6, 5]


async def test_a_batch_with_a_record_twice_changes_nothing(store: SqlStore) -> None:
    with pytest.raises(HistoryUnavailableError):
        await store.write(batch([attempt(5), attempt(5)], None, 6))
    with pytest.raises(HistoryUnavailableError, match="not held"):
        await store.write(batch([attempt(5)], None, 6))
    assert await store.acquire("attempts") == {}
    assert await found(store) == []
    assert (await store.latencies("s1", 0, T0 * 2)).counts == {"attempt": {}, "delivered": {}}


async def test_one_writes_at_a_time(store: SqlStore, url: str) -> None:
    second = opened(url)
    assert await second.acquire("attempts") is None
    with pytest.raises(HistoryUnavailableError, match="not held"):
        await second.write(batch([], None, 1))
    await store.write(batch([attempt(5)], None, 6))
    assert await found(second) == [5], "reading needs no lock"
    await store.release()
    assert await second.acquire("attempts") == {0: 6}
    assert await store.acquire("attempts") is None
    await second.close()
    assert await store.acquire("attempts") == {0: 6}


async def test_a_store_of_another_topic_is_refused(store: SqlStore, url: str) -> None:
    await store.release()
    with pytest.raises(StoreMismatchError, match="holds attempts of the topic attempts"):
        await store.acquire("b.attempts")
    assert await store.acquire("attempts") == {}


async def test_every_question_is_answered_alone_and_together(store: SqlStore) -> None:
    await fill(
        store,
        [
            attempt(1),
            attempt(2, outcome="retryable", status=503, detail="Service_Unavailable", due_ms=1),
            attempt(3, subscription_id="s2", tenant="other", outcome="exhausted", status=0, cause="timeout"),
            attempt(4, delivery_id="dlv_2", event_id="evt_2", attempt=2, excerpt=b"Bad Thing 100%"),
            attempt(5, event_id="evt_2", subscription_id="s2", event_type="user.gone", outcome="rejected", status=410),
            attempt(6, event_id="evt_x\x00y"),
        ],
    )
    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [6, 5, 4, 3, 2, 1]),
        ({"delivery_id": "dlv_2"}, [4, 2]),
        ({"event_id": "evt_2"}, [5, 4, 2]),
        ({"event_id": "evt_2", "subscription_id": "s2"}, [5]),
        ({"subscription_id": "s2"}, [5, 3]),
        ({"subscription_id": "s2", "tenant": "acme"}, [5]),
        ({"tenant": "other"}, [3]),
        ({"tenant": "nobody"}, []),
        ({"outcomes": ("retryable", "rejected")}, [5, 2]),
        ({"outcomes": ("delivered",), "subscription_id": "s1"}, [6, 4, 1]),
        ({"outcomes": ("delivered", "retryable"), "subscription_id": "s1"}, [6, 4, 2, 1]),
        ({"outcomes": ("retryable",), "subscription_id": "s1"}, [2]),
        ({"outcomes": ("exhausted", "rejected"), "tenant": "acme"}, [5]),
        ({"status": (500, 599)}, [2]),
        ({"status": (0, 0)}, [3]),
        ({"since_ms": T0 + 3_000}, [6, 5, 4, 3]),
        ({"until_ms": T0 + 3_000}, [2, 1]),
        ({"since_ms": T0 + 2_000, "until_ms": T0 + 4_000, "tenant": "acme"}, [2]),
        ({"text": "service_un"}, [2]),
        ({"text": "serviceXun"}, []),
        ({"text": "bad thing 100%"}, [4]),
        ({"text": "%"}, [4]),
        ({"text": "TIMEOUT"}, [3]),
        ({"text": "user."}, [5]),
        ({"event_id": "evt_x\x00y"}, [6]),
    ]
    for wanted, offsets in cases:
        for limit in (1, 2, 500):
            assert await found(store, limit=limit, **wanted) == offsets, wanted


async def test_pages_miss_nothing_when_few_of_many_fit(store: SqlStore) -> None:
    count = 5 * WINDOW_MIN
    await fill(
        store,
        [
            attempt(n, started_ms=T0 + n // 7, status=500 if n % 100 == 0 else 200, partition=n % 3)
            for n in range(count)
        ],
    )
    every = await found(store)
    assert sorted(every) == list(range(count))
    assert sorted(await found(store, limit=3, status=(500, 500), tenant="acme"), reverse=True) == [
        n for n in reversed(range(count)) if n % 100 == 0
    ]


async def test_a_search_ends_at_its_time_and_goes_on(url: str, store: SqlStore) -> None:
    await fill(store, [attempt(n, status=500 if n == 0 else 200) for n in range(2 * WINDOW_MIN)])
    hasty = open_store(url, itertools.count(step=10).__next__)  # each look at the clock is 10 s later
    page = await hasty.search(Wanted(status=(500, 500)), limit=5)
    assert (page.attempts, page.partial) == ([], True)
    assert page.next is not None
    page = await hasty.search(Wanted(status=(500, 500)), limit=5, before=page.next)
    assert [each.offset for each in page.attempts] == [0]
    await hasty.close()


async def test_the_api_asks_its_own_questions_too(store: SqlStore) -> None:
    await fill(store, [attempt(n, outcome="delivered" if n % 2 else "retryable") for n in range(600)])
    asked: list[int] = []

    def wants(each: LoggedAttempt) -> bool:
        asked.append(each.offset)
        return each.offset % 100 == 0

    page = await store.page("s1", wants, limit=3, outcomes={"retryable", "rejected"}, until_ms=T0 + 500_000)
    assert [each.offset for each in page.attempts] == [500, 400, 300]
    assert all(offset % 2 == 0 for offset in asked)
    page = await store.page("s1", wants, limit=3, before=page.next, since_ms=T0 + 150_000)
    assert [each.offset for each in page.attempts] == [200]
    assert page.next is None
    assert (await store.page("s2", wants, limit=3)).attempts == []


async def test_latencies_add_up_by_hour(store: SqlStore) -> None:
    hour = T0 // HOUR_MS * HOUR_MS
    first = [attempt(n, started_ms=hour + n, received_ms=hour, duration_us=1_000 * (n + 1)) for n in range(100)]
    late = [attempt(200, started_ms=hour + HOUR_MS, duration_us=9_000_000, outcome="retryable", status=500)]
    silent = [attempt(201, started_ms=hour, outcome="cancelled", status=0, duration_us=0)]
    await store.write(batch(first[:50], None, 50))
    await store.write(batch(first[50:] + late + silent, 50, 300))
    counts = (await store.latencies("s1", hour, hour)).counts
    assert sum(counts["attempt"].values()) == sum(counts["delivered"].values()) == 100
    median = percentile_us(counts["attempt"], 0.5)
    assert median is not None
    assert 50_000 <= median < 50_000 * 1.1
    both = (await store.latencies("s1", hour + 1, hour + HOUR_MS)).counts
    assert sum(both["attempt"].values()) == 101
    assert sum(both["delivered"].values()) == 100
    assert not (await store.latencies("s2", hour, hour)).counts["attempt"]


async def test_retention_removes_what_is_old_in_steps(store: SqlStore) -> None:
    count = TRIM_ROWS + 100
    await fill(store, [attempt(n, started_ms=T0 + n) for n in range(count)] + [attempt(count, started_ms=T0 + HOUR_MS)])
    assert await store.trim(T0 + TRIM_ROWS + 50, 10**9) is True
    assert len(await found(store)) == count + 1 - TRIM_ROWS
    assert await store.trim(T0 + TRIM_ROWS + 50, 10**9) is False
    assert await found(store) == [count, *reversed(range(TRIM_ROWS + 50, count))]
    hours = (await store.latencies("s1", 0, T0 * 2)).counts["attempt"]
    assert sum(hours.values()) == count + 1, "the hour is not over"
    while await store.trim(T0 + HOUR_MS, 10**9):
        pass
    assert await found(store) == [count]
    assert sum((await store.latencies("s1", 0, T0 * 2)).counts["attempt"].values()) == 1


async def test_retention_keeps_so_many(store: SqlStore) -> None:
    count = TRIM_ROWS + 20
    await fill(store, [attempt(n) for n in range(count)])
    assert await store.trim(0, 10) is True
    assert await store.trim(0, 10) is False
    assert await found(store) == list(reversed(range(count - 10, count)))
    await store.write(batch([attempt(count)], None, count + 1))
    assert await store.trim(0, 10) is False
    assert await found(store) == list(reversed(range(count - 9, count + 1)))


async def test_a_page_begins_before_any_place(store: SqlStore) -> None:
    await fill(store, [attempt(n, started_ms=T0) for n in range(10)])
    page = await store.search(Wanted(), limit=3, before=Place(T0, 0, 5))
    assert [each.offset for each in page.attempts] == [4, 3, 2]


async def test_what_was_never_filled_is_said(url: str) -> None:
    empty = opened(url)
    with pytest.raises(HistoryUnavailableError, match="`distributary history` has run"):
        await empty.search(Wanted(), limit=1)
    await empty.close()


async def test_a_file_in_a_folder_that_there_is_not_is_said_to_who_writes(tmp_path: Path) -> None:
    nowhere = opened(f"sqlite:///{tmp_path / 'none' / 'a.db'}")
    with pytest.raises(HistoryUnavailableError, match=r"unable to open .*; check that it can be reached and written"):
        await nowhere.acquire("attempts")
    await nowhere.close()
