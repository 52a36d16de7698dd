"""Similar hits across processes: questions that only another cache has seen."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import redis.asyncio
from servers import Server, free_port
from similar_calls import FIRST, OTHER, SECOND, Embed, chat

from aiopromptcache import CacheEvent, MemoryTier, Policy, PromptCache, RedisTier, cache_status
from aiopromptcache.similarity import LexicalSimilarity, SemanticSimilarity
from aiopromptcache.testing import OpenAIServer, VirtualClock

pytestmark = pytest.mark.anyio

PLAIN = pytest.param(("asyncio", {}), id="asyncio")
UVLOOP = pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")
BOOK = "aiopromptcache:{default}:q"


@pytest.fixture(params=[PLAIN, UVLOOP])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """These tests go by real time, so not in debug mode."""
    return request.param


@pytest.fixture(scope="module")
def eight() -> Iterator[Server]:
    """A Redis 8 that no test breaks."""
    with Server("redis") as server:
        yield server


@pytest.fixture(scope="module")
def breakable() -> Iterator[Server]:
    """One for tests that break it."""
    with Server("redis") as server:
        yield server


@pytest.fixture
def url(eight: Server) -> str:
    """An empty database."""
    eight.command("FLUSHALL")
    return eight.url


class Process:
    """A cache and its client, as another process would have them."""

    def __init__(self, cache: PromptCache, client: Any, events: list[CacheEvent]) -> None:
        self.cache = cache
        self.client = client
        self.events = events

    @property
    def shared(self) -> Any:
        """Its view of the questions that are shared."""
        return self.cache._engine.similar._shared  # type: ignore[union-attr]

    async def asks(self, text: str = FIRST, **params: Any) -> Any:
        """Ask, and wait until what is learnt is shared; the status."""
        answer = await chat(self.client, text, **params)
        while learning := self.cache._engine.similar._tasks:  # type: ignore[union-attr]
            await asyncio.wait(learning)
        while self.shared is not None and (task := self.shared._sharing) and not task.done():
            await asyncio.wait([task])
        status: Any = cache_status(answer)
        return status

    async def looks(self, text: str = SECOND, **params: Any) -> Any:
        """Ask, and leave no trace."""
        with self.cache.control(no_store=True):
            return await self.asks(text, **params)


@pytest.fixture
def process(server: OpenAIServer, embed: Embed) -> Any:
    """Makes them."""

    @asynccontextmanager
    async def process(
        where: Any, matcher: Any = None, memory: bool = True, tier: Any = None, **options: Any
    ) -> AsyncIterator[Process]:
        matcher = matcher or SemanticSimilarity(embed, 0.8)
        remote = RedisTier(where, **{"timeout": 2.0, **(tier or {})})
        tiers = [MemoryTier(), remote] if memory else [remote]
        events: list[CacheEvent] = []
        async with PromptCache(
            *tiers, similarity=matcher, hooks=[events.append], **options
        ) as cache, server.client() as bare:  # fmt: skip
            yield Process(cache, cache.wrap(bare), events)

    return process


@pytest.fixture
async def raw(url: str, anyio_backend: Any) -> AsyncIterator[redis.asyncio.Redis]:
    """A client of the test's own, to look at what is really there."""
    async with redis.asyncio.Redis.from_url(url, protocol=2) as client:
        yield client


async def sets(raw: Any) -> list[bytes]:
    """The sets of questions."""
    return sorted([key async for key in raw.scan_iter(match=BOOK + ":*", count=1_000)])


async def members(raw: Any) -> set[str]:
    """The keys of all questions that are shared."""
    found: set[str] = set()
    for key in await sets(raw):
        found |= {m.decode() for m in await raw.execute_command("VRANDMEMBER", key, 1_000)}
    return found


def vector(text: str) -> bytes:
    """What a process shares of a text."""
    row = np.asarray(Embed.vector(text), np.float32)
    return bytes((row / np.linalg.norm(row)).astype("<f4").tobytes())


@pytest.mark.parametrize("memory", [True, False])
async def test_what_one_has_stored_answers_the_others(
    server: OpenAIServer, url: str, process: Any, memory: bool
) -> None:
    async with process(url, memory=memory) as one, process(url, memory=memory) as other:
        first = await one.asks()
        status = await other.asks(SECOND)
        assert (status.hit, status.tier, status.key) == (True, "redis", first.key)
        own = await one.asks(SECOND)
        assert own.similarity == pytest.approx(status.similarity, abs=1e-5)
        again = await other.asks(SECOND)
        assert (again.hit, again.tier) == (True, "memory" if memory else "redis")
        assert server.calls == 1
        assert other.cache.stats.similar_hits == 2
        await other.cache.aclose()
        [event] = [event for event in other.events if event.kind == "similar"][:1]
        assert (event.similar_key, event.asked_key) == (first.key, status.asked_key)


async def test_streams_too(server: OpenAIServer, url: str, process: Any) -> None:
    async with process(url) as one, process(url) as other:
        await one.asks(stream=True)
        assert (await other.asks(SECOND, stream=True)).similarity is not None
        assert server.calls == 1


async def test_guards_and_families_hold_there_too(url: str, process: Any) -> None:
    async with process(url) as one, process(url) as other:
        await one.asks("How do I convert 10 miles to kilometres on foot?")
        status = await other.looks("How do I convert 20 miles to kilometres on foot?")
        assert not status.hit
        await other.cache.aclose()
        [event] = [event for event in other.events if event.kind == "miss"]
        assert "numbers" in str(event.reason)
        await one.asks()
        assert not (await other.looks(model="another")).hit
        with other.cache.control(partition="somebody"):
            assert not (await other.looks()).hit
        with other.cache.control(similarity=0.999):
            assert not (await other.looks()).hit
        with other.cache.control(similarity=None):
            assert not (await other.looks()).hit
        assert (await other.looks()).similarity is not None


async def dropped(one: Process, key: str, raw: Any) -> None:
    assert await one.cache.delete(key) == 1


async def invalidated(one: Process, key: str, raw: Any) -> None:
    assert await one.cache.invalidate("tag") == 1


async def expired(one: Process, key: str, raw: Any) -> None:
    while await raw.exists(f"aiopromptcache:default:e:{{{key}}}"):
        await asyncio.sleep(0.01)


async def evicted(one: Process, key: str, raw: Any) -> None:
    assert await raw.unlink(f"aiopromptcache:default:e:{{{key}}}") == 1


@pytest.mark.parametrize("goes", [dropped, invalidated, expired, evicted])
async def test_what_is_gone_is_not_matched_and_struck_out(
    server: OpenAIServer, url: str, process: Any, raw: Any, goes: Any
) -> None:
    async with process(url, memory=False) as one, process(url) as other:
        with one.cache.control(tags=["tag"], ttl=0.5 if goes is expired else 100):
            status = await one.asks()
        assert await members(raw) == {status.key}
        with one.cache.control(ttl=100):  # the set lasts longer
            await one.asks(OTHER)
        await raw.zadd(BOOK, dict.fromkeys(await raw.zrange(BOOK, 0, -1), 1000000000000000.0))
        await goes(one, status.key, raw)
        assert not (await other.looks()).hit
        assert server.calls == 3
        assert status.key not in await members(raw)
        assert await raw.zcard(BOOK) == len(await members(raw))


async def test_clearing_takes_the_sets_along(url: str, process: Any, raw: Any) -> None:
    async with process(url) as one, process(url, namespace="b") as apart:
        await one.asks()
        await one.asks(model="another")
        await apart.asks()
        assert len(await sets(raw)) == 2
        assert await one.cache.clear() == 2
        assert [key async for key in raw.scan_iter(match="*{default}:q*")] == []
        assert len([key async for key in raw.scan_iter(match="*{b}:q*")]) == 2
        assert not (await one.looks()).hit
        assert (await apart.asks(SECOND)).similarity is not None


async def test_what_is_not_used_any_more_expires(url: str, process: Any, raw: Any) -> None:
    day = 86_400
    async with process(url, ttl=100) as one:
        await one.asks()
        [key] = await sets(raw)
        assert 0 < await raw.ttl(key) <= 100
        assert 0 < await raw.ttl(BOOK) <= 100
        assert (await one.looks("how does a bicycle stay upright if it moves?")).similarity
        with one.cache.control(ttl=None):
            await one.asks(OTHER)
        assert 6 * day < await raw.ttl(key) <= 7 * day
        with one.cache.control(ttl=30 * day):
            await one.asks(OTHER, model="another")
        other = next(name for name in await sets(raw) if name != key)
        assert await raw.ttl(other) > 29 * day
        assert await raw.ttl(BOOK) > 29 * day


async def test_use_makes_a_set_last(url: str, process: Any, raw: Any) -> None:
    async with process(url, ttl=100) as one, process(url) as other:
        await one.asks()
        assert (await other.looks()).similarity is not None
        [key] = await sets(raw)
        assert await raw.ttl(key) > 6 * 86_400


async def test_a_refresh_makes_a_question_last(
    url: str, process: Any, raw: Any, clock: VirtualClock
) -> None:
    async with process(
        url, policy=Policy(ttl=100, stale_while_revalidate=1_000), clock=clock
    ) as one:
        status = await one.asks()
        [place] = await raw.zrange(BOOK, 0, -1)
        before = await raw.zscore(BOOK, place)
        clock.advance(150)
        with one.cache.control(ttl=10_000):
            assert (await one.asks()).stale
            while await raw.zscore(BOOK, place) == before:
                await asyncio.sleep(0.001)
        assert await raw.zscore(BOOK, place) > before + 5_000_000
        assert place.endswith(status.key.encode())


async def test_their_number_is_bounded(url: str, process: Any, raw: Any, embed: Embed) -> None:
    matcher = SemanticSimilarity(embed, 0.8, max_entries=3)
    async with process(url, matcher) as one:
        for number, letter in enumerate("abcdefgh"):
            await one.asks(f"{letter * 30} ?", model=str(number % 2))
        assert len(await members(raw)) == 3
        assert await raw.zcard(BOOK) == 3


async def test_past_ones_make_room(url: str, process: Any, raw: Any, clock: VirtualClock) -> None:
    async with process(url) as one:
        first = await one.asks(OTHER)  # by this the set lasts
        with one.cache.control(ttl=0.5):
            gone = await one.asks()
        assert await members(raw) == {first.key, gone.key}
        await asyncio.sleep(0.55)
        last = await one.asks("Wholly unlike them")
        assert await members(raw) == {first.key, last.key}


async def test_another_model_is_another_index(
    server: OpenAIServer, url: str, process: Any, raw: Any
) -> None:
    def short(texts: list[str]) -> Any:
        return [Embed.vector(text)[:128] for text in texts]

    def same(texts: list[str]) -> Any:
        return [Embed.vector(text) for text in texts]

    named = [
        SemanticSimilarity(embed, 0.8, model=model)
        for embed, model in [(same, "a"), (same, "b"), (short, "a"), (short, "a")]
    ]
    async with (
        process(url, named[0]) as one,
        process(url, named[1]) as renamed,
        process(url, named[2]) as shortened,
        process(url, named[3]) as alike,
    ):
        await one.asks()
        assert not (await renamed.looks()).hit
        assert not (await shortened.looks()).hit
        assert len(await sets(raw)) == 1
        with shortened.cache.control(no_cache=True):
            await shortened.asks()
        assert len(await sets(raw)) == 2
        assert (await alike.looks()).similarity is not None


async def test_words_are_compared_in_each_process_alone(
    server: OpenAIServer, url: str, process: Any, raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        process(url, LexicalSimilarity(0.8)) as one,
        process(url, LexicalSimilarity(0.8)) as other,
    ):
        await one.asks()
        assert not (await other.looks()).hit
        assert await sets(raw) == []
        assert not caplog.records


# Servers that cannot, or are lost


@pytest.fixture(scope="module")
def valkey() -> Iterator[Server]:
    """A server without vector sets."""
    with Server("valkey") as server:
        yield server


async def test_any_threshold_above_none_is_heeded(url: str, process: Any) -> None:
    def opposite(texts: list[str]) -> Any:
        return [[1.0, 0.0] if text == FIRST else [-1.0, 0.0] for text in texts]

    matchers = [SemanticSimilarity(opposite, 0.0, guards=()) for _ in range(2)]
    async with process(url, matchers[0]) as one, process(url, matchers[1]) as other:
        await one.asks()
        assert (await other.looks(OTHER)).similarity == 0.0
        with other.cache.control(similarity=0.1):
            assert not (await other.looks(OTHER)).hit


async def test_a_cluster_without_vector_sets(
    process: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from redis.asyncio import RedisCluster

    with Server("valkey", cluster_enabled="yes", cluster_port=free_port()) as node:
        node.command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        while b"cluster_state:ok" not in node.command("CLUSTER", "INFO"):
            await asyncio.sleep(0.01)
        async with (
            RedisCluster("127.0.0.1", node.port) as client,
            process(client, tier={"timeout": 1.0}) as one,
        ):
            await one.asks()
            assert (await one.looks()).similarity is not None
            assert len(caplog.records) == 1
            assert "cannot find similar prompts" in caplog.text
            assert one.cache.stats.errors == 0


@pytest.mark.parametrize("why", ["none", "denied"])
async def test_without_vector_sets_one_line_says_so(
    server: OpenAIServer, url: str, process: Any, eight: Server, valkey: Server, why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    valkey.command("FLUSHALL")
    if why == "none":
        url = valkey.url
    else:
        eight.command("ACL", "SETUSER", "u", "on", ">p", "~*", "&*", "+@all", "-vsim", "-vadd")
        url = url.replace("redis://", "redis://u:p@")
    async with process(url) as one, process(url) as other:
        await one.asks()
        for _ in range(3):
            assert (await one.asks(SECOND)).similarity is not None
        assert not (await other.looks()).hit
        assert not (await other.looks(OTHER)).hit
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == 2  # one of each cache
        assert all("Redis 8" in line and "cannot find similar prompts" in line for line in lines)
        assert FIRST not in caplog.text
        assert (one.cache.stats.errors, other.cache.stats.errors) == (0, 0)


@pytest.mark.parametrize("fault", ["pause", "kill"])
async def test_a_server_that_is_lost_leaves_the_local_index(
    server: OpenAIServer, breakable: Server, process: Any, fault: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    breakable.heal()
    timeout = 0.3
    async with process(breakable.url, tier={"timeout": timeout}) as one:
        await one.asks()
        await one.asks(OTHER)
        getattr(breakable, fault)()
        loop = asyncio.get_running_loop()
        try:
            for _ in range(8):
                started = loop.time()
                assert (await one.asks(SECOND)).similarity is not None
                assert loop.time() - started < 2 * timeout
                assert not (await one.looks("Wholly unlike them")).hit
                assert loop.time() - started < 4 * timeout
        finally:
            await asyncio.to_thread(breakable.heal)
    assert len([r for r in caplog.records if "failed" in r.getMessage()]) == 1
    assert not [r for r in caplog.records if "similar" in r.getMessage()]


class Stubborn:
    """Neighbours that fail, or never answer."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.calls = 0

    async def nearest(self, *_: Any) -> Any:
        self.calls += 1
        if self.error is None:
            await asyncio.Event().wait()
        raise self.error  # type: ignore[misc]

    async def add(self, *_: Any) -> None:
        raise OSError("no")

    async def remove(self, *_: Any) -> None:
        raise AssertionError


@pytest.mark.parametrize("error", [OSError("no"), None])
async def test_a_search_that_fails_takes_nothing_else_away(
    server: OpenAIServer, url: str, process: Any, error: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with process(url, tier={"timeout": 0.05}) as one:
        stubborn = one.shared._neighbours = Stubborn(error)
        for number in range(10):
            status = await one.asks(f"{'abcdefghij'[number] * 30} ?")
            assert (status.hit, status.stored) == (False, True)
        assert 1 <= stubborn.calls <= 5
        assert (await one.asks("a" * 30 + " ?")).hit
        assert not one.cache._engine.storage.remote[0].open
        assert len(caplog.records) == 1
        assert "fails with" in caplog.records[0].getMessage()
        assert one.cache.stats.errors >= 5


async def test_one_that_cannot_be_shared_keeps_no_other_out(
    url: str, process: Any, raw: Any
) -> None:
    async with process(url) as one:
        await one.asks(model="bad")
        [bad] = await sets(raw)
        await raw.unlink(bad)
        await raw.set(bad, "not a set")
        shared = one.shared
        with one.cache.control(no_cache=True):
            await asyncio.gather(
                *[chat(one.client, OTHER, model=model) for model in ("bad", "good", "fine")]
            )
        assert (await one.asks(model="last")).stored
        assert await raw.get(bad) == b"not a set"
        assert len(await sets(raw)) == 4
        assert len(shared._waiting) == 0


async def test_what_fails_once_is_shared_all_the_same(url: str, process: Any, raw: Any) -> None:
    async with process(url) as one:
        add, failures = one.shared._neighbours.add, [OSError("no")]

        async def failing(asked: Any, most: int) -> None:
            if failures:
                raise failures.pop()
            await add(asked, most)

        one.shared._neighbours.add = failing
        status = await one.asks()
        assert await members(raw) == {status.key}
        assert one.cache.stats.errors == 1


# What others may have put there


async def test_hostile_members_are_ignored_and_struck_out(
    server: OpenAIServer, url: str, process: Any, raw: Any
) -> None:
    async with process(url) as one, process(url) as other:
        status = await one.asks()
        [key] = await sets(raw)
        attributes = [
            b"", b"no JSON", b"[]", b"1", b'{"q": 1}', b'{"q": null}', b"[" * 5_000, b"\xff\xfe",
            b'{"s": "AAAA"}', b'{"q": "' + b"x" * 20_000 + b'"}', b'{"q": "' + b"x" * 2_000 + b'"}',
        ]  # fmt: skip
        for number, attribute in enumerate(attributes):
            await raw.execute_command(
                "VADD", key, "FP32", vector(SECOND), f"hostile{number}", "NOQUANT",
                *(("SETATTR", attribute) if attribute else ()),
            )  # fmt: skip
        await raw.execute_command("VADD", key, "FP32", vector(SECOND), b"\xff\xfe", "NOQUANT",
                                  "SETATTR", '{"q": "x"}')  # fmt: skip
        found = None
        for _ in range(3):  # eight of them at a time
            found = await other.looks()
        assert found.key == status.key
        assert other.cache.stats.errors == 0
        left = await members(raw)
        assert status.key in left
        assert "hostile1" not in left


@pytest.mark.parametrize("kind", ["width", "type"])
async def test_a_strange_set_is_a_miss(
    server: OpenAIServer, url: str, process: Any, raw: Any, kind: str
) -> None:
    async with process(url) as one, process(url) as other:
        await one.asks()
        [key] = await sets(raw)
        await raw.unlink(key)
        if kind == "width":
            await raw.execute_command("VADD", key, "VALUES", 2, 1, 0, "x", "NOQUANT")
        else:
            await raw.set(key, "x")
        assert not (await other.looks()).hit
        assert (await other.asks()).hit
        assert other.cache.stats.errors == 1


# Encryption


async def test_encrypted_tiers_show_no_text_and_no_key(
    server: OpenAIServer, url: str, process: Any, raw: Any
) -> None:
    key, wrong = os.urandom(32), os.urandom(32)
    tier = {"encryption_key": base64.urlsafe_b64encode(key).decode()}
    async with (
        process(url, tier=tier) as one,
        process(url, tier={"encryption_key": [wrong, key]}) as rotated,
        process(url, tier=tier) as other,
        process(url) as open_,
    ):
        status = await one.asks()
        assert (await other.asks(SECOND)).key == status.key
        assert not (await open_.looks()).hit
        assert not (await rotated.looks()).hit  # it looks among those under the newest key
        names = [name async for name in raw.scan_iter()]
        [kept] = await sets(raw)
        dump = b"".join([await raw.dump(name) for name in names])
        for secret in (FIRST.encode(), b"bicycle", status.key.encode()):
            assert secret not in dump + b"".join(names)
        [member] = await raw.execute_command("VRANDMEMBER", kept, 10)
        attribute = await raw.execute_command("VGETATTR", kept, member)
        await raw.execute_command("VREM", kept, member)
        await raw.execute_command("VADD", kept, "FP32", vector(SECOND), "moved", "NOQUANT",
                                  "SETATTR", attribute)  # fmt: skip
        assert not (await other.looks()).hit
        assert await members(raw) == set()


# A cluster


async def test_on_a_cluster(server: OpenAIServer, process: Any) -> None:
    with Server("redis", cluster_enabled="yes", cluster_port=free_port()) as node:
        node.command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        while b"cluster_state:ok" not in node.command("CLUSTER", "INFO"):
            await asyncio.sleep(0.01)
        from redis.asyncio import RedisCluster

        async with (
            RedisCluster("127.0.0.1", node.port) as first,
            RedisCluster("127.0.0.1", node.port) as second,
            process(first, tier={"timeout": 1.0}) as one,
            process(second, tier={"timeout": 1.0}) as other,
        ):
            status = await one.asks()
            assert (await other.looks()).key == status.key
            await one.cache.delete(status.key)
            assert not (await other.looks()).hit
            await one.asks()
            await one.cache.clear()
            assert node.command("KEYS", "*q*") == []
