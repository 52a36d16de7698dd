"""Plain callables in worker threads, which nobody waits for longer than they want."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import anyio.to_thread

ABANDONED = 4
"""Calls left behind in threads, which cannot be ended, from which on no more are begun."""


class Threads:
    """Runs one callable, of which some calls may hang."""

    def __init__(self) -> None:
        self._abandoned: set[_Call] = set()

    async def run(self, work: Callable[..., Any], *given: Any) -> Any:
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
    def __init__(
        self, work: Callable[..., Any], given: tuple[Any, ...], abandoned: set[_Call]
    ) -> None:
        self._work = work
        self._given = given
        self._abandoned = abandoned
        self._began = self._ended = False

    def run(self) -> Any:
        self._began = True
        try:
            return self._work(*self._given)
        finally:
            self._ended = True
            self._abandoned.discard(self)

    def leave(self) -> None:
        """Nobody waits for it any more. It may end at any moment, in its thread."""
        if self._began and not self._ended:
            self._abandoned.add(self)
            if self._ended:
                self._abandoned.discard(self)


class Called:
    """A user's callable, plain or async. A plain one may block: it never runs on the event loop."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self._work = work
        inner = getattr(work, "__call__", None)  # noqa: B004  # of an object: its own
        self._is_async = any(map(inspect.iscoroutinefunction, (work, inner)))
        self._threads = Threads()

    async def __call__(self, *given: Any) -> Any:
        """What it gives; an awaitable that a plain one gives is awaited, on the event loop."""
        if self._is_async:
            return await self._work(*given)
        made = await self._threads.run(self._work, *given)
        return await made if inspect.isawaitable(made) else made
