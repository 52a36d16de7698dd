"""Storing what another cache had, and nobody's newer answer is lost by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .._entry import Entry
from ..tiers._base import Claim, Lease
from ._session import Session

NEWER = 1.0
"""Seconds: the server's clock is read with less accuracy than an entry's time."""


class Seeding:
    """Entries of a file on their way into a namespace."""

    def __init__(self, session: Session, *, overwrite: bool) -> None:
        self._session = session
        self._tier = session.tier
        self._overwrite = overwrite
        self.counts = {"imported": 0, "kept": 0, "expired": 0, "refused": 0}
        """`kept`: what the cache has is as new or newer, or is just being made anew; `refused`:
        what the server cannot keep."""

    async def store(self, entries: Mapping[str, Entry]) -> None:
        """Store some entries by key."""
        now = self._session.clock()
        live = {
            self._session.slots + key: entry
            for key, entry in entries.items()
            if entry.expires_at > now
        }
        self.counts["expired"] += len(entries) - len(live)
        if self._overwrite:
            await self._put(live)
        elif live:
            await self._fill(live)

    async def _put(self, entries: Mapping[str, Entry]) -> None:
        if entries:
            await self._session.within(self._tier.set(entries))
            self.counts["imported"] += len(entries)

    async def _fill(self, entries: Mapping[str, Entry]) -> None:
        """With a lease for each that is missing: what comes meanwhile is not overwritten."""
        claims = await self._session.within(self._tier.claim(list(entries)))
        leased: list[tuple[Entry, Lease]] = []
        older: dict[str, Entry] = {}
        for (slot, entry), claim in zip(entries.items(), claims, strict=True):
            if claim.lease is not None:
                leased.append((entry, claim.lease))
            elif _is_older(claim, entry):
                older[slot] = entry
            else:
                self.counts["kept"] += 1
        if leased:
            self._count(await self._session.within(self._tier.fill(leased)))
        await self._put(older)

    def _count(self, stored: Sequence[bool | None]) -> None:
        self.counts["imported"] += stored.count(True)
        self.counts["kept"] += stored.count(False)
        self.counts["refused"] += stored.count(None)


def _is_older(claim: Claim, entry: Entry) -> bool:
    """Is what is there older, or cannot be read?"""
    if claim.entry is None:
        return bool(claim.mark)
    return claim.entry.stored_at + NEWER < entry.stored_at
