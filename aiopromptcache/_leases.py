"""Processes that share a tier act as one: who loads what, who waits, and who hears of it.

A process that misses claims the slot's lease. Who gets it asks the upstream, and renews the lease
meanwhile; the others wait for the news that the answer is there, or that the lease is free again. A
task listens to the news, so that the local tier never keeps for long what another process dropped.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

from ._entry import Entry
from ._idle import idle_time
from ._looks import Looks
from .tiers._base import Claim, Lease, News, SharedTier
from .tiers._guard import Guard

T = TypeVar("T")

logger = logging.getLogger("aiopromptcache")

RENEWALS = 3
"""How often a lease is renewed before it would run out."""
RECONNECT_SECONDS = (0.02, 0.2)
"""Pauses between attempts to listen, from the shortest to the longest; the first has none."""
GRACE_SECONDS = 0.01
"""How long after the end of another's lease it is claimed."""
REFRESH = "/refresh"
"""After a slot: the lease to refresh it. There is never a record, so one claim serves for many."""
SPARE_SECONDS = 1.0
"""How long a lease may wait for the call that it was claimed for."""
ELSEWHERE = 10_000
"""Slots of which it is remembered that another process loads them."""
_OF_SLOTS = ("stored", "dropped", "released", "unstorable")
"""News that concern those alone who wait for one slot."""


class Obtained(NamedTuple):
    """What a claim came to: an entry, or a lease. While the tier is out, one without a token."""

    entry: Entry | None = None
    lease: Lease | None = None
    waited: bool = False
    """Did another process's flight bring it?"""
    overtaken: bool = False
    """Was the slot changed meanwhile, here or elsewhere? Then the entry may be an older one."""
    spent: float = 0.0
    """Seconds that the tier took, waiting for others aside."""


class _Spare(NamedTuple):
    """A lease that waits for the call that it was claimed for."""

    number: int
    """Of the claim: a later one has a greater number."""
    lease: Lease


Wait = Callable[[asyncio.Event, float], Awaitable[bool]]
"""Waits for news of a slot, or so many seconds; True where the flight is to wait no more."""


async def wait_for_news(woken: asyncio.Event, seconds: float) -> bool:
    """Wait until the other's lease is over, or filled."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await woken.wait()
    return False


class _Attention:
    """One flight's ear for what happens to its slot."""

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self.overtaken = False
        self.alone = False
        """Was what the other brought not to be stored? Then waiting in line helps nobody."""

    def reset(self) -> None:
        self.woken.clear()
        self.overtaken = self.alone = False


class Coordinator:
    """Leases and news of one namespace on one shared tier."""

    def __init__(
        self, guard: Guard, namespace: str, heed: Callable[[News], Awaitable[None]]
    ) -> None:
        self.guard = guard
        self._tier = cast(SharedTier, guard.tier)
        self._namespace = namespace
        self._heed = heed
        self.claims: Looks[Claim] = Looks(self._claim_many)
        self._waiting: dict[str, set[_Attention]] = {}
        self._held: set[Lease] = set()
        self._spare: dict[str, _Spare] = {}
        self._claims = itertools.count()
        self._elsewhere: set[str] = set()
        """Slots that another process was loading when somebody here looked."""
        self._timers: set[asyncio.TimerHandle] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._renewal: asyncio.TimerHandle | None = None
        self._listener: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.heard: Callable[[News], None] = lambda news: None
        """Told who wants to follow what is being read here."""

    # Leases

    async def obtain(
        self,
        slot: str,
        usable: Callable[[Entry], bool],
        *,
        take: bool = False,
        spent: float = 0.0,
        wait: Wait = wait_for_news,
    ) -> Obtained:
        """An entry that is usable, or the lease to make one, waiting for others if need be."""
        started = idle_time()
        await self.listening(spent)
        spent += idle_time() - started
        if slot in self._elsewhere and not take:  # as after a wait: that costs less than a call
            self._elsewhere.discard(slot)
            spent = 0.0
        past, waited = b"", False
        with self._attention(slot) as attention:
            while True:
                attention.reset()
                started, right = idle_time(), self.guard.right(slot)
                claim = await self._claim(slot, past, take, spent)
                spent += idle_time() - started
                if claim is None:
                    return Obtained(lease=right, spent=spent)
                if claim.lease is not None:
                    return Obtained(lease=claim.lease, spent=spent)
                if claim.entry is not None and usable(claim.entry):
                    return Obtained(claim.entry, None, waited, attention.overtaken, spent)
                if claim.mark and claim.mark == past:  # it does not go past what is of no use
                    return Obtained(lease=right, spent=spent)
                if claim.mark:
                    past = claim.mark
                    continue
                waited, spent = True, 0.0  # whoever waits anyway loses nothing by asking again
                if await wait(attention.woken, claim.wait + GRACE_SECONDS) or attention.alone:
                    return Obtained(spent=spent)

    async def _claim(self, slot: str, past: bytes, take: bool, spent: float) -> Claim | None:
        if not (past or take) and (spare := self._spare.pop(slot, None)) is not None:
            return Claim(lease=spare.lease)
        if past or take or spent:
            return await self._claim_alone(slot, past, take, spent)
        claim, _ = await self.claims.look(slot)
        if claim is not None and claim.lease is not None:  # one of those who asked may have it
            spare = self._spare.pop(slot, None)
            return Claim(lease=spare.lease) if spare is not None else Claim(wait=0.0)
        return claim

    async def _claim_alone(self, slot: str, past: bytes, take: bool, spent: float) -> Claim | None:
        """A claim that no other joins. If its caller leaves meanwhile, the lease is given back."""

        async def claim() -> Claim | None:
            claims = await self.guard.claim([slot], past=past, take=take, spent=spent)
            if (claim := claims.get(slot)) is not None and claim.lease is not None:
                self._hold(claim.lease)
            return claim

        task = self._spawn(claim())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._left)
            raise

    def _left(self, task: asyncio.Task[Claim | None]) -> None:
        if not task.cancelled() and task.exception() is None and (claim := task.result()):
            self.give_back(claim.lease)

    async def _claim_many(self, slots: Sequence[str], waited: float) -> Mapping[str, Claim]:
        """Claims of several callers at once. A lease waits for the one who comes for it."""
        number, started = next(self._claims), idle_time()
        await self.listening(waited)
        waited += idle_time() - started
        claims = await self.guard.claim(slots, spent=waited)
        spares = [_Spare(number, claim.lease) for claim in claims.values() if claim.lease]
        for spare in spares:
            self._set_aside(spare)
        for slot, claim in claims.items():
            if claim.lease is None and claim.entry is None:
                if len(self._elsewhere) >= ELSEWHERE:  # of callers who left before they came to it
                    self._elsewhere.clear()
                self._elsewhere.add(slot)
        if spares:
            self._later(SPARE_SECONDS, partial(self._drop_spares, spares))
        return claims

    def _set_aside(self, spare: _Spare) -> None:
        """Of two for one slot the earlier one is void, whichever reply came first."""
        self._hold(spare.lease)
        slot = spare.lease.slot
        known = self._spare.get(slot)
        self._spare[slot] = spare if known is None else max(known, spare)
        if known is not None:
            self.give_back(min(known, spare).lease)

    def _drop_spares(self, spares: Sequence[_Spare]) -> None:
        """The calls that they were claimed for never came, or will ask anew."""
        for spare in spares:
            if self._spare.get(spare.lease.slot) is spare:
                del self._spare[spare.lease.slot]
                self.give_back(spare.lease)

    @contextmanager
    def _attention(self, slot: str) -> Iterator[_Attention]:
        attention = _Attention()
        self._waiting.setdefault(slot, set()).add(attention)
        try:
            yield attention
        finally:
            others = self._waiting[slot]
            others.discard(attention)
            if not others:
                del self._waiting[slot]

    def _hold(self, lease: Lease) -> None:
        self._held.add(lease)
        if self._renewal is None:
            loop = asyncio.get_running_loop()
            self._renewal = loop.call_later(self._tier.lease / RENEWALS, self._renew)

    def _renew(self) -> None:
        self._renewal = None
        if self._held:
            held = list(self._held)
            self._spawn(self.guard.keep_leases(held))
            self._renewal = asyncio.get_running_loop().call_later(
                self._tier.lease / RENEWALS, self._renew
            )

    async def fill(
        self,
        kept: Mapping[str, tuple[Entry, Lease | None]],
        stands: Callable[[str], bool],
        spent: float,
    ) -> Mapping[str, bool | None]:
        """Store what was loaded: False where something overtook it, None while the tier is out."""
        try:
            fills = [(e, lease or self.guard.right(slot)) for slot, (e, lease) in kept.items()]
            filled = await self.guard.fill(fills, stands=stands, spent=spent)
            return dict(zip(kept, filled, strict=True))
        finally:
            self._held -= {lease for _, lease in kept.values() if lease is not None}

    def give_back(self, lease: Lease | None, *, shareable: bool = True) -> None:
        """Nothing will come of this lease: whoever waits may have it. Does not wait itself.

        Not `shareable`: what others bring will not be stored either, so none need wait for another.
        """
        if lease is not None and lease in self._held:
            self._held.discard(lease)
            self._spawn(self.guard.give_back([lease], shareable=shareable))

    # Refreshes of many slots

    async def alone(self, slots: Sequence[str]) -> tuple[list[str], list[Lease]]:
        """The slots that no other process is refreshing now, and the leases that keep it so."""
        await self.listening()
        names = {slot + REFRESH: slot for slot in slots}

        async def claim() -> tuple[list[str], list[Lease]]:
            claims = await self.guard.claim(list(names))
            leases = [c.lease for c in claims.values() if c.lease is not None]
            for lease in leases:
                self._hold(lease)
            others = {names[name] for name, claim in claims.items() if claim.lease is None}
            return [slot for slot in slots if slot not in others], leases

        task = self._spawn(claim())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._left_alone)
            raise

    def _left_alone(self, task: asyncio.Task[tuple[list[str], list[Lease]]]) -> None:
        if not task.cancelled() and task.exception() is None:
            self.give_back_all(task.result()[1])

    def give_back_all(self, leases: Sequence[Lease]) -> None:
        """Like `give_back` for many."""
        if mine := [lease for lease in leases if lease in self._held]:
            self._held.difference_update(mine)
            self._spawn(self.guard.give_back(mine))

    # News

    async def listening(self, spent: float = 0.0) -> None:
        """Listen to the news from now on; waits for the first attempt alone, and not for long."""
        self._start()
        task = self._listener
        if task is None or task.done() or task.get_loop() is not self._loop:
            self._tried = asyncio.Event()
            self._listener = asyncio.create_task(self._listen(), name="aiopromptcache news")
        if not self._tried.is_set() and spent < self.guard.timeout:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.guard.timeout - spent):
                    await self._tried.wait()

    def _start(self) -> None:
        """What another, ended loop left runs out by itself."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._renewal = loop, None
            self._held.clear()
            self._spare.clear()
            self._timers.clear()
            self._tasks.clear()

    async def _listen(self) -> None:
        pause, (shortest, longest) = 0.0, RECONNECT_SECONDS
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._tier.listen(self._namespace, self.guard.position, self._told)
            except Exception as error:
                logger.debug("not listening to %s: %r", self.guard.name, error)
            self._tried.set()
            self._wake(None)  # they may wait for news that will not come
            if loop.time() - began > longest:  # it went well for a while
                pause = 0.0
            await asyncio.sleep(pause)
            pause = min(longest, max(shortest, 2 * pause))

    async def _told(self, news: News) -> None:
        if news.kind in ("wanted", "unwanted"):
            self.guard.position = news.position
            self.heard(news)
            return
        if news.kind == "unstorable":
            for attention in self._attentions(news.name):
                attention.alone = True
        if not news.own or news.kind == "listening":
            await self._heed(news)
        self.guard.position = news.position
        if news.kind == "listening":
            self._tried.set()
        self._wake(news.name if news.kind in _OF_SLOTS else None)

    def overtake(self, slot: str | None) -> None:
        """What is being claimed for a slot (None: for any) may not be its value any more."""
        if slot is None:
            self.claims.overtake_all()
            self._drop_spares(list(self._spare.values()))
        else:
            self.claims.overtake(slot)
            self._drop_spares([spare for spare in [self._spare.get(slot)] if spare])
        for attention in self._attentions(slot):
            attention.overtaken = True

    def _wake(self, slot: str | None) -> None:
        for attention in self._attentions(slot):
            attention.woken.set()

    def _attentions(self, slot: str | None) -> list[_Attention]:
        if slot is not None:
            return list(self._waiting.get(slot, ()))
        return [attention for those in self._waiting.values() for attention in those]

    # Tasks and timers

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name="aiopromptcache lease")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        def due() -> None:
            self._timers.discard(handle)
            act()

        handle = asyncio.get_running_loop().call_later(seconds, due)
        self._timers.add(handle)

    async def aclose(self) -> None:
        """Give back what is held, and stop listening."""
        await self.claims.finish()
        loop = asyncio.get_running_loop()
        for timer in (*self._timers, *([self._renewal] if self._renewal else [])):
            timer.cancel()
        self._timers.clear()
        self._renewal = None
        self._spare.clear()
        for lease in list(self._held):
            self.give_back(lease)
        mine: list[asyncio.Task[Any]] = [t for t in self._tasks if t.get_loop() is loop]
        if self._listener is not None and self._listener.get_loop() is loop:
            self._listener.cancel()
            mine.append(self._listener)
        self._listener = None
        if mine:
            await asyncio.wait(mine)
