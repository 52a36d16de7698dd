"""Watching one cache: a sample every five seconds, and what other processes say of theirs.

It begins when the cache is first used, or looked at, since nothing runs before that; then there is
a timer, and now and then a short task: a cache that nobody closes leaves nothing behind. Where a
tier can keep reports, this process tells the others of its counters while they change, and at least
every twenty seconds. Those of a process that has ended leave the totals, at once where its cache
was closed, else after a minute; what it did stays in the plots.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._timings import BOUNDS, Histogram
from ..tiers._base import ReportingTier, Told
from ..tiers._guard import Guard
from ._history import STEP, History, bucket
from ._readings import Reading, difference, reading
from ._report import RECENT, Report, made, read, written

if TYPE_CHECKING:
    from .._engine import Engine

HEARTBEAT_SECONDS = 20.0
SILENCE_SECONDS = 60.0
HEAR_SECONDS = 30.0
"""How often others are listened to when nobody looks; their reports reach back two minutes."""
FRESH_SECONDS = 1.0
"""How old what others said may be when somebody looks."""
EVERY = 64
"""Of so many looks into the local tier one is timed."""
PROCESSES = 64
_PROCESS = re.compile(r"[0-9a-f]{1,32}")


@dataclass
class Other:
    """Another process."""

    report: Report
    until: float
    """When it counts no more, on the loop's clock."""
    history: History
    heard: int
    """The number of its latest sample."""


class Watch:
    """What is known of one cache, here and in other processes."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.process = ""
        """What this process is called among others; made when it begins, after any fork."""
        self.others: dict[str, Other] = {}
        self.own_history = History()
        self.history = History()
        """Of all processes together."""
        self.hears = False
        """Does somebody here want to know of other processes?"""
        self.guard = _reporting(engine)
        """What keeps reports; None where there is no such tier."""
        self._looks = Histogram(BOUNDS["tier"])
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._talking: asyncio.Task[None] | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._disarm: Callable[[], None] | None = None
        self._recent: deque[tuple[int, int, Reading]] = deque(maxlen=RECENT)
        self._samples = 0
        self._sampled = self._read()
        self._told: Reading | None = None
        self._told_at = self._heard_at = float("-inf")
        self._closed = False
        self.started = engine.clock()
        engine.storage.time_local(self._looks.add, every=EVERY)
        self.arm()

    @classmethod
    def of(cls, engine: Engine) -> Watch:
        """The one watch of a cache."""
        if engine.watch is None:
            engine.watch = cls(engine)
        found: Watch = engine.watch
        return found

    # Beginning

    def arm(self) -> None:
        """Begin at the next look into a tier, or upstream call."""
        if self._loop is not None or self._disarm is not None:
            return
        storage, timings = self.engine.storage, self.engine.ledger.timings

        def used(*_: Any) -> None:
            self.begin()

        storage.time_local(used)
        timings.heard.append(used)

        def disarm() -> None:
            storage.untime_local(used)
            timings.heard.remove(used)

        self._disarm = disarm

    def begin(self) -> None:
        """Sample from now on, in the running loop."""
        loop = asyncio.get_running_loop()
        self._closed = False
        if self._loop is loop:
            return
        if self._disarm is not None:
            loop.call_soon(self._disarm)  # they are just being told
            self._disarm = None
        self.process = self.process or secrets.token_hex(8)
        self._loop, self._talking, self._hearing = loop, None, None
        self._told_at = self._heard_at = float("-inf")
        self._wait(loop)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        now = self.engine.clock()
        left = max(0.1, bucket(now, STEP) - now + 0.05)
        self._timer = loop.call_later(left, _tick, weakref.ref(self), loop)

    def due(self, loop: asyncio.AbstractEventLoop) -> None:
        """Five seconds are over."""
        if self._loop is not loop:
            return
        self._wait(loop)
        self.sample()
        if self.guard is not None and (self._talking is None or self._talking.done()):
            self._talking = loop.create_task(self._talk(loop), name="aiopromptcache report")

    async def aclose(self) -> None:
        """End until `begin`, or until the cache is used after `arm`; say good-bye to others."""
        loop = asyncio.get_running_loop()
        self._closed = True
        if self._disarm is not None:  # closing a tier is no use of it
            self._disarm()
            self._disarm = None
        if self._loop is not loop:
            return
        if self._timer is not None:
            self._timer.cancel()
        tasks = [task for task in (self._talking, self._hearing) if task is not None]
        if tasks:
            await asyncio.wait(tasks)  # the guard's deadline ends them
        self.sample()
        if self._told is not None:
            await self.tell(ended=True)
        self._loop = self._told = None

    # This process

    def _read(self) -> Reading:
        storage = self.engine.storage
        return reading(self.engine.ledger, self._looks, storage.local_name)

    def sample(self) -> None:
        """Note what was counted since the last sample."""
        counts = self._read()
        change = difference(counts, self._sampled)
        self._sampled = counts
        if change:
            # The end of the step that has just ended, or is ending.
            at = bucket(self.engine.clock() - STEP / 2, STEP)
            self._samples += 1
            self._recent.append((self._samples, at, change))
            self.own_history.add(at, change)
            self.history.add(at, change)

    def report(self, *, ended: bool = False) -> Report:
        """What this process has to say now."""
        return made(self.engine, self._read(), self.started, self._recent, ended=ended)

    # Other processes

    @property
    def _namespace(self) -> str:
        return self.engine.prefix[:-1]

    async def _talk(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        if self._sampled != self._told or now - self._told_at >= HEARTBEAT_SECONDS:
            await self.tell()
        if self.hears and now - self._heard_at >= HEAR_SECONDS:
            await self.hear()

    async def tell(self, *, ended: bool = False) -> None:
        """Tell other processes how this one is."""
        if self.guard is None:
            return
        counts, text = self._sampled, written(self.report(ended=ended))
        self._told_at = asyncio.get_running_loop().time()
        namespace, process = self._namespace, self.process
        await self.guard.quietly("report", lambda tier: tier.reports.tell(namespace, process, text))
        self._told = counts

    async def look(self) -> None:
        """Somebody looks: hear from the others and of the tiers, unless that was done just now.

        Of a cache that is closed what was known is all: its connections are not opened again.
        """
        if self._closed:
            return
        self.begin()
        both = self._begin_hearing(), self.engine.sizes.begin()
        if tasks := [task for task in both if task is not None]:
            await asyncio.wait(tasks)

    def _begin_hearing(self) -> asyncio.Task[None] | None:
        loop = asyncio.get_running_loop()
        if self.guard is None or loop.time() - self._heard_at < FRESH_SECONDS:
            return None
        if self._hearing is None or self._hearing.done():
            self._hearing = loop.create_task(self.hear(), name="aiopromptcache reports")
        return self._hearing

    async def hear(self) -> None:
        """Listen to what other processes say."""
        if self.guard is None:
            return
        now = self._heard_at = asyncio.get_running_loop().time()
        namespace = self._namespace
        told = await self.guard.quietly("reports", lambda tier: _told(tier, namespace))
        for each in told or ():
            report = read(each.text)
            if report is not None and each.process != self.process:
                self._note(each.process, report, each.age, now)
            await asyncio.sleep(0)  # of many, each takes its time
        for process in [p for p, other in self.others.items() if other.until <= now]:
            del self.others[process]

    @property
    def live(self) -> dict[str, Report]:
        """The other processes that count."""
        others = self.others.items()
        return {name: other.report for name, other in others if not other.report.ended}

    def _note(self, process: str, report: Report, age: float, now: float) -> None:
        other = self.others.get(process)
        if other is None:
            other = self.others[process] = Other(report, 0, History(day=False), 0)
        other.report, other.until = report, now + SILENCE_SECONDS - age
        # Its clock may be another one: how old the report is, the tier knows.
        shift = round((self.engine.clock() - age - report.now) / STEP) * STEP
        for sample in report.recent:
            if other.heard < sample.number and sample.at <= report.now + STEP:
                other.history.add(sample.at + shift, sample.counts)
                self.history.add(sample.at + shift, sample.counts)
        other.heard = max([other.heard, *[sample.number for sample in report.recent]])


def _tick(reference: Callable[[], Watch | None], loop: asyncio.AbstractEventLoop) -> None:
    """A timer keeps no cache alive that nobody has any more."""
    if (watch := reference()) is not None:
        watch.due(loop)


async def _told(tier: ReportingTier, namespace: str) -> list[Told]:
    """What a tier keeps, which a third party may have written: its fault where it is no such."""
    found = list(await tier.reports.told(namespace))
    for told in found:
        if type(told.process) is not str or type(told.text) is not bytes or not told.age >= 0:
            raise TypeError("the tier gave something else than reports")
    return [told for told in found[:PROCESSES] if _PROCESS.fullmatch(told.process)]


def _reporting(engine: Engine) -> Guard | None:
    guards = engine.storage.remote
    return next((guard for guard in guards if isinstance(guard.tier, ReportingTier)), None)
