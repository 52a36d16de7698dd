"""Random interleavings in several caches, and a sequential model of what may be read."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiopromptcache import PromptCache

ACTORS = 4
STEPS = 6
"""Of each actor, twice."""
HEARD = 0.4
"""Seconds within which other caches have heard of what the tier knows, on a busy machine too."""


@dataclass
class Made:
    """A value: when its upstream call, or the `set` that gave it, began and ended."""

    loaded: bool
    began: float
    ended: float = float("inf")


@dataclass
class Removed:
    """Something that makes older values void."""

    cache: int
    keys: Callable[[str], bool]
    began: float
    ended: float = float("inf")
    told: float = float("inf")
    """When the tier knew of it: at once, or when its cache has made good what it had missed."""
    what: str = ""

    def voids(self, made: Made) -> bool:
        """A load that began before it; a `set` only if it had ended, as it may come after it."""
        return (made.began if made.loaded else made.ended) < self.began


@dataclass
class Model:
    """What was made, what was removed, and what nobody should have read."""

    now: Callable[[], float] = time.monotonic
    numbers: Iterator[int] = field(default_factory=itertools.count)
    made: dict[int, Made] = field(default_factory=dict)
    removals: list[Removed] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    owes: Callable[[int], bool] = lambda cache: False
    """Has a cache something to make good?"""
    hears: Callable[[int], float] = lambda cache: 0.0
    """Since when has a cache heard all news?"""
    grace: float = 0.0
    """Seconds after its own removals in which a cache may still be given what was on its way."""
    reads: Counter[str] = field(default_factory=Counter)

    def make(self, *, loaded: bool) -> int:
        number = next(self.numbers)
        self.made[number] = Made(loaded, self.now())
        return number

    @contextmanager
    def removing(self, cache: int, keys: Callable[[str], bool], what: str) -> Iterator[None]:
        removal = Removed(cache, keys, self.now(), what=what)
        self.removals.append(removal)
        yield
        removal.ended = self.now()
        self._tell()

    def _tell(self) -> None:
        for removal in self.removals:
            pending = removal.told == float("inf") and removal.ended < float("inf")
            if pending and not self.owes(removal.cache):
                removal.told = self.now()

    def check(self, cache: int, key: str, began: float, value: Any) -> None:
        """Was this value still one, for a call of this cache that began then?"""
        self.reads["nothing" if value is None else "a value"] += 1
        if value is None:
            return
        number, of = value
        assert of == key, "another key's value"
        self._tell()
        for removal in self.removals:
            elsewhere = max(removal.told, self.hears(cache)) + HEARD
            known = removal.ended + self.grace if removal.cache == cache else elsewhere
            if known < began and removal.keys(key):
                self.reads["checked"] += 1
                if removal.voids(self.made[number]):
                    self.wrong.append(self._story(cache, key, began, number, removal))

    def _story(self, cache: int, key: str, began: float, number: int, removal: Removed) -> str:
        made = self.made[number]
        kind = "loaded" if made.loaded else "set"
        return (
            f"cache {cache} read {key} {(began - removal.ended) * 1e3:.1f} ms after cache "
            f"{removal.cache} had ended {removal.what}, and got value {number}, {kind} "
            f"{(removal.began - made.began) * 1e3:.1f} ms before that began"
        )


class Episode:
    """One interleaving: a few keys of its own, and everything that may happen to them."""

    def __init__(
        self,
        seed: str,
        name: str,
        caches: Sequence[PromptCache],
        model: Model,
        kill: Callable[[random.Random], None],
    ) -> None:
        self._rng = random.Random(seed)
        self._name = name
        self._keys = [f"{self._name} tagged", f"{self._name} plain"]
        self._caches = caches
        self._model = model
        self._break = kill

    async def run(self) -> None:
        """All of it; then everyone has heard of everything, and reads once more."""
        for _ in range(2):
            await asyncio.gather(*[self._act() for _ in range(ACTORS)])
            await asyncio.sleep(HEARD + 0.01)
            for cache in range(len(self._caches)):
                for key in self._keys:
                    await self._get(cache, key)

    async def _act(self) -> None:
        """One caller, who does one thing after another."""
        for _ in range(STEPS):
            await self._step()

    async def _step(self) -> None:
        rng = self._rng
        what = rng.choices(WHAT, WEIGHTS)[0]
        cache, key = rng.randrange(len(self._caches)), rng.choice(self._keys)
        await asyncio.sleep(rng.choice([0.0, 0.0, rng.uniform(0, 0.02)]))
        await what(self, cache, key)

    def _tags(self, key: str) -> list[str]:
        return [self._name] if key.endswith("tagged") else []

    async def _get(self, cache: int, key: str) -> None:
        began = self._model.now()
        self._model.check(cache, key, began, await self._caches[cache].get(key))

    async def _load(self, cache: int, key: str) -> None:
        lasts = self._rng.choice([0.0, self._rng.uniform(0, 0.02)])

        async def upstream() -> Any:
            number = self._model.make(loaded=True)
            if lasts:
                await asyncio.sleep(lasts)
            return [number, key]

        began = self._model.now()
        value = await self._caches[cache].get_or_create(key, upstream, tags=self._tags(key))
        self._model.check(cache, key, began, value)

    async def _reload(self, cache: int, key: str) -> None:
        with self._caches[cache].control(no_cache=True):
            await self._load(cache, key)

    async def _set(self, cache: int, key: str) -> None:
        number = self._model.make(loaded=False)
        with self._model.removing(cache, lambda other: other == key, "set"):
            await self._caches[cache].set(key, [number, key], tags=self._tags(key))
        self._model.made[number].ended = self._model.now()

    async def _delete(self, cache: int, key: str) -> None:
        with self._model.removing(cache, lambda other: other == key, "delete"):
            await self._caches[cache].delete(key)

    async def _invalidate(self, cache: int, key: str) -> None:
        with self._model.removing(cache, lambda other: other == self._keys[0], "invalidate"):
            await self._caches[cache].invalidate(self._name)

    async def _clear(self, cache: int, key: str) -> None:
        with self._model.removing(cache, lambda other: True, "clear"):
            await self._caches[cache].clear()

    async def _leave(self, cache: int, key: str) -> None:
        """A caller that does not wait for the end."""
        task = asyncio.create_task(self._load(cache, key))
        await asyncio.sleep(self._rng.uniform(0, 0.01))
        task.cancel()
        await asyncio.wait([task])

    async def _kill(self, cache: int, key: str) -> None:
        """Some connection, of any cache."""
        self._break(self._rng)


Step = Callable[[Episode, int, str], Awaitable[None]]
STEPS_BY_WEIGHT: list[tuple[Step, float]] = [
    (Episode._get, 20),
    (Episode._load, 40),
    (Episode._reload, 5),
    (Episode._set, 8),
    (Episode._delete, 8),
    (Episode._invalidate, 5),
    (Episode._leave, 5),
    (Episode._clear, 0.3),
    (Episode._kill, 1),
]
WHAT = [step for step, _ in STEPS_BY_WEIGHT]
WEIGHTS = [weight for _, weight in STEPS_BY_WEIGHT]
