"""How often similar hits are wrong: told, checked, counted, and kept within the budget."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from similar_calls import SECOND, THIRD, chat

from aiopromptcache import CacheStatus, ConfigurationError, PromptCache, cache_status
from aiopromptcache.similarity._budget import Budget
from aiopromptcache.similarity._calibrate import bound
from aiopromptcache.testing import OpenAIServer

pytestmark = pytest.mark.anyio


async def settle(cache: PromptCache) -> None:
    """Until nothing goes on in the background."""
    similar = cache._engine.similar
    assert similar is not None
    while similar._tasks or cache._engine.refreshes._tasks or len(cache._engine.flights):
        await asyncio.sleep(0)


async def test_a_reported_hit_is_not_given_again_and_counts(
    server: OpenAIServer, make: Any, matcher: Any
) -> None:
    cache, client = make(matcher())
    await chat(client)
    status = cache_status(await chat(client, SECOND))
    cache.report_false_hit(status)
    cache.report_false_hit(status)
    stats = cache.stats
    assert (stats.similar_hits, stats.false_hits, stats.false_hit_rate) == (1, 1, 1.0)
    assert stats.false_hit_bound == 1.0
    assert not cache_status(await chat(client, SECOND)).hit  # type: ignore[union-attr]
    assert stats.similarity_threshold == 0.8  # there is no budget to keep to
    assert stats.as_dict()["false_hits"] == 1
    assert "1 known to be wrong" in str(stats)
    assert server.calls == 2


async def test_what_is_no_similar_hit_cannot_be_reported(make: Any, lexical: Any) -> None:
    cache, client = make(lexical())
    status = cache_status(await chat(client))
    for wrong in (status, None, "key"):
        with pytest.raises(ConfigurationError, match="status"):
            cache.report_false_hit(wrong)
    async with PromptCache() as other:
        with pytest.raises(ConfigurationError, match="similarity"):
            other.report_false_hit(CacheStatus("k", similarity=0.9, asked_key="a"))


async def test_reports_tighten_where_there_is_a_budget(
    server: OpenAIServer, make: Any, matcher: Any
) -> None:
    cache, client = make(matcher(max_error=0.02))
    await chat(client)
    status = cache_status(await chat(client, SECOND))
    assert status is not None
    cache.report_false_hit(status)
    assert cache.stats.similarity_threshold > status.similarity  # type: ignore[operator]
    assert cache.stats.false_hit_rate is None  # of this threshold nothing is known
    with cache.control(similarity=0.5):  # a number does not get below what was learnt
        assert not cache_status(await chat(client, f"{SECOND} ")).hit  # type: ignore[union-attr]


async def test_a_shadow_check_asks_the_upstream_too(
    server: OpenAIServer, make: Any, matcher: Any, events: Any
) -> None:
    judged: list[tuple[str, Any, Any]] = []

    async def judge(question: str, served: Any, fresh: Any) -> bool:
        judged.append((question, served, fresh))
        return True

    cache, client = make(matcher(shadow=1.0, judge=judge))
    first = await chat(client)
    status = cache_status(await chat(client, SECOND))
    assert status is not None
    assert status.similarity
    await settle(cache)
    assert server.calls == 2
    [(question, served, fresh)] = judged
    assert (question, served["id"]) == (SECOND, first.id)
    assert fresh["id"] != first.id
    stats = cache.stats
    assert (stats.false_hits, stats.false_hit_rate) == (0, 0.0)
    assert stats.false_hit_bound == pytest.approx(bound(0, 1, 0.95))
    exact = cache_status(await chat(client, SECOND))  # it was paid for, so it is kept
    assert exact is not None
    assert (exact.hit, exact.similarity) == (True, None)
    assert (stats.requests, stats.hits, stats.misses, stats.upstream_calls) == (3, 2, 1, 2)


async def test_a_check_that_finds_it_wrong_counts_and_tightens(
    server: OpenAIServer, make: Any, matcher: Any
) -> None:
    cache, client = make(
        matcher(shadow=1.0, judge=lambda question, served, fresh: False, max_error=0.1)
    )
    await chat(client)
    with cache.control(no_store=True):
        status = cache_status(await chat(client, SECOND))
    assert status is not None
    await settle(cache)
    assert cache.stats.false_hits == 1
    assert cache.stats.similarity_threshold > status.similarity  # type: ignore[operator]
    cache.report_false_hit(status)  # the same one
    assert cache.stats.false_hits == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_crowd_is_checked_once(
    server: OpenAIServer, make: Any, semantic: Any, embed: Any, stream: bool
) -> None:
    judged: list[Any] = []

    def judge(question: str, served: Any, fresh: Any) -> bool:
        judged.append(fresh)
        return True

    cache, client = make(semantic(shadow=1.0, judge=judge))
    await chat(client)
    answers = await asyncio.gather(*[chat(client, SECOND, stream=stream) for _ in range(20)])
    assert all(cache_status(answer).similarity for answer in answers)  # type: ignore[union-attr]
    await settle(cache)
    assert len(judged) == 1
    assert judged[0]["choices"]
    assert server.calls == 2


async def test_a_failing_check_is_nobodys_trouble(
    server: OpenAIServer, make: Any, lexical: Any
) -> None:
    def judge(question: str, served: Any, fresh: Any) -> bool:
        raise ZeroDivisionError

    cache, client = make(lexical(shadow=1.0, judge=judge))
    await chat(client)
    assert cache_status(await chat(client, SECOND)).similarity  # type: ignore[union-attr]
    await settle(cache)
    server.fail(500)
    assert cache_status(await chat(client, THIRD)).similarity  # type: ignore[union-attr]
    await settle(cache)
    assert cache.stats.errors == 2
    assert cache.stats.false_hit_bound == 1.0 or cache.stats.false_hits == 0


async def test_closing_ends_a_check(server: OpenAIServer, make: Any, lexical: Any) -> None:
    cache, client = make(lexical(shadow=1.0, judge=lambda *texts: True))
    await chat(client)
    server.hold()
    assert cache_status(await chat(client, SECOND)).similarity  # type: ignore[union-attr]
    await server.wait_active(1)
    await cache.aclose()
    await server.wait_disconnects(1)
    server.release()


async def test_only_if_cached_is_never_checked(
    server: OpenAIServer, make: Any, lexical: Any
) -> None:
    cache, client = make(lexical(shadow=1.0, judge=lambda *texts: True))
    await chat(client)
    with cache.control(only_if_cached=True):
        assert cache_status(await chat(client, SECOND)).similarity  # type: ignore[union-attr]
    await settle(cache)
    assert server.calls == 1


def test_an_estimate_begins_with_nothing() -> None:
    budget = Budget(0.9, 0.02, 0.95)
    assert (budget.rate, budget.bound, budget.false_hits, budget.threshold) == (None, None, 0, 0.9)


def test_within_the_budget_the_threshold_stays() -> None:
    budget = Budget(0.9, 0.02, 0.95)
    for _ in range(99):
        budget.checked(0.95, right=True)
    budget.checked(0.91, right=False)
    assert (budget.threshold, budget.rate) == (0.9, 0.01)
    assert budget.bound == pytest.approx(bound(1, 100, 0.95))


def test_past_it_the_lowest_step_is_taken_that_is_within_it() -> None:
    budget = Budget(0.8, 0.1, 0.95)
    for number in range(90):
        budget.checked(0.8 + number / 500, right=True)
    for score in (0.81, 0.82, 0.83, 0.84, 0.85, 0.95, 0.96):
        budget.checked(score, right=False)
    budget.checked(0.805, right=False)
    assert budget.threshold == 0.8
    for _ in range(3):
        budget.checked(0.815, right=False)
    assert budget.threshold == pytest.approx(0.81)
    assert budget.threshold > 0.81
    assert budget.rate is not None
    assert budget.rate <= 0.1


def test_reports_count_over_all_hits_and_checks_over_those_checked() -> None:
    budget = Budget(0.8, None, 0.95)
    for _ in range(50):
        budget.served(0.9)
    budget.reported(0.9)
    assert budget.rate == 0.02
    assert budget.bound == pytest.approx(bound(1, 50, 0.95))
    budget.checked(0.9, right=True)
    budget.checked(0.9, right=False)
    assert budget.rate == 0.5
    assert budget.false_hits == 2
    assert budget.bound == pytest.approx(max(bound(1, 2, 0.95), bound(1, 50, 0.95)))


def test_the_threshold_never_falls_and_can_shut_all_out() -> None:
    budget = Budget(0.8, 0.0, 0.95)
    budget.served(1.0)
    budget.reported(1.0)
    assert budget.threshold > 1
    budget.served(0.9)
    budget.reported(0.9)
    assert budget.threshold > 1
