"""The instruments of one OpenTelemetry meter, made once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from opentelemetry.metrics import (
    CallbackOptions,
    Histogram,
    Meter,
    MeterProvider,
    Observation,
    get_meter_provider,
)

from .._entry import MOST
from .._stats import MODELS
from .._timings import BOUNDS, LABELS, Labels, What
from ._attached import Attached, all_of
from ._families import DURATIONS, FAMILIES, Family

UNITS = {"": "1", "bytes": "By", "dollars": "{USD}", "ratio": "1"}
TOKENS = tuple(float(4**power) for power in range(14))
"""Bounds of the conventions."""

OTHER = "_OTHER"
"""Stands for the names that are not told apart, as in the conventions."""


class Instruments:
    """What is recorded, and what is read when metrics are collected."""

    def __init__(self, meter: Meter) -> None:
        self.attached: list[Attached] = []
        self._models: set[str] = set()
        for family in FAMILIES:
            self._observe(meter, family)
        self.durations: dict[What, Histogram] = {
            duration.what: meter.create_histogram(
                f"aiopromptcache.{duration.name}",
                unit="s",
                description=duration.help,
                explicit_bucket_boundaries_advisory=BOUNDS[duration.what],
            )
            for duration in DURATIONS
        }
        self.operation = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=BOUNDS["upstream"],
        )
        self.tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=TOKENS,
        )

    def model(self, name: str) -> str:
        """A model's name as an attribute of metrics: callers may name any number of them."""
        if name not in self._models:
            if len(self._models) >= MODELS:
                return OTHER
            self._models.add(name)
        return name

    def _observe(self, meter: Meter, family: Family) -> None:
        counter = family.kind == "counter"
        create = meter.create_observable_counter if counter else meter.create_observable_gauge
        names = ("namespace", *family.labels)

        def read(options: CallbackOptions) -> Iterable[Observation]:
            for labels, number in family.of(all_of(self.attached)).items():
                yield Observation(min(number, MOST), _attributes(names, labels))

        create(
            f"aiopromptcache.{family.name}",
            callbacks=[read],
            unit=UNITS[family.unit],
            description=family.help,
        )


@dataclass(frozen=True, slots=True)
class Hear:
    """Records measurements of one cache. Two of the same are equal."""

    instruments: Instruments
    namespace: str

    def __call__(self, what: What, labels: Labels, seconds: float) -> None:
        attributes = _attributes(("namespace", *LABELS[what]), (self.namespace, *labels))
        self.instruments.durations[what].record(seconds, attributes)


@dataclass(frozen=True, slots=True)
class HearMemory:
    """Records looks into one memory tier. Two of the same are equal."""

    instruments: Instruments
    namespace: str
    tier: str

    def __call__(self, seconds: float) -> None:
        attributes = {"namespace": self.namespace, "tier": self.tier, "operation": "get"}
        self.instruments.durations["tier"].record(seconds, attributes)


def _attributes(names: tuple[str, ...], labels: tuple[str, ...]) -> dict[str, str]:
    """Without those that do not apply."""
    return {name: label for name, label in zip(names, labels, strict=True) if label}


_known: WeakKeyDictionary[MeterProvider, Instruments] = WeakKeyDictionary()
_first_global: list[MeterProvider] = []


def instruments_of(provider: MeterProvider) -> Instruments:
    """A provider has each instrument once, however many caches are attached."""
    if provider is get_meter_provider():
        # Before the app sets its own this is one that stands for it: they are the same. Of two
        # instruments with one name the SDK would heed the first, and say nothing.
        if not _first_global:
            _first_global.append(provider)
        if (early := _known.get(_first_global[0])) is not None:
            return _known.setdefault(provider, early)
    found = _known.get(provider)
    if found is None:
        found = _known[provider] = Instruments(provider.get_meter("aiopromptcache"))
    return found
