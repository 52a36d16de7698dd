"""Prices that are given on the command line, and money as people read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .._errors import ConfigurationError
from .._prices import Price

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


if TYPE_CHECKING:
    _Type = click.ParamType[tuple[str, Price]]
else:
    _Type = click.ParamType  # not every version can be asked of what


class _PriceType(_Type):
    """MODEL=INPUT,OUTPUT[,CACHED_INPUT]."""

    name = "price"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, Price]:
        """See click."""
        model, _, numbers = str(value).rpartition("=")
        parts = numbers.split(",")
        if not model or len(parts) not in (2, 3):
            raise click.BadParameter(f"{value!r}: {_EXPECTED}", ctx, param)
        try:
            return model, Price(*map(float, parts))
        except (ValueError, ConfigurationError):
            raise click.BadParameter(f"{value!r}: {_EXPECTED}", ctx, param) from None


_EXPECTED = "expected MODEL=INPUT,OUTPUT, as in our-llama=0.20,0.60"


def priced(command: CommandT) -> CommandT:
    """Add the option that gives prices of one's own, as `prices`."""
    return click.option(
        "--price",
        "prices",
        multiple=True,
        type=_PriceType(),
        metavar="MODEL=INPUT,OUTPUT",
        help="US dollars per million tokens of a model of your own, as Price(…). Others are known "
        "with the extra aiopromptcache[prices].",
    )(command)


def added(costs: Iterable[float | None]) -> float | None:
    """What is known of it; None where nothing is."""
    known = [cost for cost in costs if cost is not None]
    return sum(known) if known else None


def dollars(cost: float | None) -> float | None:
    """For JSON: no more digits than are true."""
    return None if cost is None else round(cost, 9)
