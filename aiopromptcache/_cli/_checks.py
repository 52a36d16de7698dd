"""What a check of `doctor` is, and gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from ._session import Session

Level = Literal["ok", "note", "warning", "failure"]


class Finding(NamedTuple):
    """One thing that is known about a server."""

    name: str
    level: Level
    """`note`: worth knowing, nothing to do; `failure`: the cache cannot use it so."""
    text: str
    advice: str = ""
    """What to change."""


class Check(Protocol):
    """Looks at one thing; `app_timeout` is the `timeout` of the app's RedisTier."""

    __name__: str

    async def __call__(self, session: Session, app_timeout: float) -> Sequence[Finding]:
        """What it found. May raise: then it could not be found out."""
        ...
