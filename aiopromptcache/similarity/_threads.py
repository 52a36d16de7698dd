"""Plain callables in worker threads, which nobody waits for longer than they want."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio.to_thread

ABANDONED = 4
"""Calls left behind in threads, which cannot be ended, from which on no more are begun."""


class Threads:
    """Runs one callable, of which some calls may hang."""

    def __init__(self) -> None:
        self._abandoned: set[_Call] = set()

    async def run(self, work: Callable[[Any], Any], given: Any) -> Any:
        """What `work` gives; `TimeoutError` where too many hang. Cancelling leaves it behind."""
        if len(self._abandoned) >= ABANDONED:
            raise TimeoutError(f"{ABANDONED} calls that took too long have not ended yet")
        call = _Call(work, given, self._abandoned)
        try:
            return await anyio.to_thread.run_sync(call.run, abandon_on_cancel=True)
        except asyncio.CancelledError:
            call.leave()
            raise


class _Call:
    def __init__(self, work: Callable[[Any], Any], given: Any, abandoned: set[_Call]) -> None:
        self._work = work
        self._given = given
        self._abandoned = abandoned
        self._began = self._ended = False

    def run(self) -> Any:
        self._began = True
        try:
            return self._work(self._given)
        finally:
            self._ended = True
            self._abandoned.discard(self)

    def leave(self) -> None:
        """Nobody waits for it any more. It may end at any moment, in its thread."""
        if self._began and not self._ended:
            self._abandoned.add(self)
            if self._ended:
                self._abandoned.discard(self)
