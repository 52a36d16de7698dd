"""What is on its way into the tiers, and who writes to those that judge no write."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ._entry import Entry
from ._flights import Flight
from ._idle import idle_time
from .tiers._base import Lease


class Keeping:
    """A flight's entry on its way into the tiers."""

    __slots__ = ("entry", "flight", "lease", "replaced")

    def __init__(self, flight: Flight[Any], entry: Entry, lease: Lease | None = None) -> None:
        self.flight = flight
        self.entry = entry
        self.lease = lease
        self.replaced = False
        """Is the slot's value another, or gone?"""

    @property
    def overtaken(self) -> bool:
        """Is it not to be kept any more?"""
        return self.flight.detached or self.replaced

    @property
    def stands(self) -> bool:
        """Is the entry the slot's value, also if the shared tier does not say so?"""
        return not (self.overtaken or self.flight.unsure)


class Turns:
    """Who writes which slots now. What overtakes a write is written after it."""

    def __init__(self, longest: float) -> None:
        self._longest = longest
        """Seconds after which nobody waits for a write that its tier does not let go."""
        self._writing: dict[str, set[asyncio.Future[None]]] = {}

    @contextmanager
    def taken(self, slots: Iterable[str]) -> Iterator[set[asyncio.Future[None]]]:
        """Slots are written inside. Gives those who came before, to `wait` for."""
        mine, earlier = list(slots), self.earlier(slots)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for slot in mine:
            self._writing.setdefault(slot, set()).add(done)
        try:
            yield earlier
        finally:
            done.set_result(None)
            for slot in mine:
                self._writing[slot].discard(done)
                if not self._writing[slot]:
                    del self._writing[slot]

    def earlier(self, slots: Iterable[str] | None = None) -> set[asyncio.Future[None]]:
        """Who writes these slots (None: any) now. What another, ended loop left does not."""
        loop = asyncio.get_running_loop()
        writing = self._writing
        names = list(writing) if slots is None else [slot for slot in slots if slot in writing]
        found = set[asyncio.Future[None]]().union(*[writing[slot] for slot in names])
        return {done for done in found if done.get_loop() is loop}

    async def wait(self, earlier: set[asyncio.Future[None]]) -> float:
        """Wait until they have written; gives the seconds that it took."""
        started = idle_time()
        if earlier:
            await asyncio.wait(earlier, timeout=self._longest)
        return idle_time() - started
