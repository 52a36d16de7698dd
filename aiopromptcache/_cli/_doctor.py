"""`doctor`: is the server fit for the cache, and what is to be changed?"""

from __future__ import annotations

from collections.abc import Sequence

import click
from redis.exceptions import NoPermissionError
from rich.text import Text

from ._checks import Check, Finding
from ._checks_server import SERVER_CHECKS
from ._checks_store import STORE_CHECKS
from ._errors import FAILED, UNUSABLE, ToolError, explained, place_of
from ._options import Command, Settings, common
from ._output import console, count_text, emit
from ._session import Session, opened, run

EXAMPLES = """
aiopromptcache doctor
aiopromptcache doctor --url rediss://cache.example.com:6380/0 --namespace support
aiopromptcache doctor --app-timeout 0.1 --json

Exit codes: 0 all is well (notes do not count); 1 there are warnings; 2 the cache cannot use it.
"""
_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "failure": "bold red"}


@click.command(cls=Command, examples=EXAMPLES)
@click.option(
    "--app-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=0.25,
    metavar="SECONDS",
    help="What your app gives to RedisTier(timeout=…): 0.25.",
)
@common
@click.pass_obj
def doctor(settings: Settings, app_timeout: float) -> int:
    """Check the server and what is stored there, and say what to change.

    Looks at version, memory and eviction, latency, clock, TLS, persistence, the encryption key, and
    the rights that the cache needs. It stores one probe under a key of its own and removes it.
    """
    findings = run(settings, _examine(settings, app_timeout))
    if settings.json:
        emit(
            {
                "server": place_of(settings.where),
                "usable": all(finding.level != "failure" for finding in findings),
                "findings": [finding._asdict() for finding in findings],
            }
        )
    else:
        _print(findings)
    levels = {finding.level for finding in findings}
    return UNUSABLE if "failure" in levels else FAILED if "warning" in levels else 0


async def _examine(settings: Settings, app_timeout: float) -> list[Finding]:
    try:
        async with opened(settings) as session:
            found = [Finding("connection", "ok", f"{place_of(settings.where)} answers")]
            for check in (*SERVER_CHECKS, *STORE_CHECKS):
                found += await _checked(session, check, app_timeout)
            return found
    except ToolError as error:
        return [Finding("connection", "failure", str(error))]
    except Exception as error:
        told = explained(error, place_of(settings.where))
        if told is None:
            raise
        return [Finding("connection", "failure", str(told))]


async def _checked(session: Session, check: Check, app_timeout: float) -> Sequence[Finding]:
    """What cannot be found out is a warning, and no reason to stop."""
    try:
        return await check(session, app_timeout)
    except NoPermissionError as error:  # `rights` says what the cache needs
        return [Finding(check.__name__, "note", f"not known: {error}")]
    except Exception as error:
        told = explained(error, place_of(session.settings.where))
        if told is None:
            raise
        return [Finding(check.__name__, "warning", f"cannot be found out: {told}")]


def _print(findings: Sequence[Finding]) -> None:
    out = console()
    for finding in findings:
        mark = Text(f"{finding.level:<8}", style=_STYLES[finding.level])
        out.print(Text.assemble(mark, " ", (finding.name, "bold"), f": {finding.text}"))
        if finding.advice:
            out.print(Text(f"{'':<9}{finding.advice}"))
    for level in ("failure", "warning"):
        count = sum(finding.level == level for finding in findings)
        if count:
            out.print(Text(count_text(count, level), style=_STYLES[level]))
