"""Counts of what the local server received and how it ended, and waiting for them."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from ._request import RecordedRequest

Outcome: TypeAlias = Literal["completed", "disconnects", "cut"]

KEPT: Final = 10_000


class Traffic:
    """All counts change synchronously; whoever waits for one is woken by the change."""

    def __init__(self) -> None:
        self.active = 0
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._epoch = 0
        self._forget()

    def _forget(self) -> None:
        self.calls = 0
        self.peak = self.active
        self.requests: deque[RecordedRequest] = deque(maxlen=KEPT)
        self.by_endpoint: Counter[str] = Counter()
        self.ended: Counter[Outcome] = Counter()

    def reset(self) -> None:
        """Start counting anew; calls under way stay active and will not be counted."""
        self._epoch += 1
        self._forget()
        self._changed()

    def begin(self, request: RecordedRequest) -> Call:
        self.calls += 1
        self.by_endpoint[request.endpoint] += 1
        self.requests.append(request)
        self.active += 1
        self.peak = max(self.peak, self.active)
        self._changed()
        return Call(self, self._epoch)

    def end(self, epoch: int, outcome: Outcome) -> None:
        self.active -= 1
        if epoch == self._epoch:
            self.ended[outcome] += 1
        self._changed()

    def _changed(self) -> None:
        for reached, waiter in self._waiters:
            if not waiter.done() and reached():
                waiter.set_result(None)

    async def wait(self, reached: Callable[[], bool], what: str, timeout: float) -> None:
        """Return as soon as `reached()` was true once; TimeoutError after `timeout` seconds."""
        if reached():
            return
        entry = (reached, asyncio.get_running_loop().create_future())
        self._waiters.append(entry)
        try:
            async with asyncio.timeout(timeout):
                await entry[1]
        except TimeoutError:
            raise TimeoutError(f"no {what} within {timeout:g} s: {self}") from None
        finally:
            self._waiters.remove(entry)

    def __str__(self) -> str:
        ended = ", ".join(f"{self.ended[key]} {key}" for key in ("completed", "disconnects", "cut"))
        return f"{self.calls} calls, {self.active} active, {ended}"


class Call:
    """One request under way; the first outcome given is the one that counts."""

    __slots__ = ("_epoch", "_traffic")

    def __init__(self, traffic: Traffic, epoch: int) -> None:
        self._traffic: Traffic | None = traffic
        self._epoch = epoch

    def end(self, outcome: Outcome) -> None:
        traffic, self._traffic = self._traffic, None
        if traffic is not None:
            traffic.end(self._epoch, outcome)
