"""What takes many steps on the server: `clear` and `invalidate`, each step with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ._lua import INVALIDATE, PRUNE, SAY, STRIKE, Call
from ._names import Names

if TYPE_CHECKING:
    from ._link import Link

BATCH = 1_000
"""Keys that are handled at once."""


class Sweeper:
    """Removes much at once, and says so in the log."""

    def __init__(self, link: Link, names: Names, timeout: float) -> None:
        self._link = link
        self._names = names
        self._timeout = timeout

    async def clear(self, namespace: str) -> int:
        """See `Tier.clear`. Scans in batches; other namespaces are not touched."""
        # Said first, so that nothing that is on its way is stored behind the scan's back; and
        # last, so that nobody keeps what was read before the scan came to it.
        await self.say(namespace, b"c", b"", b"")
        entries, leases, tags = self._names.patterns(namespace)
        count = await self._unlink_matching(entries)
        await self._unlink_matching(leases)
        # The books stay as long as what is in them: something may be set meanwhile.
        await self._prune(self._names.index(namespace))
        async for books in self._link.scan(tags, BATCH):
            for members in books:
                await self._prune(members)
        if await self._unlink([self._names.questions(namespace)]):
            await self._unlink_matching(self._names.families(namespace))
        await self.say(namespace, b"c", b"", b"")
        return count

    async def invalidate(self, namespace: str, tags: Iterable[str]) -> int:
        """See `Tier.invalidate`. Works in batches; says so to all when nothing is left."""
        count = 0
        for tag in tags:
            name, sealed = self._names.tag_names(namespace, tag)[0], self._names.sealed(tag)
            older = self._names.tag_sets(namespace, tag)[1:]
            for members in older:
                count += await self._empty(namespace, members, [name, sealed, self._link.writer, 0])
            newest = self._names.tag_sets(namespace, tag)[0]
            count += await self._empty(namespace, newest, [name, sealed, self._link.writer, 1])
        return count

    async def _empty(self, namespace: str, members: bytes, news: list[Any]) -> int:
        """Remove what a tag's set names; gives how many entries were there."""
        if self._link.clustered:
            return await self._empty_slowly(namespace, members, news)
        keys = [self._names.log(namespace), self._names.index(namespace), members]
        total, seen = 0, BATCH
        while seen >= BATCH:
            async with asyncio.timeout(self._timeout):
                count, seen = await self._link.run(Call(INVALIDATE, keys, [BATCH, *news]))
            total += count
        return total

    async def _empty_slowly(self, namespace: str, members: bytes, news: list[Any]) -> int:
        total = 0
        await self.say(namespace, b"t", *news[:2])
        while keys := await self._step("ZRANGE", members, 0, BATCH - 1):
            total += await self._unlink(keys)
            await self._step("ZREM", members, *keys)
            await self._step("ZREM", self._names.index(namespace), *keys)
        if news[3]:
            await self.say(namespace, b"t", *news[:2])
        return total

    async def say(self, namespace: str, kind: bytes, name: bytes, sealed: bytes) -> None:
        """Tell all who listen."""
        log = self._names.log(namespace)
        async with asyncio.timeout(self._timeout):
            await self._link.run(Call(SAY, [log], [self._link.writer, kind, name, sealed]))

    async def _unlink_matching(self, pattern: bytes) -> int:
        count = 0
        async for keys in self._link.scan(pattern, BATCH):
            count += await self._unlink(keys)
        return count

    async def _step(self, *command: Any) -> Any:
        async with asyncio.timeout(self._timeout):
            return await self._link.command(*command)

    async def _unlink(self, keys: Sequence[bytes]) -> int:
        """One step of many; on a cluster each key is a command."""
        count, step = 0, 100 if self._link.clustered else BATCH
        for at in range(0, len(keys), step):
            async with asyncio.timeout(self._timeout):
                count += await self._link.unlink(keys[at : at + step])
        return count

    async def _prune(self, members: bytes) -> None:
        """Strike out of a book the entries that are gone."""
        at, seen = 0, BATCH
        while seen >= BATCH:
            async with asyncio.timeout(self._timeout):
                if self._link.clustered:
                    seen, gone = await self._prune_some(members, at)
                else:
                    seen, gone = await self._link.run(Call(PRUNE, [members], [at, BATCH]))
            at += seen - gone

    async def _prune_some(self, members: bytes, at: int) -> tuple[int, int]:
        """On a cluster the entries are elsewhere: one that was set anew has another score."""
        found = await self._link.command("ZRANGE", members, at, at + BATCH - 1, "WITHSCORES")
        if found and not isinstance(found[0], (list, tuple)):  # so it is in RESP 2
            found = list(zip(found[::2], found[1::2], strict=True))
        pairs = [(key, score) for key, score in found]
        there = await asyncio.gather(*[self._link.command("EXISTS", key) for key, _ in pairs])
        gone = [pair for pair, exists in zip(pairs, there, strict=True) if not exists]
        args = [part for pair in gone for part in pair]
        struck: int = await self._link.run(Call(STRIKE, [members], args)) if gone else 0
        return len(pairs), struck
