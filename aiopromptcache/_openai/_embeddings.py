"""Embeddings cached by item: of many inputs the upstream gets only those that nobody knows.

Each distinct input has a key of its own, made of all that the request says besides its inputs. A
call reads all its items at once, joins the batches that are bringing some of them, and asks
upstream once for the rest.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Container, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple, cast

import orjson

from .._ask import Answer, Ask, Landed
from .._batches import Batch, Fetched
from .._engine import Engine
from .._entry import Entry, Kind, total
from .._errors import NotCached
from .._flights import FlightLost, OutOfPatience
from .._found import Found
from .._idle import idle_time
from .._keys import canonical
from .._policy import Verdict, decide, refused_as
from .._refresh import in_background, replaces
from ._endpoints import Body
from ._vectors import is_item

Load = Callable[[Sequence[str] | None], Awaitable[Fetched]]
"""Asks upstream for some slots; None: for all, just as the caller asked."""


class Items(NamedTuple):
    """The inputs of a request, by their keys."""

    keys: list[str]
    slots: list[str]
    family: bytes
    """What they share: all that counts besides the inputs."""

    @property
    def key(self) -> str:
        """What `cache.delete` takes to remove all of them."""
        return ",".join(dict.fromkeys(self.keys))


def split(value: Any) -> Sequence[Any] | None:
    """A request's `input` as a sequence of strings or token arrays; None for anything else."""
    if type(value) is str:
        return [value]
    if type(value) not in (list, tuple) or not value:
        return None
    kinds = set(map(type, value))
    if kinds == {str}:
        return list(value)
    if kinds == {int}:
        return [value]
    if kinds <= {list, tuple} and all(one and set(map(type, one)) == {int} for one in value):
        return list(value)
    return None


def items_of(
    prefix: bytes, slots: str, params: Body, sent: Body, odd: Container[bytes]
) -> Items | None:
    """The items of a request; None where it has no items to tell apart.

    `params` is what is hashed, `sent` what is sent; `prefix` scopes the keys, `slots` begins the
    slots; `odd` are the families that cannot be taken apart.
    """
    inputs, originals = split(params.get("input")), split(sent.get("input"))
    if inputs is None or originals is None or len(inputs) != len(originals) or sent.get("stream"):
        return None
    rest = canonical({name: value for name, value in params.items() if name != "input"})
    begun = hashlib.sha256(prefix + b"item" + rest)
    family = begun.digest()
    if family in odd:
        return None
    keys = []
    for one in inputs:
        digest = begun.copy()
        try:
            digest.update(orjson.dumps(one))
        except orjson.JSONEncodeError:  # a lone surrogate: what is sent is keyed
            digest.update(canonical(one))
        keys.append(digest.hexdigest())
    return Items(keys, [slots + key for key in keys], family)


class Assembled(NamedTuple):
    """An answer made of items."""

    answer: Answer
    """Its entry stands for all items; its `extra` is what one upstream call gave for all."""
    entries: list[Entry]
    """In the order of the inputs."""
    paid: list[Any]
    """The `extra` of the upstream calls of this caller's own."""
    genuine: bool = False
    """True where one of them was just what the caller had asked for."""


class Whole(Exception):
    """The upstream does not answer item by item.

    `landed` is its answer to this very request, if there is one; `leader`: to this very call.
    """

    def __init__(self, landed: Landed | None = None, *, leader: bool = False) -> None:
        super().__init__()
        self.landed = landed
        self.leader = leader


class Gathering:
    """One call's items."""

    def __init__(
        self,
        engine: Engine,
        ask: Ask,
        items: Items,
        load: Load,
        due: frozenset[str] | None = None,
    ) -> None:
        self._due = due
        """What to refresh ahead of time; None: not known yet."""
        self._engine = engine
        self._ask = ask
        self._items = items
        self._slots = list(dict.fromkeys(items.slots))
        self._whole = ask.slot
        """Where the answer is kept if it cannot be taken apart."""
        self._load = load
        self._found: dict[str, Found] = {}
        self._old: dict[str, Found] = {}
        """What may stand in if the upstream fails."""
        self._aged: list[str] = []
        """What is to be refreshed in the background."""
        self._brought: dict[str, Entry] = {}
        self._stored: set[str] = set()
        self._asked = False
        self._genuine = False
        self._paid: list[Fetched] = []

    async def answer(self) -> Assembled | Whole:
        """All items, or a `Whole` (not raised: what its caller goes on to raise has nothing to do
        with it). Raises what the upstream raised, `NotCached` and `OutOfPatience`.
        """
        ask = self._ask
        if not ask.policy.no_cache:
            self._look_here()
        if all(slot in self._found for slot in self._slots):
            return self._hit()
        outcome: Assembled | Whole | None = None

        async def wait(ask: Ask) -> Answer | None:
            nonlocal outcome
            try:
                outcome = await self._elsewhere()
            except Whole as whole:  # no failure
                outcome = whole
                return None
            return outcome.answer

        await self._engine.answers.waited(ask, wait)
        return cast("Assembled | Whole", outcome)

    async def _elsewhere(self) -> Assembled:
        """All items, some of which memory does not have."""
        ask = self._ask
        if not ask.policy.no_cache:
            await self._look()
        missing = [slot for slot in self._slots if slot not in self._found]
        if missing and ask.policy.only_if_cached:
            self._engine.ledger.count_request(ask.endpoint, leader=True)
            self._engine.answers.tell("miss", ask)
            raise NotCached(f"only_if_cached: {len(missing)} of the inputs are in no tier")
        try:
            await self._fetch(missing)
        except Whole:
            raise
        except Exception as error:
            if not self._rescued(missing, error):
                self._engine.ledger.count_request(ask.endpoint, leader=self._asked)
                raise
            return self._hit(fwd="stale")
        return self._fetched() if missing else self._hit()

    # Looking

    def _look_here(self) -> None:
        """What the local tier has, without awaiting."""
        storage = self._engine.storage
        for slot in self._slots:
            if (entry := storage.peek(slot)) is not None:
                self._judge(slot, Found(entry, storage.local_name))

    async def _look(self) -> None:
        """What remote tiers have of the rest."""
        storage = self._engine.storage
        missing = [slot for slot in self._slots if slot not in self._found]
        whole = storage.peek(self._whole) if len(missing) == len(self._slots) else None
        if missing and storage.remote:
            started = idle_time()
            promote = not self._ask.policy.no_store
            found = await storage.look_many([*missing, self._whole], promote=promote)
            self._ask.spent += idle_time() - started
            for slot in missing:
                if slot in found:
                    self._judge(slot, found[slot])
            whole = whole or (found[self._whole].entry if self._whole in found else None)
        if whole is not None and not self._found:
            raise Whole

    def _judge(self, slot: str, found: Found) -> None:
        """Is this an item's vector for this caller?"""
        entry, policy, now = found.entry, self._ask.policy, self._engine.clock()
        if not is_item(entry):
            return
        verdict = decide(entry, policy, now)
        failures = self._engine.refreshes.failures
        if verdict is Verdict.UNUSABLE or (
            verdict is Verdict.ON_ERROR and not failures.lately(slot, outage=True)
        ):
            self._ask.fwd = refused_as(entry, now)
            if verdict is Verdict.ON_ERROR:
                self._old[slot] = found
            return
        self._found[slot] = found
        if verdict is Verdict.REVALIDATE or (
            slot in self._due if self._due is not None else self._engine.is_due(entry, policy)
        ):
            self._aged.append(slot)

    # Asking

    async def _fetch(self, missing: list[str]) -> None:
        """Bring what is missing; what others' calls fail to bring is asked for once more."""
        policy = self._ask.policy
        share = not policy.no_cache and not policy.no_store
        while missing:
            theirs: dict[Batch, list[str]] = {}
            mine: list[str] = []
            for slot in missing:
                batch = self._engine.batches.find(slot) if share else None
                (mine if batch is None else theirs.setdefault(batch, [])).append(slot)
            own = self._start(mine) if mine else None
            await self._join(theirs, own)
            missing = [slot for slot in missing if slot not in self._brought]
            if own is not None and not own.slots.isdisjoint(missing):
                raise Whole  # the answer was none to these inputs
            share = False

    def _start(self, slots: list[str]) -> Batch:
        """Ask upstream for slots: as the caller did, where they are all that it asked for."""
        self._asked = True
        every = self._genuine = len(slots) == len(self._items.slots)
        policy = self._ask.policy
        return self._engine.batches.start(
            self._ask,
            slots,
            lambda slots: self._load(None if every else slots),
            instead=self._whole if every else None,
            shared=not policy.no_cache and not policy.no_store,
        )

    async def _join(self, theirs: dict[Batch, list[str]], own: Batch | None) -> None:
        flights, ask = self._engine.flights, self._ask
        joins = [flights.join(b.flight, leader=False, timeout=ask.patience) for b in theirs]
        if own is not None:
            joins.append(flights.join(own.flight, leader=True))
        outcomes = await _all(joins)
        if ask.waiting is not None:
            for batch in theirs:
                ask.waiting.follows(batch.flight)
        for (batch, slots), outcome in zip(theirs.items(), outcomes, strict=False):
            self._take(batch, slots, outcome)
        if own is not None:
            self._take_own(own, outcomes[-1])

    def _take_own(self, own: Batch, outcome: Fetched | BaseException) -> None:
        if isinstance(outcome, FlightLost):
            raise asyncio.CancelledError
        if isinstance(outcome, BaseException):
            raise outcome
        self._paid.append(outcome)
        self._take(own, own.slots, outcome, leader=True)

    def _take(
        self,
        batch: Batch,
        slots: Iterable[str],
        outcome: Fetched | BaseException,
        *,
        leader: bool = False,
    ) -> None:
        """What a batch brought; its failure where it concerns this call."""
        if isinstance(outcome, BaseException):
            if self._concerns(batch, outcome):
                raise outcome
            return
        entries, stored = outcome.entries, outcome.stored
        if (whole := entries.get(self._whole)) is not None:
            landed = Landed(whole, None, self._whole in stored, outcome.extra if leader else None)
            raise Whole(landed, leader=leader)
        self._brought.update({slot: entries[slot] for slot in slots if slot in entries})
        self._stored |= stored

    def _concerns(self, batch: Batch, error: BaseException) -> bool:
        """Would this call have failed alike? Not where an input that it has not may be to blame."""
        if isinstance(error, FlightLost):
            return False
        if isinstance(error, OutOfPatience) or not isinstance(error, Exception):
            return True
        if self._ask.outlasts(error, batch.flight.patience):
            return False
        return batch.slots <= set(self._slots)

    def _rescued(self, missing: list[str], error: Exception) -> bool:
        """May old items stand in for what the upstream failed to bring?"""
        engine, ask = self._engine, self._ask
        impatient = isinstance(error, OutOfPatience)
        if ask.policy.no_cache or not (impatient or ask.outage(error)):
            return False
        if not impatient:
            for slot in missing:
                engine.refreshes.failures.note(slot, outage=True)
        rest = [slot for slot in missing if slot not in self._brought]
        if not all(slot in self._old for slot in rest):
            return False
        self._found.update({slot: self._old[slot] for slot in rest})
        return True

    # Telling

    def _entries(self) -> list[Entry]:
        return [self._entry(slot) for slot in self._items.slots]

    def _entry(self, slot: str) -> Entry:
        brought = self._brought.get(slot)
        return self._found[slot].entry if brought is None else brought

    def _hit(self, *, fwd: str | None = None) -> Assembled:
        """No upstream call has brought any of it."""
        engine, entries = self._engine, self._entries()
        local = engine.storage.local_name
        tiers = {found.tier for found in self._found.values()} - {local}
        self._refresh()
        took = max((f.took for f in self._found.values() if f.took is not None), default=None)
        whole, tier = summary(entries, engine.clock()), min(tiers, default=local)
        answer = engine.answers.hit(self._items.key, whole, tier, took=took, fwd=fwd)
        return Assembled(answer, entries, [fetched.extra for fetched in self._paid])

    def _fetched(self) -> Assembled:
        """An upstream call has brought some of it, this caller's or another's."""
        engine, ask, leader = self._engine, self._ask, bool(self._paid)
        entries = self._entries()
        self._refresh()
        engine.ledger.count_request(ask.endpoint, leader=leader)
        billed = {slot for fetched in self._paid for slot in fetched.entries}
        free = [self._entry(slot) for slot in self._items.slots if slot not in billed]
        if free:
            engine.ledger.saved(summary(free, engine.clock()))
        brought = summary(list(self._brought.values()), engine.clock())
        paid: list[Entry] = []
        for fetched in self._paid:
            whole = summary(list(fetched.entries.values()), engine.clock())
            engine.ledger.paid(whole, stored=fetched.stored >= fetched.entries.keys())
            paid += fetched.entries.values()
        # What others have paid for is not told as this caller's cost.
        told = summary(paid if leader else free, engine.clock())
        engine.answers.tell("miss" if leader else "collapsed", ask, entry=told)
        stored = self._stored >= self._brought.keys()
        fwd = ("request" if ask.policy.no_cache else ask.fwd) if leader else "miss"
        ttl = brought.ttl if stored else None
        status = (self._items.key, False, None, None, ttl, fwd, not leader, stored)
        extras = [fetched.extra for fetched in self._paid]
        return Assembled(Answer(brought, status), entries, extras, self._genuine)

    def _refresh(self) -> None:
        """Fetch what is past its time, in the background."""
        engine, ask = self._engine, self._ask
        slots = [
            slot
            for slot in self._aged
            if not engine.refreshes.failures.lately(slot) and not engine.batches.find(slot)
        ]
        if not slots or ask.policy.only_if_cached:
            return
        seen = {slot: self._found[slot].entry for slot in slots}

        def replaced(slot: str, entry: Entry) -> bool:
            fresh = decide(entry, ask.policy, engine.clock()) is Verdict.FRESH
            return fresh and replaces(entry, seen[slot])

        asked = in_background(ask)
        batch = engine.batches.start(asked, slots, self._load, replaced=replaced)
        engine.refreshes.watch(
            batch.flight, ask, slots, lambda fetched: self._refreshed(slots, fetched)
        )

    def _refreshed(self, slots: list[str], fetched: Fetched) -> None:
        engine = self._engine
        if fetched.asked:
            engine.stats.refreshes += 1
            paid = list(fetched.entries.values())
            told = {"entry": summary(paid, engine.clock())} if paid else {}
            engine.answers.tell("refresh", self._ask, **told)
        for slot in slots:  # what another process is refreshing is not asked about again at once
            if slot not in fetched.stored:
                engine.refreshes.failures.note(slot, outage=False)


async def _all(joins: Sequence[Coroutine[Any, Any, Fetched]]) -> list[Fetched | BaseException]:
    """The outcomes of several waits, which begin and end together; of one without a task."""
    if len(joins) > 1:
        return await asyncio.gather(*joins, return_exceptions=True)
    try:
        return [await joins[0]]
    except Exception as error:
        return [error]


class _Several(Entry):
    """One entry that stands for several."""

    __slots__ = ("entries",)
    entries: Sequence[Entry]

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries)


def summary(entries: Sequence[Entry], now: float) -> Entry:
    """One entry that stands for several: as old as the oldest, over as soon as the first."""
    if len(entries) == 1:
        return entries[0]
    oldest = min(entry.stored_at for entry in entries)
    left = [entry.stored_at + entry.ttl - now for entry in entries if entry.ttl is not None]
    first = entries[0]
    several = _Several(
        Kind.VECTOR,
        b"",
        stored_at=oldest,
        ttl=min(left) + (now - oldest) if left else None,
        cost=max(entry.cost for entry in entries),
        endpoint=first.endpoint,
        model=first.model,
        billed=first.billed,
        usage=total(entry.usage for entry in entries),
    )
    several.entries = entries
    return several
