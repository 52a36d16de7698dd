"""A network and a server in virtual time: what takes seconds elsewhere takes none.

The server does in one step what the scripts of the Redis tier do. On the way to it and back
everything takes random time, and may be lost.
"""

from __future__ import annotations

import asyncio
import builtins
import itertools
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from aiopromptcache import Entry
from aiopromptcache.tiers._base import GIVEN, Claim, Lease, News, TierContext

T = TypeVar("T")

LONGEST = 0.01
"""Seconds that a command takes one way, unless it is held up."""
LEASE = 5.0


@dataclass
class Held:
    """A lease on the server."""

    token: str
    until: float
    waited: bool = False


class SimulatedServer:
    """Entries, leases and the log of one namespace; every method is one atomic step."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[bytes, Entry]] = {}
        self.leases: dict[str, Held] = {}
        self.unbooked: set[str] = set()
        """On a cluster: slots whose entries no tag knows yet."""
        self.log: list[tuple[str, str, str]] = []
        """Of each news kind, name and writer; its position is one more than its place."""
        self._marks = itertools.count(1)
        self.frozen_until, self._thawed = 0.0, itertools.count(1)
        self._said = asyncio.Event()

    def freeze(self, seconds: float) -> None:
        """It stands still, as a process that was stopped: what comes waits in line."""
        if self._now() + seconds > self.frozen_until:
            self.frozen_until, self._thawed = self._now() + seconds, itertools.count(1)

    def runs(self, arrives: float) -> float:
        """When it comes to a command that arrives then."""
        if arrives > self.frozen_until:
            return arrives
        return self.frozen_until + next(self._thawed) * 1e-6

    def _say(self, kind: str, name: str, writer: str) -> None:
        self.log.append((kind, name, writer))
        self._said.set()
        self._said = asyncio.Event()

    async def news(self, since: int) -> list[tuple[str, str, str]]:
        """What was said after a position, as soon as there is any."""
        while len(self.log) <= since:
            await self._said.wait()
        return self.log[since:]

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _held(self, slot: str) -> Held | None:
        held = self.leases.get(slot)
        return held if held is not None and held.until > self._now() else None

    def _overtaken(self, since: str, slot: str, entry: Entry, but: str) -> bool:
        names = {"stored": {slot}, "dropped": {slot}, "tag": set(entry.tags)}
        at = 0 if since == "0-0" else int(since)
        return any(
            writer != but and (kind == "clear" or name in names.get(kind, ()))
            for kind, name, writer in self.log[at:]
        )

    def _store(self, slot: str, entry: Entry) -> None:
        self.entries[slot] = (b"%d" % next(self._marks), entry)
        self.leases.pop(slot, None)

    def claim(self, slots: Sequence[str], token: str, past: bytes, take: bool) -> list[Claim]:
        answers = []
        for slot in slots:
            mark, entry = self.entries.get(slot, (b"", None))
            held = self._held(slot)
            if entry is not None and not take and mark != past:
                answers.append(Claim(entry, mark))
            elif held is not None and not take and held.token != token:
                held.waited = True
                answers.append(Claim(wait=held.until - self._now()))
            else:
                self.leases[slot] = Held(token, self._now() + LEASE, take)
                answers.append(Claim(lease=Lease(slot, token, str(len(self.log)))))
        return answers

    def get(self, slots: Sequence[str]) -> dict[str, Entry]:
        return {slot: self.entries[slot][1] for slot in slots if slot in self.entries}

    def set(self, slot: str, entry: Entry, writer: str) -> None:
        self._store(slot, entry)
        self._say("dropped", slot, writer)

    def put_unbooked(self, entry: Entry, lease: Lease, mode: str) -> int:
        """Half a fill, where on a cluster the entry is: 0, or 1, or 2 where it is to be told."""
        slot, held = lease.slot, self._held(lease.slot)
        token = lease.token if mode == "fill" else ""
        if token and not (held is not None and held.token == token):
            known = self.entries.get(slot)
            if known is not None and known[1] is entry:
                return 1
            if known is not None or held is not None:
                return 0
        waited = held is not None and held.waited
        told = mode == "set" or waited or slot in self.entries or token == ""
        self._store(slot, entry)
        self.unbooked.add(slot)
        return 2 if told else 1

    def book(self, entry: Entry, lease: Lease, kind: str, writer: str, but: str | None) -> bool:
        """The other half of it, where the log is; `but` is None where nothing speaks against it."""
        if but is not None and self._overtaken(lease.since, lease.slot, entry, but):
            return False
        if kind:
            self._say(kind, lease.slot, writer)
        self.unbooked.discard(lease.slot)
        return True

    def stands(self, entry: Entry, lease: Lease, but: str) -> bool:
        """Has nothing overtaken it?"""
        return not self._overtaken(lease.since, lease.slot, entry, but)

    def has(self, entry: Entry, slot: str) -> bool:
        """Is this entry there?"""
        return slot in self.entries and self.entries[slot][1] is entry

    def fill(self, entry: Entry, lease: Lease, writer: str, aside: str) -> bool:
        slot, given = lease.slot, lease.token == GIVEN
        token = "" if given else lease.token
        held = self._held(slot)
        mine = held is not None and held.token == token
        if token and not mine:
            known = self.entries.get(slot)
            if known is not None and known[1] is entry:
                return True
            if known is not None or held is not None:
                return False
        if self._overtaken(lease.since, slot, entry, aside if given else ""):
            if held is not None and mine:
                del self.leases[slot]
                if held.waited:
                    self._say("released", slot, writer)
            if given:
                self.entries.pop(slot, None)
                self._say("dropped", slot, writer)
            return False
        told = not token or slot in self.entries or (held is not None and held.waited)
        self._store(slot, entry)
        if told:
            self._say("stored", slot, writer)
        return True

    def delete(self, slots: Sequence[str], writer: str) -> set[str]:
        gone = {slot for slot in slots if self.entries.pop(slot, None) is not None}
        for slot in slots:
            self.leases.pop(slot, None)
            self._say("dropped", slot, writer)
        return gone

    def release(self, lease: Lease, shareable: bool, writer: str) -> None:
        held = self._held(lease.slot)
        if held is not None and held.token == lease.token:
            del self.leases[lease.slot]
            if held.waited:
                self._say("released" if shareable else "unstorable", lease.slot, writer)

    def renew(self, lease: Lease) -> None:
        held = self._held(lease.slot)
        if held is not None and held.token == lease.token:
            held.until = self._now() + LEASE

    def invalidate(self, tag: str, writer: str) -> int:
        gone = [slot for slot, (_, entry) in self.entries.items() if tag in entry.tags]
        for slot in gone:
            del self.entries[slot]
        self._say("tag", tag, writer)
        return len(gone)

    def tell(self, kind: str, name: str, writer: str) -> None:
        """Say something, and nothing else."""
        self._say(kind, name, writer)

    def carrying(self, tag: str) -> list[str]:
        """Slots of entries that carry a tag."""
        known = [item for item in self.entries.items() if item[0] not in self.unbooked]
        return [slot for slot, (_, entry) in known if tag in entry.tags]

    def position(self) -> str:
        """How far the log goes."""
        return str(len(self.log))

    def unlink(self, slots: Iterable[str]) -> int:
        return sum(self.entries.pop(slot, None) is not None for slot in slots)

    def unlink_leases(self, slots: Iterable[str]) -> None:
        for slot in slots:
            self.leases.pop(slot, None)


class SimulatedTier:
    """One process's way to the server."""

    name = "simulated"
    timeout = 0.5
    bulk_timeout = 2.0
    lease = LEASE

    def __init__(self, server: SimulatedServer, rng: random.Random, writer: str) -> None:
        self._server = server
        self._rng = rng
        self._writer = writer
        self._tokens = itertools.count()
        self._attached = 0
        self._cut = asyncio.Event()
        self._busy_until = [0.0, 0.0]
        """When the last command of each connection arrives."""
        self.down_until = 0.0
        self._ears: list[float] = []
        """Since when each of its caches hears the news."""

    def attach(self, context: TierContext) -> None:
        self._attached += 1

    @property
    def _aside(self) -> str:
        """Whose news are none; see the Redis tier."""
        return self._writer if self._attached == 1 else ""

    # Faults

    def kill(self) -> None:
        """All connections are lost, and what is on them."""
        self._cut.set()
        self._cut = asyncio.Event()
        self._ears.clear()

    @property
    def hears(self) -> float:
        """Since when all its caches hear all news."""
        return max(self._ears) if len(self._ears) == self._attached else math.inf

    # The way there and back

    async def _do(self, step: Callable[[], T]) -> T:
        """One command, as a connection carries it: cancelled or not, it may still arrive."""
        loop, rng = asyncio.get_running_loop(), self._rng
        if loop.time() < self.down_until:
            await asyncio.sleep(rng.choice([0.0, 1.0]))
            raise ConnectionError("down")
        line = rng.randrange(len(self._busy_until))
        arrives = max(loop.time(), self._busy_until[line]) + rng.uniform(0, LONGEST)
        self._busy_until[line] = arrives
        arrives = self._server.runs(arrives)
        reply: asyncio.Future[T] = loop.create_future()

        def arrive() -> None:
            result = step()
            loop.call_later(rng.uniform(0, LONGEST), answer, result)

        def answer(result: T) -> None:
            if not reply.done():
                reply.set_result(result)

        arrival = loop.call_at(arrives, arrive)
        lost = asyncio.ensure_future(self._cut.wait())
        try:
            await asyncio.wait([reply, lost], return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
        if reply.done():
            return reply.result()
        reply.cancel()
        if loop.time() < arrives:  # it was still under way: the server has it all, or never will
            arrival.cancel()
            if rng.random() < 0.5:
                step()
        raise ConnectionError("the connection was lost")

    async def claim(
        self, slots: Sequence[str], *, past: bytes = b"", take: bool = False
    ) -> Sequence[Claim]:
        token = f"{self._writer}.{next(self._tokens)}"
        return await self._do(lambda: self._server.claim(slots, token, past, take))

    async def get(self, slots: Sequence[str]) -> Mapping[str, Entry]:
        return await self._do(lambda: self._server.get(slots))

    async def set(self, entries: Mapping[str, Entry]) -> None:
        for slot, entry in entries.items():
            await self._do(lambda s=slot, e=entry: self._server.set(s, e, self._writer))  # type: ignore[misc]

    async def fill(self, entries: Sequence[tuple[Entry, Lease]]) -> Sequence[bool | None]:
        server, writer, aside = self._server, self._writer, self._aside
        each = [
            self._do(lambda e=entry, le=lease: server.fill(e, le, writer, aside))  # type: ignore[misc]
            for entry, lease in entries
        ]
        return await asyncio.gather(*each)

    async def delete(self, slots: Sequence[str]) -> set[str]:
        return await self._do(lambda: self._server.delete(slots, self._writer))

    async def release(self, leases: Sequence[Lease], *, shareable: bool = True) -> None:
        for lease in leases:
            await self._do(lambda le=lease: self._server.release(le, shareable, self._writer))  # type: ignore[misc]

    async def renew(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            await self._do(lambda le=lease: self._server.renew(le))  # type: ignore[misc]

    async def invalidate(self, namespace: str, tags: Iterable[str]) -> int:
        count = 0
        for tag in tags:
            count += await self._do(lambda t=tag: self._server.invalidate(t, self._writer))  # type: ignore[misc]
        return count

    async def clear(self, namespace: str) -> int:
        """In steps, as a scan is."""
        server = self._server
        await self._do(lambda: server.tell("clear", "", self._writer))
        slots, count = await self._do(lambda: list(server.entries)), 0
        while slots:
            some, slots = slots[:5], slots[5:]
            count += await self._do(lambda some=some: server.unlink(some))  # type: ignore[misc]
        leases = await self._do(lambda: list(server.leases))
        await self._do(lambda: server.unlink_leases(leases))
        await self._do(lambda: server.tell("clear", "", self._writer))
        return count

    async def listen(
        self, namespace: str, since: str, told: Callable[[News], Awaitable[None]]
    ) -> None:
        server, cut, loop = self._server, self._cut, asyncio.get_running_loop()
        lost = not since
        position = await self._do(lambda: int(since) if since else len(server.log))
        await told(News("listening", str(position), lost=lost))
        self._ears.append(loop.time())
        ended = asyncio.ensure_future(cut.wait())
        try:
            while True:
                waiting = asyncio.ensure_future(server.news(position))
                await asyncio.wait([waiting, ended], return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    waiting.cancel()
                    raise ConnectionError("the connection was lost")
                await asyncio.sleep(self._server.runs(loop.time()) - loop.time())
                await asyncio.sleep(self._rng.uniform(0, LONGEST))
                for kind, name, writer in waiting.result():
                    position += 1
                    own = writer == self._aside
                    await told(News(kind, str(position), name, own=own))  # type: ignore[arg-type]
        finally:
            ended.cancel()

    async def aclose(self) -> None: ...


class ClusteredTier(SimulatedTier):
    """The same on a cluster, where an entry, the log and the tags are in several places."""

    async def claim(
        self, slots: Sequence[str], *, past: bytes = b"", take: bool = False
    ) -> Sequence[Claim]:
        server, token = self._server, f"{self._writer}.{next(self._tokens)}"
        since = await self._do(server.position)
        each = [
            self._do(lambda slot=slot: server.claim([slot], token, past, take))  # type: ignore[misc]
            for slot in slots
        ]
        claims = [claim for [claim] in await asyncio.gather(*each)]
        return [c._replace(lease=c.lease and c.lease._replace(since=since)) for c in claims]

    async def set(self, entries: Mapping[str, Entry]) -> None:
        for slot, entry in entries.items():
            await self._put(entry, Lease(slot, "", ""), "set", None)

    async def fill(self, entries: Sequence[tuple[Entry, Lease]]) -> Sequence[bool | None]:
        return await asyncio.gather(*[self._fill(entry, lease) for entry, lease in entries])

    async def _fill(self, entry: Entry, lease: Lease) -> bool:
        given = lease.token == GIVEN
        return await self._put(
            entry, lease, "given" if given else "fill", self._aside if given else ""
        )

    async def _put(self, entry: Entry, lease: Lease, mode: str, but: str | None) -> bool:
        server, writer, slot = self._server, self._writer, lease.slot
        if mode == "set":
            await self._do(lambda: server.tell("dropped", slot, writer))
        aside = but if lease.token in ("", GIVEN) else None
        if aside is not None and not await self._do(lambda: server.stands(entry, lease, aside)):
            if mode == "given" or await self._do(lambda: server.has(entry, slot)):
                await self._void(slot)
            return False
        put = await self._do(lambda: server.put_unbooked(entry, lease, mode))
        if not put:
            return False
        kind = "dropped" if mode == "set" else "stored" if put == 2 else ""
        if await self._do(lambda: server.book(entry, lease, kind, writer, but)):
            return True
        await self._void(slot)
        return False

    async def _void(self, slot: str) -> None:
        await self._do(lambda: self._server.unlink([slot]))
        await self._do(lambda: self._server.tell("dropped", slot, self._writer))

    async def delete(self, slots: Sequence[str]) -> builtins.set[str]:
        server, writer = self._server, self._writer
        gone = builtins.set[str]()
        for slot in slots:
            await self._do(lambda s=slot: server.tell("dropped", s, writer))  # type: ignore[misc]
            await self._do(lambda s=slot: server.unlink_leases([s]))  # type: ignore[misc]
            if await self._do(lambda s=slot: server.unlink([s])):  # type: ignore[misc]
                gone.add(slot)
            await self._do(lambda s=slot: server.tell("dropped", s, writer))  # type: ignore[misc]
        return gone

    async def invalidate(self, namespace: str, tags: Iterable[str]) -> int:
        server, writer, count = self._server, self._writer, 0
        for tag in tags:
            await self._do(lambda t=tag: server.tell("tag", t, writer))  # type: ignore[misc]
            slots = await self._do(lambda t=tag: server.carrying(t))  # type: ignore[misc]
            count += await self._do(lambda s=slots: server.unlink(s))  # type: ignore[misc]
            await self._do(lambda t=tag: server.tell("tag", t, writer))  # type: ignore[misc]
        return count
