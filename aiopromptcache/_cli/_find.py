"""Keys as people give them: whole, or the beginning of one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import aclosing

from .._ask import SIDE
from ._errors import FAILED, ToolError
from ._output import count_text
from ._session import Session

SHORTEST = 4
"""Characters that a beginning has at least."""
SHOWN = 5
_DIGEST = re.compile("[0-9a-f]{64}")


async def resolved(session: Session, given: Sequence[str]) -> list[str]:
    """The keys that are meant, in order. Raises `ToolError` for one that is not there, or could be
    several.
    """
    given = [part for key in given for part in _parts(key)]
    known = set(await session.find([*given, *(key + SIDE for key in given)]))
    whole = {key for key in given if key in known or key + SIDE in known}
    beginnings = [key for key in given if key not in whole]
    matches = await _matches(session, beginnings) if beginnings else {}
    return list(dict.fromkeys(key if key in whole else _one(key, matches[key]) for key in given))


def _parts(key: str) -> list[str]:
    """The key in the status of several embeddings is made of theirs."""
    parts = key.split(",")
    return parts if len(parts) > 1 and all(map(_DIGEST.fullmatch, parts)) else [key]


async def _matches(session: Session, beginnings: Iterable[str]) -> dict[str, set[str]]:
    """Of each beginning the keys that begin so, in one walk over the namespace."""
    found: dict[str, set[str]] = {key: set() for key in beginnings}
    long = tuple(key for key in found if len(key) >= SHORTEST)
    if not long:
        return found
    async with aclosing(session.rows()) as rows:
        async for row in rows:
            if row is not None and row.key.startswith(long):
                for key in long:
                    if row.key.startswith(key):
                        found[key].add(row.key.removesuffix(SIDE))
    return found


def _one(beginning: str, matches: set[str]) -> str:
    if len(matches) == 1:
        return next(iter(matches))
    if not matches:
        short = len(beginning) < SHORTEST
        hint = f" (a beginning needs {SHORTEST} characters)" if short else ""
        raise ToolError(f"no key {beginning!r} in this namespace{hint}", FAILED)
    shown = ", ".join(sorted(matches)[:SHOWN])
    raise ToolError(
        f"{beginning!r} could be any of {count_text(len(matches), 'key')}: {shown}"
        f"{' …' if len(matches) > SHOWN else ''}",
        FAILED,
    )
