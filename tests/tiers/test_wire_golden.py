"""Golden records: what any version once wrote is read for ever after."""

from __future__ import annotations

from pathlib import Path

import pytest
from wire_samples import DIRECTORY, GOLDEN_VERSION, OFFSET, golden_entries, golden_path

from aiopromptcache import Entry
from aiopromptcache.tiers._wire import decode, encode

FIELDS = [name for name in Entry.__slots__ if name not in {"memo", "_usage"}] + ["usage"]
RECORDS = sorted(DIRECTORY.glob("*.record"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_golden_records_are_read(path: Path) -> None:
    original, _ = golden_entries()[path.stem.partition("-")[2]]
    entry = decode(path.read_bytes(), offset=OFFSET)
    for name in FIELDS:
        assert getattr(entry, name) == getattr(original, name), name
        assert type(getattr(entry, name)) is type(getattr(original, name)), name


@pytest.mark.parametrize("version", range(1, GOLDEN_VERSION + 1))
def test_every_version_has_all_its_golden_records(version: int) -> None:
    missing = [name for name in golden_entries() if not golden_path(version, name).exists()]
    assert not missing


@pytest.mark.parametrize("name", [n for n, (_, over) in golden_entries().items() if over is None])
def test_the_newest_golden_records_are_still_written(name: str) -> None:
    """Compressed ones are not compared: another zlib may pack better."""
    entry, _ = golden_entries()[name]
    written = encode(entry, offset=OFFSET, compress_over=None)
    assert written == golden_path(GOLDEN_VERSION, name).read_bytes()
