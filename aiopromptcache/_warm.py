"""Answering many requests ahead of time: `PromptCache.warm`."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import anyio

from ._entry import Usage, total
from ._errors import ConfigurationError
from ._tally import Tally, current

NOTHING = Usage(0, 0, 0)
ERRORS = 20
"""Failures that a report shows."""

Item = Callable[[], Awaitable[Any]] | Mapping[str, Any]
Calls = Iterable[Item] | AsyncIterable[Item]


@dataclass(frozen=True, slots=True)
class WarmReport:
    """What warming has come to. Frozen; `on_progress` gets a new one after each request."""

    total: int = 0
    """Requests that have been dealt with."""
    fresh: int = 0
    """Those that needed no upstream call of their own."""
    stored: int = 0
    """Those that were asked upstream, and stored."""
    failed: int = 0
    """Those that raised, or got an old answer because the upstream failed."""
    usage: Usage = NOTHING
    """Tokens that were paid for."""
    cost: float | None = None
    """US dollars that were paid, as far as prices are known; None where none is."""
    errors: tuple[tuple[int, BaseException], ...] = ()
    """The first 20 failures: the position of the request, from 0, and what it raised."""

    @property
    def unstored(self) -> int:
        """Requests that were answered by upstream, and whose answer may not be stored."""
        return self.total - self.fresh - self.stored - self.failed


class StaleAnswer(Exception):
    """The upstream failed, and the old answer stays. Only ever in `WarmReport.errors`."""


class Warming:
    """One run over many requests; a few at a time, and only those in memory."""

    def __init__(
        self,
        calls: Calls,
        call_of: Callable[[int, Mapping[str, Any]], Callable[[], Awaitable[Any]]],
        policy: Callable[[], AbstractContextManager[None]],
        on_progress: Callable[[WarmReport], Any] | None,
    ) -> None:
        self._calls = _numbered(calls)
        self._call_of = call_of
        self._policy = policy
        self._on_progress = on_progress
        self._pulling = anyio.Lock()
        self._report = WarmReport()
        self._broken: Exception | None = None

    async def run(self, concurrency: int) -> WarmReport:
        """Deal with all of them. Raises what the input or `on_progress` raised, once those under
        way have ended.
        """
        async with anyio.create_task_group() as group:
            for _ in range(concurrency):
                group.start_soon(self._work)
        if self._broken is not None:
            raise self._broken
        return self._report

    async def _work(self) -> None:
        with self._policy():
            try:
                while (numbered := await self._pull()) is not None:
                    await self._answer(*numbered)
            except Exception as error:  # the input's, or the listener's
                self._broken = self._broken or error

    async def _pull(self) -> tuple[int, Any] | None:
        async with self._pulling:
            if self._broken is not None:
                return None
            return await anext(self._calls, None)

    async def _answer(self, position: int, item: Any) -> None:
        tally = Tally()
        error: BaseException | None = None
        token = current.set(tally)
        try:
            await self._call(position, item)
        except MissingClient:
            raise
        except Exception as raised:
            error = raised
        except asyncio.CancelledError as raised:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            error = raised  # the request cancelled itself
        finally:
            current.reset(token)
        if error is None and tally.stale:
            error = StaleAnswer("the upstream failed, and the old answer stays")
        self._count(position, tally, error)
        if self._on_progress is not None:
            result = self._on_progress(self._report)
            if inspect.isawaitable(result):
                await result

    async def _call(self, position: int, item: Any) -> None:
        call = self._call_of(position, item) if isinstance(item, Mapping) else item
        awaitable = call() if callable(call) else None
        if not inspect.isawaitable(awaitable):
            raise bad_item(position, item)
        result = await awaitable
        if isinstance(result, AsyncIterator) or hasattr(result, "__aiter__"):
            async for _ in result:  # a stream is stored when it has come to its end
                pass

    def _count(self, position: int, tally: Tally, error: BaseException | None) -> None:
        report = self._report
        kept = tally.stored == tally.paid
        errors = report.errors
        if error is not None and len(errors) < ERRORS:
            errors = (*errors, (position, error))
        self._report = replace(
            report,
            total=report.total + 1,
            fresh=report.fresh + (error is None and not tally.paid),
            stored=report.stored + (error is None and tally.paid > 0 and kept),
            failed=report.failed + (error is not None),
            usage=total([report.usage, *tally.usages]) or NOTHING,
            cost=_added([report.cost, *tally.costs]),
            errors=errors,
        )


class MissingClient(ConfigurationError):
    """Requests were given as dicts, and no client to make them with."""


def bad_item(position: int, item: object) -> ConfigurationError:
    """For what is no request."""
    shown = (
        f"a dict with {', '.join(map(repr, item)) or 'nothing'}"
        if isinstance(item, Mapping)
        else repr(item)
    )
    return ConfigurationError(
        f"warm: item {position} is {shown[:80]}; allowed: a callable without arguments that "
        "returns an awaitable, a dict of chat.completions.create arguments, or an OpenAI batch "
        "line (a dict with 'url' and 'body')"
    )


def _added(costs: Iterable[float | None]) -> float | None:
    known = [cost for cost in costs if cost is not None]
    return math.fsum(known) if known else None


async def _numbered(calls: Calls) -> AsyncIterator[tuple[int, Any]]:
    """Items one by one, as they are asked for."""
    position = 0
    if isinstance(calls, AsyncIterable):
        async for item in calls:
            yield position, item
            position += 1
    else:
        for item in calls:
            yield position, item
            position += 1
