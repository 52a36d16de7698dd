"""What reading over all tiers comes to."""

from __future__ import annotations

from typing import NamedTuple

from ._entry import Entry
from .tiers._base import Lease


class Found(NamedTuple):
    """An entry, and the tier that had it."""

    entry: Entry
    tier: str
    waited: bool = False
    """Did another process's flight bring it?"""
    took: float | None = None
    """Seconds that it took to find it in a remote tier."""


class Begun(NamedTuple):
    """How a flight begins: with what a tier has, or with the right to load it."""

    found: Found | None = None
    lease: Lease | None = None
    spent: float = 0.0
    """Seconds that remote tiers took."""
