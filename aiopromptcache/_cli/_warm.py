"""`warm`: answers to many requests, ahead of time."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import Any, NamedTuple

import click

from .._policy import Policy
from .._prices import Price
from .._stats import money_text
from .._warm import WarmReport
from ._errors import FAILED, INTERRUPTED, ToolError
from ._lines import Lines, count_lines, open_input
from ._money import dollars, priced
from ._options import Command, Settings, common
from ._output import count_text, emit, say
from ._progress import Progress
from ._requests import Failure, Requests
from ._session import Session, opened, run

EXAMPLES = """
aiopromptcache warm questions.jsonl
aiopromptcache warm batch.jsonl --concurrency 32 --ttl 86400 --tag docs
make-questions | aiopromptcache warm - --json
aiopromptcache warm questions.jsonl --base-url http://localhost:8000/v1

A line is a request: the arguments of chat.completions.create, or a line of an OpenAI batch file.
{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
{"method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "Hi"}}
"""
SHOWN = 20
"""Failures that people are shown."""


class Upstream(NamedTuple):
    """Where requests go."""

    base_url: str | None
    max_retries: int

    def client(self) -> Any:
        """A client; its key is that of the environment."""
        from openai import AsyncOpenAI

        if not os.environ.get("OPENAI_API_KEY"):
            raise ToolError(
                "warm: OPENAI_API_KEY is not set (a server that needs none takes any word)"
            )
        return AsyncOpenAI(base_url=self.base_url, max_retries=self.max_retries)


class Outcome(NamedTuple):
    """How it ended."""

    report: WarmReport
    failed: int
    """Lines that are not warm, for whatever reason."""
    failures: list[Failure]
    interrupted: bool
    outage: bool

    @property
    def code(self) -> int:
        """0 only where all is warm."""
        if self.interrupted:
            return INTERRUPTED
        return FAILED if self.failed or self.outage else 0


@click.command(cls=Command, examples=EXAMPLES)
@click.argument("file", metavar="FILE.jsonl")
@click.option(
    "--concurrency", type=click.IntRange(1, 1_000), default=8, help="Requests at once: 8."
)
@click.option(
    "--base-url", metavar="URL", help="Of the API. Default: $OPENAI_BASE_URL, else OpenAI."
)
@click.option(
    "--max-retries", type=click.IntRange(0), default=2, help="Tries again of each request: 2."
)
@click.option(
    "--ttl",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Fresh life of what is stored, as in Policy(ttl=…): 3600.",
)
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Store it with the tag.")
@click.option("--partition", default="", metavar="NAME", help="As in Policy(partition=…).")
@priced
@common
@click.pass_obj
def warm(
    settings: Settings,
    file: str,
    concurrency: int,
    base_url: str | None,
    max_retries: int,
    ttl: float | None,
    tags: tuple[str, ...],
    partition: str,
    prices: tuple[tuple[str, Price], ...],
) -> int:
    """Answer the requests of FILE.jsonl ahead of time; "-" is stdin.

    What is fresh already costs nothing, so a run that was interrupted goes on where it was. Ctrl-C
    lets the requests under way come to their end, a second one drops them. Exit code 0 says that
    all of it is warm. $OPENAI_API_KEY is needed. The app finds the answers if it asks the same
    thing: same base URL, organization, parameters and partition.
    """
    policy = Policy(tags=tags, partition=partition)
    if ttl is not None:
        policy = policy.merged(ttl=ttl)
    total = count_lines(file)
    source = open_input(file)
    try:
        cache = opened(settings, policy, dict(prices))
        upstream = Upstream(base_url, max_retries)
        work = _warm(settings, cache, upstream, source, total, concurrency)
        outcome = run(settings, work)
    finally:
        os.close(source)
    _report(settings, outcome)
    return outcome.code


async def _warm(
    settings: Settings,
    cache: AbstractAsyncContextManager[Session],
    upstream: Upstream,
    source: int,
    total: int | None,
    concurrency: int,
) -> Outcome:
    async with cache as session, upstream.client() as client:
        requests = Requests(Lines(source), session.cache.wrap(client))
        session.on_outage = requests.stop
        with _interruptible(requests) as interrupted, Progress(total, not settings.json) as shown:
            report = WarmReport()

            def told(so_far: WarmReport) -> None:
                nonlocal report
                report = so_far
                shown.update(so_far)

            dropped = await _dropped(
                session.cache.warm(requests.calls(), concurrency=concurrency, on_progress=told)
            )
        stopped = interrupted() or dropped
        failures = sorted(requests.failures)
        outage = requests.stopped and not stopped
        return Outcome(report, requests.failed, failures, stopped, outage)


async def _dropped(work: Any) -> bool:
    """Do it; True where a second Ctrl-C put an end to it."""
    try:
        await work
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        return True
    return False


@contextmanager
def _interruptible(requests: Requests) -> Iterator[Any]:
    """The first Ctrl-C takes no more lines; the second ends what is under way."""
    loop, count = asyncio.get_running_loop(), 0
    task = asyncio.current_task()

    def interrupt() -> None:
        nonlocal count
        count += 1
        if count == 1:
            requests.stop()
            say("Ctrl-C: requests under way come to their end; again to drop them")
        elif task is not None:
            task.cancel()

    with suppress(NotImplementedError, RuntimeError):  # not everywhere
        loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield lambda: count > 0
    finally:
        with suppress(NotImplementedError, RuntimeError):
            loop.remove_signal_handler(signal.SIGINT)


def _report(settings: Settings, outcome: Outcome) -> None:
    report = outcome.report
    if settings.json:
        emit(_as_dict(outcome))
        return
    for failure in outcome.failures[:SHOWN]:
        say(f"line {failure.line}: {failure.reason}")
    if outcome.failed > SHOWN:
        say(f"… and {outcome.failed - SHOWN:,} more; --json lists up to {Requests.KEPT:,}")
    if outcome.outage:
        say("the cache's server is gone, or full, so no more was asked; run it again to go on")
    click.echo(_summary(report))
    sys.stdout.flush()


def _summary(report: WarmReport) -> str:
    parts = [
        count_text(report.total, "request"),
        f"{report.fresh:,} fresh already",
        f"{report.stored:,} stored",
        f"{report.failed:,} failed",
    ]
    if report.unstored:
        parts.append(f"{report.unstored:,} not stored")
    if report.usage.total:
        parts.append(f"{report.usage.total:,} tokens paid")
    if report.cost is not None:
        parts.append(f"{money_text(report.cost)} paid")
    return ", ".join(parts)


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    report = outcome.report
    return {
        "warm": outcome.code == 0,
        "total": report.total,
        "fresh": report.fresh,
        "stored": report.stored,
        "failed": report.failed,
        "unstored": report.unstored,
        "not_warm": outcome.failed,
        "tokens": report.usage._asdict(),
        "cost": dollars(report.cost),
        "interrupted": outcome.interrupted,
        "outage": outcome.outage,
        "failures": [failure._asdict() for failure in outcome.failures],
    }
