"""The counters themselves, without a cache."""

from __future__ import annotations

from typing import Any

from aiopromptcache import Stats, Usage
from aiopromptcache._stats import MODELS, ModelStats


def test_money_that_is_little_does_not_look_like_nothing() -> None:
    stats = Stats()
    stats.of_model("chat.completions", "m").spent.add(Usage(1, 1, 2), 1e-6)
    assert "cost spent      <$0.0001" in str(stats)


def test_statistics_can_be_read_while_another_thread_counts_a_new_model() -> None:
    stats = Stats()
    stats.of_model("responses", "first").saved.add(Usage(1, 2, 3), 1.0)
    known = stats.by_model["responses", "first"]

    class Row(ModelStats):
        """While it is read, a model is seen for the first time."""

        def __getattribute__(self, name: str) -> Any:
            if name in ("saved", "spent"):
                stats.of_model("responses", f"model {len(stats.by_model)}")
            return super().__getattribute__(name)

    stats.by_model["responses", "first"] = Row("responses", "first", known.saved, known.spent)
    assert stats.cost_saved == 1.0
    assert stats.tokens_spent.total == 0
    assert stats.as_dict()["tokens_saved"]["total"] == 3
    assert len(stats.by_model) > 1


def test_models_past_a_bound_are_counted_together() -> None:
    """A name that callers choose must not fill the memory."""
    stats = Stats()
    for number in range(MODELS + 50):
        stats.of_model("chat.completions", f"model-{number}").spent.add(Usage(1, 1, 2), None)
    assert len(stats.by_model) == MODELS + 1
    assert stats.by_model["chat.completions", "other"].spent.unpriced == 50
    assert stats.tokens_spent.total == 2 * (MODELS + 50)
