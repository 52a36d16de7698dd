"""What a Redis tier holds, a batch at a time: a SCAN for the names, then the records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from ._crypt import Cipher
from ._names import Names
from ._wire import BadRecord

if TYPE_CHECKING:
    from ._link import Link

SCANNED = 1_000
"""Names that are looked through in one step."""
READ = 64
"""Records that are read at once: each may be large."""


async def listing(
    link: Link, names: Names, cipher: Cipher | None, namespace: str, timeout: float
) -> AsyncIterator[list[tuple[str | None, bytes]]]:
    """Records by slot; None for a slot that cannot be told. Each step has the `timeout`."""
    pattern, _, _ = names.patterns(namespace)
    async with aclosing(link.scan(pattern, SCANNED)) as scan:
        async for found in scan:
            for at in range(0, len(found), READ):
                yield await _read(link, names, cipher, namespace, found[at : at + READ], timeout)


async def _read(
    link: Link,
    names: Names,
    cipher: Cipher | None,
    namespace: str,
    keys: Sequence[bytes],
    timeout: float,
) -> list[tuple[str | None, bytes]]:
    async with asyncio.timeout(timeout):
        records = await link.mget(keys)
    return [
        (_slot(names, cipher, namespace, key, record), record)
        for key, record in zip(keys, records, strict=True)
        if record is not None  # gone since
    ]


def _slot(
    names: Names, cipher: Cipher | None, namespace: str, key: bytes, record: bytes
) -> str | None:
    """A record only counts in its own place: one that was moved there would never be found."""
    try:
        slot = (
            f"{namespace}:{names.key_of(namespace, key)}"
            if cipher is None
            else cipher.slot_of(record)
        )
        return slot if key in names.places(slot).entries else None
    except (BadRecord, ValueError):
        return None
