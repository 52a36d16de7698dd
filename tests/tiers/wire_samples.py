"""Honest entries of every kind, and the golden records that were once written from some of them.

A golden record is never changed: what a version wrote is read for ever after. To add those of a
new version, put its number in `GOLDEN_VERSION` and run, from the repository,

    python tests/tiers/wire_samples.py

which writes the files that are not there yet and leaves the others alone. While a version was not
released, its files may be deleted and written anew.
"""

from __future__ import annotations

import random
from pathlib import Path

from aiopromptcache import Entry, Kind, Usage
from aiopromptcache.tiers._wire import encode

DIRECTORY = Path(__file__).parent / "golden"
GOLDEN_VERSION = 1
OFFSET = 0.25
"""The keeper's clock minus ours, in golden records; exact in binary."""

WORDS = b"Rayleigh scattering: short waves are scattered more than long ones. "
HTTP = b'{"id":"chatcmpl-1","choices":[{"message":{"content":"' + WORDS + b'"}}]}'
HEAD = b'[200,[["content-type","application/json"],["x-request-id","req_1"]]]'
SSE = b'data: {"choices":[{"delta":{"content":"blue"}}]}\n\n' * 40 + b"data: [DONE]\n\n"


def golden_entries() -> dict[str, tuple[Entry, int | None]]:
    """What golden records hold, by name, and over how many bytes they are compressed."""
    return {
        "plain": (Entry(Kind.JSON, b'{"a":1}', stored_at=100.0, ttl=None), None),
        "loose": (Entry(Kind.LOOSE_JSON, b"[NaN, Infinity]", stored_at=0.5, ttl=1.5), None),
        "bytes": (Entry(Kind.BYTES, b"", stored_at=1_700_000_000.5, ttl=60.0), None),
        "compressed": (Entry(Kind.BYTES, WORDS * 100, stored_at=1.0, ttl=10.0), 1_024),
        "http": (
            Entry(
                Kind.HTTP,
                HTTP,
                stored_at=1_700_000_000.0,
                ttl=3_600.0,
                stale_while_revalidate=30.0,
                stale_if_error=86_400.0,
                cost=1.25,
                tags=("tenant:7", "prüfung"),
                head=HEAD,
                endpoint="chat.completions",
                model="gpt-4o-mini",
                usage=Usage(24, 60, 84),
            ),
            None,
        ),
        "billed": (
            Entry(
                Kind.HTTP,
                HTTP,
                stored_at=1_700_000_000.0,
                ttl=3_600.0,
                head=HEAD,
                endpoint="chat.completions",
                model="a deployment",
                billed="gpt-4o-mini-2024-07-18",
                usage=Usage(2_000, 60, 2_060, 1_024),
            ),
            None,
        ),
        "service": (
            Entry(
                Kind.HTTP,
                HTTP,
                stored_at=1_700_000_000.0,
                ttl=3_600.0,
                head=HEAD,
                endpoint="chat.completions",
                model="gpt-audio",
                service="priority",
                usage=Usage(2_000, 60, 2_060, 1_024, 0, 500, 60),
            ),
            None,
        ),
        "sse": (
            Entry(
                Kind.SSE,
                SSE,
                stored_at=1_700_000_000.0,
                ttl=3_600.0,
                head=b'[200,[["content-type","text/event-stream"]]]',
                endpoint="chat.completions",
                model="gpt-4o-mini",
            ),
            1_024,
        ),
    }


def golden_path(version: int, name: str) -> Path:
    """The file of a golden record."""
    return DIRECTORY / f"{version}-{name}.record"


def honest_entries(largest: int) -> list[Entry]:
    """Entries of every kind and size, the largest with so many bytes of payload."""
    noise = random.Random(1).randbytes(largest)
    entries = [entry for entry, _ in golden_entries().values()]
    entries.append(Entry(Kind.BYTES, noise, stored_at=1.0, ttl=60.0))
    entries.append(Entry(Kind.BYTES, noise[: largest // 8] * 8, stored_at=1.0, ttl=60.0))
    entries.append(Entry(Kind.JSON, b'"' + b"a" * (largest - 2) + b'"', stored_at=1.0, ttl=60.0))
    return entries


def write_golden() -> None:
    """Write the golden records that are not there yet."""
    DIRECTORY.mkdir(exist_ok=True)
    for name, (entry, compress_over) in golden_entries().items():
        path = golden_path(GOLDEN_VERSION, name)
        if not path.exists():
            path.write_bytes(encode(entry, offset=OFFSET, compress_over=compress_over))


if __name__ == "__main__":
    write_golden()
