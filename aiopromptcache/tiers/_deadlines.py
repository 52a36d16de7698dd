"""Deadlines by the thousand, with one timer for all of them.

`asyncio.timeout` makes and cancels a timer each time, and the loop's heap keeps the cancelled ones
for a while. Here most deadlines never touch the loop: a timer looks now and then at what is late.
Time in which the loop was busy with other work does not count (see `_idle`).
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from .._idle import idle_time

LOOKS = 10
"""How often the timer looks, in the time that a deadline usually takes: so late may one be."""


class Deadlines:
    """Makes deadlines; `usual` is how long most of them are, in seconds."""

    def __init__(self, usual: float) -> None:
        self._every = usual / LOOKS
        self._open: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def within(self, seconds: float) -> Deadline:
        """A context that raises `TimeoutError` where its body takes longer."""
        return Deadline(self, seconds)

    def add(self, deadline: Deadline, loop: asyncio.AbstractEventLoop) -> None:
        """Watch a deadline."""
        if loop is not self._loop:  # what another, ended loop left is not coming back
            self._loop, self._timer = loop, None
            self._open.clear()
        self._open.add(deadline)
        if self._timer is None:
            self._wait(loop)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self._every, self._look)

    def remove(self, deadline: Deadline) -> None:
        """It was kept, or has passed."""
        self._open.discard(deadline)

    def _look(self) -> None:
        self._timer = None
        if not self._open or self._loop is None:
            return
        now = idle_time()
        for deadline in list(self._open):
            if deadline.at <= now:
                deadline.pass_()
        self._wait(self._loop)


class Deadline:
    """As `asyncio.timeout`, for one body in one task; entered without awaiting."""

    __slots__ = ("_cancelling", "_deadlines", "_passed", "_task", "at")

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        self._deadlines = deadlines
        self._passed = False
        self.at = seconds  # until it is entered

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self.at += idle_time()
        self._deadlines.add(self, task.get_loop())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._deadlines.remove(self)
        if not self._passed:
            return
        ours = self._task.uncancel() <= self._cancelling
        if ours and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError from error

    def pass_(self) -> None:
        """Its time is up."""
        self._deadlines.remove(self)
        self._passed = True
        self._task.cancel()
