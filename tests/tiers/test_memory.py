"""The memory tier: least recently used and time to live, bounded by entries and bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from aiopromptcache import ConfigurationError, Entry, Kind, MemoryTier, PromptCache, TierContext
from aiopromptcache.testing import VirtualClock
from aiopromptcache.tiers._memory import ENTRY_OVERHEAD, SWEEP_SECONDS

pytestmark = pytest.mark.anyio


def attached(clock: VirtualClock, **bounds: int) -> tuple[MemoryTier, list[tuple[Any, ...]]]:
    """A tier of its own, and what it tells."""
    tier, told = MemoryTier(**bounds), list[tuple[Any, ...]]()
    tier.attach(TierContext("n", clock, lambda kind, slot, *_: told.append((kind, slot))))
    return tier, told


def entry(clock: VirtualClock, ttl: float | None = 60, **fields: Any) -> Entry:
    """A small entry."""
    payload = fields.pop("payload", b"x")
    return Entry(Kind.BYTES, payload, stored_at=clock(), ttl=ttl, **fields)


def test_the_least_recently_used_leaves_first(clock: VirtualClock) -> None:
    tier, told = attached(clock, max_entries=2)
    tier.put("n:a", entry(clock))
    tier.put("n:b", entry(clock))
    assert tier.peek("n:a") is not None
    tier.put("n:c", entry(clock))
    assert [tier.peek(f"n:{name}") is not None for name in "abc"] == [True, False, True]
    assert told == [("evict", "n:b")]


def test_bytes_are_bounded_too(clock: VirtualClock) -> None:
    tier, told = attached(clock, max_bytes=3 * (ENTRY_OVERHEAD + 100))
    for name in "abcd":
        assert tier.put(f"n:{name}", entry(clock, payload=bytes(100)))
    assert len(tier) == 3
    assert tier.size == 3 * (ENTRY_OVERHEAD + 100)
    assert told == [("evict", "n:a")]
    assert not tier.put("n:large", entry(clock, payload=bytes(10_000)))
    assert len(tier) == 3
    assert not tier.put("n:b", entry(clock, payload=bytes(10_000)))
    assert tier.peek("n:b") is None  # the old value is not the value any more


def test_expired_entries_leave_before_live_ones(clock: VirtualClock) -> None:
    tier, told = attached(clock, max_entries=2)
    tier.put("n:short", entry(clock, ttl=10))
    tier.put("n:long", entry(clock, ttl=60))
    assert tier.peek("n:short") is not None
    clock.advance(11)
    tier.put("n:new", entry(clock))
    assert tier.peek("n:long") is not None
    assert told == [("expire", "n:short")]


def test_stale_windows_are_kept_as_long_as_they_last(clock: VirtualClock) -> None:
    tier, _ = attached(clock)
    tier.put("n:a", entry(clock, ttl=10, stale_while_revalidate=5, stale_if_error=20))
    clock.advance(29)
    assert tier.peek("n:a") is not None
    clock.advance(1)
    assert tier.peek("n:a") is None


async def test_expired_entries_leave_without_being_asked_for(clock: VirtualClock) -> None:
    tier, told = attached(clock)
    timers: list[Any] = []

    class Loop:
        """An event loop whose timers a test fires."""

        def call_later(self, delay: float, callback: Any, *arguments: Any) -> None:
            timers.append((delay, callback, arguments))

    loop = Loop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aiopromptcache.tiers._memory.asyncio.get_running_loop", lambda: loop)
        tier.put("n:a", entry(clock, ttl=1))
        tier.put("n:b", entry(clock, ttl=100))
        assert [delay for delay, *_ in timers] == [SWEEP_SECONDS]
        for rounds in (1, 2):
            clock.advance(SWEEP_SECONDS)
            _, callback, arguments = timers.pop()
            callback(*arguments)
            assert told == [("expire", "n:a")]
            assert len(timers) == 1, rounds
        clock.advance(200)
        _, callback, arguments = timers.pop()
        callback(*arguments)
        assert told == [("expire", "n:a"), ("expire", "n:b")]
        assert timers == []  # nothing is left to sweep
    assert SWEEP_SECONDS <= 10


def test_two_caches_share_a_tier_only_with_one_clock(clock: VirtualClock) -> None:
    tier = MemoryTier()
    PromptCache(tier, namespace="a", clock=clock)
    PromptCache(tier, namespace="b", clock=clock)
    with pytest.raises(ConfigurationError, match="same clock"):
        PromptCache(tier, namespace="c")


@pytest.mark.parametrize("bounds", [{"max_entries": 0}, {"max_bytes": 0}, {"max_entries": 1.5}])
def test_bounds_out_of_range_are_refused(bounds: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(bounds))):
        MemoryTier(**bounds)


class Model(RuleBasedStateMachine):
    """The tier against a list that does the same slowly."""

    slots = Bundle("slots")

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self.tier, _ = attached(self.clock, max_entries=4)
        self.model: dict[str, tuple[float, frozenset[str]]] = {}  # oldest use first

    def live(self) -> None:
        """Forget what has expired."""
        self.model = {s: v for s, v in self.model.items() if v[0] > self.clock()}

    @rule(
        slot=st.sampled_from([f"n:{number}" for number in range(6)]),
        ttl=st.integers(1, 10),
        tags=st.frozensets(st.sampled_from(["a", "b"])),
    )
    def put(self, slot: str, ttl: int, tags: frozenset[str]) -> None:
        self.live()
        self.tier.put(slot, entry(self.clock, ttl, tags=tuple(tags)))
        self.model.pop(slot, None)
        if len(self.model) == 4:
            del self.model[next(iter(self.model))]
        self.model[slot] = (self.clock() + ttl, tags)

    @rule(slot=st.sampled_from([f"n:{number}" for number in range(6)]))
    def peek(self, slot: str) -> None:
        self.live()
        assert (self.tier.peek(slot) is not None) == (slot in self.model)
        if slot in self.model:
            self.model[slot] = self.model.pop(slot)

    @rule(slot=st.sampled_from([f"n:{number}" for number in range(6)]))
    def discard(self, slot: str) -> None:
        self.live()
        assert self.tier._discard(slot) == (self.model.pop(slot, None) is not None)

    @rule(tag=st.sampled_from(["a", "b"]))
    def invalidate(self, tag: str) -> None:
        self.live()
        tagged = [slot for slot, (_, tags) in self.model.items() if tag in tags]
        assert self.tier._discard_all(self.tier._tagged.get(("n", tag), ())) == len(tagged)
        for slot in tagged:
            del self.model[slot]

    @rule(seconds=st.integers(1, 5))
    def advance(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @invariant()
    def the_same(self) -> None:
        self.live()
        assert len(self.tier) == len(self.model)
        assert self.tier.size == len(self.model) * (ENTRY_OVERHEAD + 1)
        known = {slot for slots in self.tier._tagged.values() for slot in slots}
        assert known == {slot for slot, (_, tags) in self.model.items() if tags}


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
