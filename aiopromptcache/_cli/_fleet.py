"""What the app's processes say of themselves: those that have a dashboard, or `share`."""

from __future__ import annotations

from typing import Any

from .._dashboard._readings import total
from .._dashboard._report import Report, read
from .._stats import money_text
from ._output import count_text
from ._session import Session


async def app_counters(session: Session) -> dict[str, Any] | None:
    """The counters of all processes that run, summed; None where none tells them."""
    told = await session.within(session.tier.reports.told(session.slots[:-1]))
    reports = [report for each in told if (report := read(each.text)) and not report.ended]
    return _summed(reports) if reports else None


def _summed(reports: list[Report]) -> dict[str, Any]:
    counts = total(report.counts for report in reports)
    tiers = {name[5:]: count for name, count in counts.items() if name.startswith("hits/")}
    hits = sum(tiers.values())
    requests = hits + counts.get("miss", 0) + counts.get("collapsed", 0)
    return {
        "processes": len(reports),
        "requests": requests,
        "hits": hits,
        "hit_rate": hits / requests if requests else 0.0,
        "hits_by_tier": tiers,
        "misses": counts.get("miss", 0),
        "collapsed": counts.get("collapsed", 0),
        "bypassed": counts.get("bypass", 0),
        "upstream_calls": counts.get("calls", 0),
        "errors": counts.get("errors", 0),
        "tokens_saved": counts.get("tokens_saved", 0),
        "cost_saved": counts.get("cost_saved"),
        "cost_spent": counts.get("cost_spent"),
    }


def app_rows(app: dict[str, Any] | None) -> list[tuple[str, object]]:
    """For people."""
    if app is None:
        return []
    saved = app["cost_saved"]
    money = "" if saved is None else f", {money_text(saved)}"
    return [
        ("app", f"{count_text(app['processes'], 'process', 'processes')} since their start"),
        ("requests", f"{app['requests']:,}, {app['hits']:,} of them hits ({app['hit_rate']:.1%})"),
        ("upstream", f"{app['upstream_calls']:,} calls; {app['errors']:,} errors"),
        ("saved", f"{app['tokens_saved']:,} tokens{money}"),
    ]
