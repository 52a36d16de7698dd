"""The file of `export`: lines of JSON, each entry checked by itself, and the whole by its end.

    {"format": "aiopromptcache export", "version": 1, "exported_at": seconds, "namespace": "…"}
    {"key": "…", "record": "…", "check": "…"}            for each entry
    {"end": true, "entries": 2}

`record` is the entry in its wire form (`tiers/_wire.py`: versioned, checked, no pickle), base64;
`check` the CRC-32 of key and record, 8 hex digits. Times are seconds since 1970. Nothing in it
depends on prefix, namespace or encryption: keys and answers are readable, so guard the file.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from .._entry import Entry, Kind
from .._values import Misfit, decode
from ..tiers._wire import BadRecord, writable
from ..tiers._wire import decode as decode_record
from ..tiers._wire import encode as encode_record
from ._errors import ToolError

FORMAT = "aiopromptcache export"
VERSION = 1
LONGEST = 96 * 2**20
"""Bytes of a line: a record of 64 MiB in base64 fits in."""
LONGEST_KEY = 2**16
AHEAD = 86_400.0
"""Seconds by which the clocks of two machines may disagree."""
LONGEST_LIFE = 1e12
"""Seconds: past that no server can keep it."""


class BadFile(Exception):
    """A line that `export` did not write."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")


class Item(NamedTuple):
    """One entry of a file."""

    line: int
    key: str
    entry: Entry


class Writer:
    """Writes one file; the stream is of bytes."""

    def __init__(self, stream: IO[bytes], namespace: str, now: float, *, compress: bool) -> None:
        self._stream = stream
        self._over = 1_024 if compress else None
        self.entries = 0
        self._line(
            {"format": FORMAT, "version": VERSION, "exported_at": now, "namespace": namespace}
        )

    def add(self, key: str, entry: Entry) -> None:
        """Write an entry."""
        record = encode_record(entry, offset=0.0, compress_over=self._over)
        text = base64.b64encode(record).decode()
        self._line({"key": key, "record": text, "check": _check(key, record)})
        self.entries += 1

    def end(self) -> None:
        """Say that this is all."""
        self._line({"end": True, "entries": self.entries})

    def _line(self, value: dict[str, Any]) -> None:
        text = json.dumps(value, separators=(",", ":"))
        try:
            self._stream.write(text.encode() + b"\n")
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ToolError(f"cannot write: {error.strerror}") from None


class Reader:
    """Reads one file, a line at a time, and believes nothing before it was checked."""

    def __init__(self, stream: IO[bytes], now: float) -> None:
        self._stream = stream
        self._now = now
        self._number = 0
        about = self._next()
        if about is None or about.get("format") != FORMAT:
            raise BadFile(1, f"no {FORMAT}")
        if about.get("version") != VERSION:
            raise BadFile(1, f"version {about.get('version')!r} is not known here, {VERSION} is")
        self.exported_at = self._time(about.get("exported_at"))

    def _time(self, value: object) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise BadFile(self._number, "'exported_at' is no time")
        if not math.isfinite(value) or value > self._now + AHEAD:
            raise BadFile(self._number, "was exported in the future, by this machine's clock")
        return float(value)

    def items(self) -> Iterator[Item]:
        """The entries. Raises `BadFile` for the first thing that is wrong, a missing end too."""
        count = 0
        while (value := self._next()) is not None:
            if "end" in value:
                return self._end(value, count)
            count += 1
            yield self._item(value)
        raise BadFile(self._number + 1, "the end is missing: the file was cut off")

    def _end(self, value: dict[str, Any], count: int) -> None:
        if value != {"end": True, "entries": count}:
            raise BadFile(self._number, f"{count} entries came, and the end says otherwise")
        if self._next() is not None:
            raise BadFile(self._number, "something comes after the end")

    def _next(self) -> dict[str, Any] | None:
        """The object of the next line; None where there is none."""
        self._number += 1
        try:
            line = self._stream.readline(LONGEST + 1)
        except (OSError, EOFError, zlib.error):  # of gzip
            raise BadFile(self._number, "damaged: it cannot be unpacked") from None
        if not line:
            self._number -= 1
            return None
        if len(line) > LONGEST:
            raise BadFile(self._number, "too long")
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise BadFile(self._number, "not JSON") from None
        if not isinstance(value, dict):
            raise BadFile(self._number, "not an object")
        return value

    def _item(self, value: dict[str, Any]) -> Item:
        key, text, check = (value.get(name) for name in ("key", "record", "check"))
        if len(value) != 3 or not (type(key) is type(text) is type(check) is str):
            raise BadFile(self._number, "expected 'key', 'record' and 'check', each a string")
        assert isinstance(key, str)
        assert isinstance(text, str)
        if len(key) > LONGEST_KEY:
            raise BadFile(self._number, "the key is too long")
        try:
            record = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise BadFile(self._number, "'record' is not base64") from None
        if check != _check(key, record):
            raise BadFile(self._number, "damaged: 'check' does not fit")
        return Item(self._number, key, self._entry(record))

    def _entry(self, record: bytes) -> Entry:
        try:
            entry = decode_record(record, offset=0.0)
        except BadRecord as error:
            raise BadFile(self._number, f"no record: {error}") from None
        if reason := wrong_with(entry, self._now):
            raise BadFile(self._number, reason)
        return entry


def wrong_with(entry: Entry, now: float) -> str | None:
    """Why an entry is not to be believed, though its record is whole."""
    if entry.stored_at > now + AHEAD:
        return "stored in the future, by this machine's clock"
    if entry.ttl is not None and entry.expires_at > now + LONGEST_LIFE:
        return "would live too long"
    if not writable(entry):
        return "its tags or its model are no text, or too long"
    return None if _holds(entry) else f"does not hold what a {entry.kind.name} holds"


def _holds(entry: Entry) -> bool:
    """Is what it holds of its kind?"""
    if entry.kind in (Kind.VECTOR, Kind.HTTP, Kind.SSE):
        from .._openai._record import is_head  # takes the SDK along
        from .._openai._vectors import is_item

        # The body is the upstream's business.
        return is_item(entry) if entry.kind is Kind.VECTOR else is_head(entry)
    try:
        decode(entry)
    except (Misfit, ValueError, RecursionError):
        return False
    return True


def _check(key: str, record: bytes) -> str:
    return f"{zlib.crc32(record, zlib.crc32(key.encode('utf-8', 'surrogatepass'))):08x}"
