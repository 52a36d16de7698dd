"""What one cache counts and tells: its counters, its events, its namespace and clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ._entry import Entry
from ._errors import ConfigurationError
from ._events import CacheEvent, Dispatcher, Hook
from ._observer import Observer
from ._prices import Price, Prices
from ._stats import OWN, Outcome, Stats
from ._tally import note_bypass, note_hit, note_paid, note_request
from ._timings import Timings
from .tiers._base import Notice


class Ledger:
    """Everything that happens in a cache is written here once: counted, and told if heard."""

    def __init__(
        self,
        namespace: str,
        hooks: Iterable[Hook],
        clock: Callable[[], float],
        prices: Mapping[str, Price],
    ) -> None:
        if not isinstance(namespace, str) or not namespace:
            raise ConfigurationError(f"namespace={namespace!r}: expected a str that is not empty")
        if not callable(clock):
            raise ConfigurationError(f"clock={clock!r}: expected a callable that gives seconds")
        self.namespace = namespace
        self.clock = clock
        self.prices = Prices(prices)
        self.stats = Stats()
        self.timings = Timings()
        self.events = Dispatcher(hooks, self.stats)
        self.observer: Observer | None = None
        self.heard = self.events.active
        """False where nobody wants to know of each hit: then none is described."""
        self.local = ""
        """The name of the tier in whose answers nobody waits."""

    def observe(self, observer: Observer | None) -> None:
        """Let an observer be there from now on; None: nobody."""
        self.observer = observer
        self.heard = self.events.active or observer is not None

    def tell(self, kind: Any, *, entry: Entry | None = None, **fields: Any) -> None:
        """Emit an event, if anybody listens; `entry` fills in what it knows."""
        if not self.events.active:
            return
        if entry is not None:
            known: dict[str, Any] = {
                "endpoint": entry.endpoint,
                "model": entry.model,
                "size": entry.size,
            }
            if "usage" not in fields:
                known |= {"usage": entry.usage, "cost": self.prices.of(entry)}
            fields = {**known, **fields}
        self.events.emit(CacheEvent(kind=kind, namespace=self.namespace, **fields))

    def hit(
        self,
        key: str,
        entry: Entry,
        tier: str,
        similar: dict[str, Any] | None = None,
        took: float | None = None,
    ) -> float:
        """Count a hit; gives the entry's age. `similar`: what its event says of a similar hit;
        `took`: the seconds that a remote tier took to find it.
        """
        note_hit()
        self.saved(entry)
        age = entry.age(self.clock())
        outcome: Outcome = "hit"
        if similar is not None:
            outcome = "similar"
        elif entry.ttl is not None and age >= entry.ttl:
            outcome = "stale"
        self.stats.outcomes[entry.endpoint or OWN, outcome, tier] += 1
        if self.heard:
            if self.observer is not None and tier == self.local:
                self.observer.hit()
            told = {"tier": tier, "age": age, "duration": took, **(similar or {})}
            self.tell(outcome, entry=entry, key=key, **told)
        return age

    def saved(self, entry: Entry) -> None:
        """An answer was given that no upstream call of this caller's was made for."""
        if entry.endpoint is not None:
            row = self.stats.of_model(entry.endpoint, entry.model)
            row.saved.add(entry.usage, self.prices.of(entry))

    def spent(self, entry: Entry) -> None:
        """An upstream call has brought an answer."""
        if entry.endpoint is not None:
            row = self.stats.of_model(entry.endpoint, entry.model)
            row.spent.add(entry.usage, self.prices.of(entry))

    def paid(self, entry: Entry, *, stored: bool) -> None:
        """The caller whose upstream call it was has the answer."""
        note_paid(stored=stored, usage=entry.usage, cost=self.prices.of(entry))

    def count_hit(self, key: str, entry: Entry, tier: str) -> None:
        """Count a hit in memory for which nobody wants a status."""
        if self.events.active or entry.endpoint is not None:
            self.hit(key, entry, tier)
            return
        note_hit()
        self.stats.outcomes[OWN, "hit", tier] += 1
        if self.observer is not None:
            self.observer.hit()

    def count_request(self, endpoint: str | None, *, leader: bool) -> None:
        """Count a lookup that no tier answered."""
        note_request(leader=leader)
        self.stats.outcomes[endpoint or OWN, "miss" if leader else "collapsed", ""] += 1

    def count_bypass(self, endpoint: str | None) -> None:
        """Count a call that may not be cached."""
        note_bypass()
        note_paid(stored=False, usage=None, cost=None)
        self.stats.outcomes[endpoint or OWN, "bypass", ""] += 1

    def waited(self, endpoint: str | None, outcome: str, seconds: float) -> None:
        """A caller had to wait for its answer."""
        self.timings.took("wait", (endpoint or OWN, outcome), seconds)

    def missed(self, key: str) -> None:
        """Count a lookup that found nothing and goes nowhere: no tally has it as forwarded."""
        self.stats.outcomes[OWN, "miss", ""] += 1
        self.tell("miss", key=key)

    def noticed(
        self,
        tier: str,
        kind: Notice,
        slot: str | None,
        entry: Entry | None,
        error: BaseException | None,
    ) -> None:
        """A tier tells what happened inside it."""
        if kind == "evict":
            self.stats.evictions += 1
        elif kind == "expire":
            self.stats.expirations += 1
        elif kind == "error":
            self.stats.erred("tier", tier, error)
        if self.events.active:
            state = None if kind != "breaker" else "closed" if error is None else "open"
            key = slot.partition(":")[2] if slot else None
            self.tell(kind, entry=entry, key=key, tier=tier, usage=None, error=error, state=state)
