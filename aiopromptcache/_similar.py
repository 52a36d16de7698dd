"""Similar hits: the answer to a question that says the same in other words.

Only after an exact miss, inside the flight of the question, and only within its family: all that
was asked but for the last user text is equal. The index may name what is gone; what is served is
always looked up in the tiers, so it lives no longer than there. Nothing here is done without a
matcher, and whatever fails here is a miss.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from ._ask import SIDE, Answer, Ask, Landed, Prompt, Similarity
from ._control import mode, side_calls
from ._entry import Entry
from ._errors import ConfigurationError, NotCached, ReentrantCall
from ._flights import Flight, FlightLost
from ._found import Found
from ._idle import idle_time
from ._policy import Policy, Verdict, decide
from ._refresh import in_background
from ._status import CacheStatus
from .tiers._base import Lease

if TYPE_CHECKING:
    from ._engine import Engine
    from .similarity._index import Near
    from .similarity._matchers import Matcher

logger = logging.getLogger("aiopromptcache")

LOOK_SECONDS = 5.0
"""What embedding, looking and verifying may take of one call together."""
ROUNDS = 4
"""How often it is looked again where all that was near is gone from the tiers."""
BANNED = 10_000
"""Pairs of questions at most that are known not to be the same."""
ONLY_STORED = "only stored"
"""The lane of those who only want what is stored."""
FAILURES = 5
"""Failures in a row after which nothing is looked for."""
REST_SECONDS = 5.0
"""For how long then."""


class Similar:
    """The similar hits of one cache."""

    def __init__(self, matcher: Matcher, engine: Engine) -> None:
        from ._neighbours import shared_questions
        from .similarity._budget import Budget
        from .similarity._questions import Questions

        self._matcher = matcher
        self._engine = engine
        self._questions = Questions(matcher)
        self._shared = shared_questions(engine, matcher)
        self.budget = Budget(matcher.threshold, matcher.max_error, matcher.confidence)
        self._banned: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._wrong: set[str] = set()
        """Copies that are to be removed."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._failing = False
        self._failures = 0
        self._rests_until = 0.0
        engine.stats.similarity = self.budget

    def threshold(self, policy: Policy) -> float | None:
        """What this caller's similar hits must score; None: there are none."""
        if policy.similarity is None:
            return None
        own = self.budget.threshold if policy.similarity is ... else policy.similarity
        return max(cast(float, own), self.budget.floor)

    # Looking

    async def find(self, ask: Ask) -> Landed | None:
        """A fresh answer to a similar question; None also where looking for one fails."""
        threshold = self.threshold(ask.policy)
        if threshold is None or ask.policy.no_cache or ask.seen is not None or mode.get() != "on":
            return None
        if ask.prompt is None or ask.prompt.parts is None or self._rests():
            return None
        seconds = LOOK_SECONDS if ask.patience is None else min(LOOK_SECONDS, ask.patience)
        try:
            with side_calls(stored_only=ask.policy.only_if_cached):
                async with asyncio.timeout(seconds):
                    landed = await self._find(ask, ask.prompt, threshold)
        except NotCached:  # a vector that is not stored, for one who asks nothing upstream
            return None
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._look_failed(ask, OSError(f"what a matcher called was cancelled: {error}"))
            return None
        except Exception as error:
            self._look_failed(ask, error, hurried=seconds < LOOK_SECONDS)
            return None
        self._failing, self._failures = False, 0
        return landed

    def _rests(self) -> bool:
        return asyncio.get_running_loop().time() < self._rests_until

    def _look_failed(self, ask: Ask, error: Exception, *, hurried: bool = False) -> None:
        """Callers have waited for nothing: after some failures in a row they do no more."""
        self._failed(ask, error)
        if hurried and isinstance(error, TimeoutError):
            return  # this caller had no time for it; others may have
        cast(Prompt, ask.prompt).failed = True
        self._failures += 1
        if self._failures >= FAILURES:
            self._rests_until = asyncio.get_running_loop().time() + REST_SECONDS

    async def _find(self, ask: Ask, prompt: Prompt, threshold: float) -> Landed | None:
        name, text = cast("tuple[str, str]", prompt.parts)
        given = await self._given(prompt)
        own, shared, seen = self._questions, self._shared, {ask.key}

        async def forget(keys: list[str]) -> None:
            for key in keys:
                own.remove(key)

        landed = await self._among(
            ask, seen, lambda: own.nearest(name, text, given, threshold), forget
        )
        if landed is not None or shared is None:
            return landed

        async def nearest() -> list[Near]:
            started = idle_time()
            found = await shared.nearest(name, given, own.least(threshold), ask.spent)
            ask.spent += idle_time() - started
            return own.rated(text, found, threshold)

        return await self._among(
            ask, seen, nearest, lambda keys: shared.remove(name, given, keys, ask.spent)
        )

    async def _among(
        self,
        ask: Ask,
        seen: set[str],
        nearest: Callable[[], Awaitable[list[Near]]],
        forget: Callable[[list[str]], Awaitable[None]],
    ) -> Landed | None:
        """The first of one index that will do; what is gone from the tiers is forgotten there.

        `seen` are those that are refused already.
        """
        for _ in range(ROUNDS):
            gone: list[str] = []
            for near in await nearest():
                await asyncio.sleep(0)  # guards may take milliseconds each
                if near.key in seen or self._refuses(ask, near):
                    seen.add(near.key)
                    continue
                found, sure = await self._look(ask, near)
                if found is None and sure:
                    gone.append(near.key)
                elif (
                    found is not None
                    and self._usable(ask, found.entry)
                    and await self._verified(ask, near, found)
                ):
                    return Landed(found.entry, found.tier, near=self._served(ask, near))
                else:
                    seen.add(near.key)
            if not gone:
                break
            await forget(gone)
        return None

    async def _given(self, prompt: Prompt) -> Any:
        if prompt.given is None:
            _, text = cast("tuple[str, str]", prompt.parts)
            prompt.given = await self._questions.prepare(text)
        return prompt.given

    def _refuses(self, ask: Ask, near: Near) -> bool:
        """Do the guards, or what was learnt before, say that these are two questions?"""
        from .similarity._guards import refusal

        _, text = cast("tuple[str, str]", cast(Prompt, ask.prompt).parts)
        reason = refusal(self._matcher.guards, text, near.text)
        if reason is None and _pair(ask.key, near.key) in self._banned:
            reason = "it was a false hit before"
        return self._note(ask, near, reason)

    def _note(self, ask: Ask, near: Near, reason: str | None) -> bool:
        """Remember for the event why the best one was refused."""
        if reason is not None and ask.remarks is None:
            ask.remarks = {"similar_key": near.key, "similarity": near.score, "reason": reason}
        return reason is not None

    async def _look(self, ask: Ask, near: Near) -> tuple[Found | None, bool]:
        """What the tiers have of it, and whether it is gone for sure where they have nothing."""
        errors = self._engine.stats.errors
        base = self._engine.prefix + near.key
        slots = [base] if ask.live is None else [base, base + SIDE]
        best: Found | None = None
        for slot in slots:
            try:
                found = await self._stored(slot, ask)
            except TimeoutError:
                return best, False
            if found is not None and self._usable(ask, found.entry):
                return found, False
            best = best or found
        # Where a tier could not say, it may be there yet.
        sure = errors == self._engine.stats.errors
        return best, sure and not any(tier.open for tier in self._engine.storage.remote)

    async def _stored(self, slot: str, ask: Ask) -> Found | None:
        storage = self._engine.storage
        entry = storage.peek(slot)
        if entry is not None and self._is_fresh(entry, ask.policy):
            return Found(entry, storage.local_name)
        if storage.remote:
            return await self._stored_elsewhere(slot, ask)
        now = self._engine.clock()
        return (
            None if entry is None or entry.expires_at <= now else Found(entry, storage.local_name)
        )

    async def _stored_elsewhere(self, slot: str, ask: Ask) -> Found | None:
        """What remote tiers have. Raises `TimeoutError` past what they may add to one call."""
        storage = self._engine.storage
        left = max(tier.timeout for tier in storage.remote) - ask.spent
        if left <= 0:
            raise TimeoutError
        started = idle_time()
        try:
            async with asyncio.timeout(left):
                return await storage.look(slot, promote=not ask.policy.no_store)
        finally:
            ask.spent += idle_time() - started

    def _is_fresh(self, entry: Entry, policy: Policy) -> bool:
        return decide(entry, policy, self._engine.clock()) is Verdict.FRESH

    def _usable(self, ask: Ask, entry: Entry) -> bool:
        """Fresh for this caller, and all there in the form that is asked for?"""
        return self._is_fresh(entry, ask.policy) and ask.accepts(entry)

    async def _verified(self, ask: Ask, near: Near, found: Found) -> bool:
        """Does the user's own check agree, and is the answer still there after it?"""
        verify, prompt = self._matcher.verified, cast(Prompt, ask.prompt)
        if verify is None:
            return True
        _, text = cast("tuple[str, str]", prompt.parts)
        agreed = await verify(text, near.text, prompt.body(found.entry))
        if self._note(ask, near, None if agreed else "verify says that it is another question"):
            return False
        again, _ = await self._look(ask, near)
        return again is not None and again.entry.stored_at == found.entry.stored_at

    def _served(self, ask: Ask, near: Near) -> Similarity:
        return Similarity(near.key, near.score, near.text)

    def _failed(self, ask: Ask, error: Exception) -> None:
        engine = self._engine
        engine.stats.erred("similarity", ask.endpoint, error)
        if not self._failing:
            self._failing = True
            logger.warning(
                "looking for similar prompts failed with %s; until it works again, failures "
                "are only counted",
                type(error).__name__,
            )
        engine.answers.tell("error", ask, error=error)

    # Answering

    def offer(self, ask: Ask, landed: Landed) -> Answer | None:
        """What another caller's similar hit is for this one: None where the threshold is another,
        or it is too old, or lacks something.
        """
        threshold, score = self.threshold(ask.policy), cast(Similarity, landed.near).score
        if threshold is None or score < threshold or not self._usable(ask, landed.entry):
            return None
        return self.hit(ask, landed, leader=False)

    def hit(self, ask: Ask, landed: Landed, *, leader: bool) -> Answer:
        """Count and describe a similar hit for one of its callers."""
        near, entry, tier = cast(Similarity, landed.near), landed.entry, cast(str, landed.tier)
        engine = self._engine
        told = {"asked_key": ask.key, "similar_key": near.key, "similarity": near.score}
        self.budget.served(near.score)
        age = engine.ledger.hit(near.key, entry, tier, told)
        ttl = None if entry.ttl is None else entry.ttl - age
        key = f"{near.key},{ask.key}" if landed.stored else near.key
        status = (
            key, True, tier, age, ttl, None, False, landed.stored, False, near.score, ask.key
        )  # fmt: skip
        if leader:
            self._maybe_check(ask, landed)
        return Answer(entry, status)

    async def stored_copy(
        self, flight: Flight[Landed], ask: Ask, landed: Landed, lease: Lease | None
    ) -> Landed:
        """Where that is wanted, keep the answer under the new key too, for as long as it has."""
        if not self._matcher.store_similar or ask.policy.no_store or ask.policy.ttl == 0:
            return landed
        flight.kept, entry = True, landed.entry
        if more := [tag for tag in ask.policy.tags if tag not in entry.tags]:
            entry = copy(entry)
            entry.tags = (*entry.tags, *more)
        stored = await self._engine.storage.keep(flight, ask.slot, entry, lease, ask.spent)
        return landed._replace(stored=stored)

    async def fetch_stored(self, ask: Ask) -> Answer | None:
        """A similar answer for one who goes upstream for nothing; one look for all who ask."""
        if self.threshold(ask.policy) is None or ask.prompt is None:
            return None
        flights = self._engine.flights
        flight = flights.find(ask.slot, ONLY_STORED)
        if leader := flight is None:
            flight = flights.start(
                ask.slot, lambda flight: self._found(ask), lane=ONLY_STORED, tags=ask.policy.tags
            )
        try:
            landed: Landed = await flights.join(flight, leader=leader, timeout=ask.patience)
        except (NotCached, FlightLost):
            return None
        return self.hit(ask, landed, leader=True) if leader else self.offer(ask, landed)

    async def _found(self, ask: Ask) -> Landed:
        landed = await self.find(ask)
        if landed is None:
            raise NotCached("nothing similar is stored")
        return landed

    # Learning

    def learn(self, ask: Ask, entry: Entry) -> None:
        """The answer to a question was stored: it may answer similar ones."""
        if not self._learns(ask):
            return
        prompt = cast(Prompt, ask.prompt)
        if prompt.given is not None:
            self._add(ask.key, prompt, entry)
        elif ask.seen is None and not self._rests() and not prompt.failed:
            self._spawn(self._learn(ask, prompt, entry))
        elif self._shared is not None:  # a refresh replaces what was learnt before
            name, _ = cast("tuple[str, str]", prompt.parts)
            self._shared.renew(name, ask.key, self._life(entry))

    def met(self, key: str, prompt: Prompt) -> None:
        """A question was answered by a remote tier: where that costs no vector, it is learnt too.

        One that has a vector is found by it in the tier, if the tier can. Where copies are kept,
        it may be one: what is similar to a similar question need not be so to that one's.
        """
        if self._questions.embeds or self._matcher.store_similar:
            return
        if mode.get() == "off" or self._questions.knows(key):
            return
        if prompt.parts is not None:
            name, text = prompt.parts
            self._questions.add(name, key, text, self._questions.prepared(text))

    def _learns(self, ask: Ask) -> bool:
        if ask.prompt is None or mode.get() == "off":
            return False
        if mode.get() == "on" and self.threshold(ask.policy) is None:
            return False
        return ask.prompt.parts is not None

    def _add(self, key: str, prompt: Prompt, entry: Entry) -> Future[Any]:
        name, text = cast("tuple[str, str]", prompt.parts)
        if self._shared is not None:
            self._shared.add(name, key, text, prompt.given, self._life(entry))
        return self._questions.add(name, key, text, prompt.given)

    def _life(self, entry: Entry) -> float | None:
        if entry.ttl is None:
            return None
        return max(0.001, entry.expires_at - self._engine.clock())

    async def _learn(self, ask: Ask, prompt: Prompt, entry: Entry) -> None:
        try:
            with side_calls():
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._given(prompt)
            await asyncio.wrap_future(self._add(ask.key, prompt, entry))
        except Exception as error:
            self._failed(ask, error)

    # Being wrong

    def report(self, status: CacheStatus) -> None:
        """See `PromptCache.report_false_hit`."""
        score, asked = status.similarity, status.asked_key
        if score is None or asked is None:
            raise ConfigurationError(
                f"status: similarity={score!r}: expected the status of a similar hit"
            )
        stored, _, own = status.key.partition(",")
        if self._ban(asked, stored):
            self.budget.reported(score)
            self._wrong |= {own} - {""}
            with suppress(RuntimeError):  # no event loop runs here
                if self._wrong and asyncio.get_running_loop():
                    self._spawn(self._drop_copies())

    async def _drop_copies(self) -> None:
        keys = set(self._wrong)
        slots = [self._engine.prefix + key for key in keys]
        await self._engine.storage.drop([*slots, *[slot + SIDE for slot in slots]])
        self._wrong -= keys

    def _ban(self, one: str, other: str) -> bool:
        """Never give the answer of one of these to the other; False where that is known already."""
        pair = _pair(one, other)
        if pair in self._banned:
            return False
        self._banned[pair] = None
        if len(self._banned) > BANNED:
            self._banned.popitem(last=False)
        return True

    def _maybe_check(self, ask: Ask, landed: Landed) -> None:
        """Draw lots: is this hit one to be compared with a fresh answer?"""
        shadow = self._matcher.shadow
        if not shadow or ask.policy.only_if_cached or random.random() >= shadow:
            return
        ask.settle()
        engine, policy = self._engine, replace(ask.policy, no_cache=True)
        own = in_background(ask, policy=policy)
        try:
            flight = engine.flights.start(
                ask.slot,
                lambda flight: engine.fly(flight, own),
                lane=None,
                tags=policy.tags,
                patience=ask.patience,
            )
        except ReentrantCall:  # we are in the work for this very key
            return
        engine.refreshes.watch(
            flight, own, [], lambda fresh: self._spawn(self._check(own, landed, fresh))
        )

    async def _check(self, ask: Ask, served: Landed, fresh: Landed) -> None:
        """Let the user's judge compare what was served with what the upstream says."""
        prompt, near = cast(Prompt, ask.prompt), cast(Similarity, served.near)
        _, text = cast("tuple[str, str]", prompt.parts)
        try:
            judge = cast(Any, self._matcher.judged)
            with side_calls():
                async with asyncio.timeout(LOOK_SECONDS):
                    right = await judge(text, prompt.body(served.entry), prompt.body(fresh.entry))
        except Exception as error:
            self._failed(ask, error)
            return
        self.budget.checked(near.score, right=bool(right))
        if not right:
            self._ban(ask.key, near.key)

    # Background

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="aiopromptcache similar")
        if not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """End what goes on in the background."""
        loop = asyncio.get_running_loop()
        if own := [task for task in self._tasks if task.get_loop() is loop]:
            for task in own:
                task.cancel()
            await asyncio.wait(own)
        if self._wrong:
            await self._drop_copies()
        if self._shared is not None:
            await self._shared.aclose()
        self._questions.close()


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)
