"""Bytes that nobody should believe: damaged, cut, spliced, or forged with a right checksum.

`WIRE_FUZZ=1000000 pytest tests/tiers/test_wire_fuzz.py` tries a million instead of fifty thousand;
`WIRE_FUZZ_SEED` begins elsewhere.
"""

from __future__ import annotations

import json
import math
import os
import random
import struct
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import redis.asyncio
from openai import AsyncOpenAI
from wire_samples import honest_entries

from aiopromptcache import Entry, Kind, PromptCache, RedisTier, cache_status
from aiopromptcache.testing import OpenAIServer
from aiopromptcache.tiers._crypt import Cipher
from aiopromptcache.tiers._wire import BadRecord, decode, encode

COUNT = int(os.environ.get("WIRE_FUZZ", "50000"))
SEED = int(os.environ.get("WIRE_FUZZ_SEED", "1"))
LARGEST = 256 * 1024
"""Payload of the largest honest record here."""
LIMIT = 4 * LARGEST
"""Bytes that reading one record may take, whatever it says."""
SLOT = "default:key"
KEYS = [b"a" * 32, b"b" * 32]

# What stands in a header where something else should.
TOKENS = [
    "null", "true", "false", "0", "-1", "1", "2", "5", "99", "1.5", "-0.0", "1e308", "1e999",
    "NaN", "Infinity", "9223372036854775808", "18446744073709551616", "1" * 400, '""', '"x"',
    '"nan"', '"inf"', '"1"', '"1e999"', '"\\ud800"', '"\\u0000"', '"' + "x" * 10_000 + '"', "[]",
    "[[]]", "[1,2,3]", "[-1,0,0]", "[1.5,0,0]", '["a",1]', "[null]", "{}", '{"k":1}',
    "[1,2,18446744073709551615]", "[" * 2_000 + "]" * 2_000, "[" + "0," * 5_000 + "0]",
]  # fmt: skip
FIELDS = "ktnlwxchgemuz"


def forged(header: bytes, content: bytes, flags: int = 0, version: int = 1) -> bytes:
    """A record whose checksum is right, whatever else is not."""
    return sealed_up(struct.pack(">I", len(header)) + header + content, flags, version)


def sealed_up(body: bytes, flags: int = 0, version: int = 1) -> bytes:
    """What stands after the checksum, with the right one."""
    return b"ap" + bytes((version, flags)) + struct.pack(">I", zlib.crc32(body)) + body


def repaired(record: bytes) -> bytes:
    """The record with the checksum that it should have."""
    return record[:4] + struct.pack(">I", zlib.crc32(record[8:])) + record[8:]


class Mutator:
    """Makes bad records of honest ones, the same ones for the same seed."""

    def __init__(self, records: list[bytes], seed: int) -> None:
        self._records = records
        self._small = [record for record in records if len(record) < 4_096]
        self._random = random.Random(seed)

    def __iter__(self) -> Iterator[bytes]:
        ways: list[Callable[[bytes], bytes]] = [
            self._flip, self._cut, self._splice, self._insert, self._repeat, self._retyped,
            self._rewritten, self._resized, self._noise,
        ]  # fmt: skip
        while True:
            pool = self._records if self._random.random() < 0.05 else self._small
            record = self._random.choice(ways)(self._random.choice(pool))
            if self._random.random() < 0.5:
                record = repaired(record)
            yield record

    def _flip(self, record: bytes) -> bytes:
        changed = bytearray(record)
        for _ in range(self._random.choice((1, 1, 2, 8))):
            changed[self._random.randrange(len(changed))] ^= 1 << self._random.randrange(8)
        return bytes(changed)

    def _cut(self, record: bytes) -> bytes:
        return record[: self._random.randrange(len(record))]

    def _splice(self, record: bytes) -> bytes:
        other = self._random.choice(self._small)
        return (
            record[: self._random.randrange(len(record))]
            + other[self._random.randrange(len(other)) :]
        )

    def _insert(self, record: bytes) -> bytes:
        at = self._random.randrange(len(record))
        return record[:at] + self._random.randbytes(self._random.randrange(1, 40)) + record[at:]

    def _repeat(self, record: bytes) -> bytes:
        at = self._random.randrange(len(record))
        return record[:at] + record[at : at + 64] * self._random.randrange(2, 50) + record[at:]

    def _retyped(self, record: bytes) -> bytes:
        """Another version, or other flags."""
        return record[:2] + self._random.randbytes(2) + record[4:]

    def _rewritten(self, record: bytes) -> bytes:
        """A header of which some fields are something else, left out, or doubled."""
        (length,) = struct.unpack_from(">I", record, 8)
        fields = {k: json.dumps(v) for k, v in json.loads(record[12 : 12 + length]).items()}
        items = list(fields.items())
        for _ in range(self._random.randrange(1, 4)):
            items.append((self._random.choice(FIELDS), self._random.choice(TOKENS)))
        if self._random.random() < 0.3:
            items.pop(self._random.randrange(len(items)))
        header = "{" + ",".join(f'"{name}":{value}' for name, value in items) + "}"
        return forged(header.encode("utf-8", "surrogatepass"), record[12 + length :], record[3])

    def _resized(self, record: bytes) -> bytes:
        """A length that points elsewhere."""
        length = self._random.choice((0, 1, 2**31, 2**32 - 1, self._random.randrange(10_000)))
        return record[:8] + struct.pack(">I", length) + record[12:]

    def _noise(self, record: bytes) -> bytes:
        return self._random.randbytes(self._random.randrange(200))


def honest_records() -> list[bytes]:
    entries = honest_entries(LARGEST)
    return [encode(entry, offset=0, compress_over=over) for entry in entries for over in (None, 64)]


def read(record: bytes) -> Entry | None:
    """What a tier makes of a record. Fails where the entry is not one that could be honest."""
    try:
        entry = decode(record, offset=0)
    except BadRecord:
        return None
    assert type(entry.kind) is Kind
    assert type(entry.payload) is bytes
    assert entry.head is None or type(entry.head) is bytes
    for text in (entry.endpoint, entry.model, entry.billed, entry.service):
        assert text is None or type(text) is str
    assert type(entry.tags) is tuple
    assert all(type(tag) is str for tag in entry.tags)
    assert math.isfinite(entry.stored_at)
    for seconds in (entry.stale_while_revalidate, entry.stale_if_error, entry.cost):
        assert math.isfinite(seconds)
        assert seconds >= 0
    assert entry.ttl is None or (math.isfinite(entry.ttl) and entry.ttl >= 0)
    assert entry.usage is None or all(type(count) is int for count in entry.usage)
    return entry


def peak_of(action: Callable[[], object]) -> int:
    """Bytes that something takes at most, besides what is there."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    action()
    return tracemalloc.get_traced_memory()[1] - before


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def test_honest_records_take_little_memory(traced: None) -> None:
    for record in honest_records():
        assert peak_of(lambda r=record: read(r)) < LIMIT
        assert read(record) is not None


def test_bad_records_are_refused_and_take_little_memory(traced: None) -> None:
    refused = 0
    for _, record in zip(range(COUNT), Mutator(honest_records(), SEED), strict=False):
        took = peak_of(lambda r=record: decoded(r))
        assert took < LIMIT + len(record), (took, record[:500])
        refused += decoded(record) is None
    assert refused > COUNT * 0.8


def decoded(record: bytes) -> Entry | None:
    """Any exception but one fails the test, and names the record."""
    try:
        return decode(record, offset=0)
    except BadRecord:
        return None
    except Exception as error:
        raise AssertionError(f"{error!r} from {record[:500]!r}") from error


def test_what_is_believed_could_be_honest() -> None:
    for _, record in zip(range(COUNT), Mutator(honest_records(), SEED + 1), strict=False):
        try:
            read(record)
        except Exception as error:
            pytest.fail(f"{error!r} from {record[:500]!r}", pytrace=False)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_is_something_else(field: str) -> None:
    believed = []
    for token in TOKENS:
        header = {"k": "1", "t": "1.0", "n": "2", "l": "60.0"} | {field: token}
        text = "{" + ",".join(f'"{name}":{value}' for name, value in header.items()) + "}"
        try:
            read(forged(text.encode("utf-8", "surrogatepass"), b"{}"))
        except AssertionError:
            believed.append(token[:40])
    assert not believed


@pytest.mark.parametrize("part", ["0,", "[],", '"",', "[" * 100 + "]" * 100 + ","])
def test_a_header_cannot_be_large(traced: None, part: str) -> None:
    parts = (part * (2**20 // len(part))).rstrip(",")
    header = f'{{"k":3,"t":1,"n":0,"g":[{parts}]}}'.encode()
    record = forged(header, b"")
    assert peak_of(lambda: decoded(record)) < LIMIT + len(record)


def packed(size: int) -> bytes:
    """So many bytes of nothing, packed 1,000 times smaller."""
    machine = zlib.compressobj(9)
    parts = [machine.compress(bytes(min(2**20, size - at))) for at in range(0, size, 2**20)]
    return b"".join([*parts, machine.flush()])


@pytest.mark.parametrize(
    ("says", "holds"),
    [
        (0, 50 * 2**20),
        (100, 50 * 2**20),
        (LARGEST, 50 * 2**20),
        (32 * 2**20, 50 * 2**20),
        (50 * 2**20, 32 * 2**20),
        (256 * 2**20, 300 * 2**20),
        (2**40, 50 * 2**20),
        (-1, 50 * 2**20),
    ],
)
def test_a_decompression_bomb_takes_little_memory(traced: None, says: int, holds: int) -> None:
    record = forged(f'{{"k":3,"t":1,"n":{says}}}'.encode(), packed(holds), flags=1)
    assert peak_of(lambda: decoded(record)) < LIMIT + 3 * len(record)
    assert decoded(record) is None


def test_a_bomb_in_a_bomb_is_opened_once(traced: None) -> None:
    inner = packed(50 * 2**20)
    record = forged(f'{{"k":3,"t":1,"n":{len(inner)}}}'.encode(), zlib.compress(inner, 9), flags=1)
    assert peak_of(lambda: decoded(record)) < LIMIT + 3 * len(record)


def test_what_is_sealed_is_refused_with_any_change(traced: None) -> None:
    cipher = Cipher(KEYS)
    sealed = [cipher.seal(SLOT.encode(), record) for record in honest_records()]

    def open_(record: bytes) -> bool:
        try:
            cipher.open(SLOT.encode(), record)
        except BadRecord:
            return False
        return True

    assert all(map(open_, sealed))
    chance = random.Random(SEED)
    for _ in range(COUNT // 4):
        record = bytearray(chance.choice(sealed))
        way = chance.randrange(3)
        if way == 0:
            record[chance.randrange(len(record))] ^= chance.randrange(1, 256)
        elif way == 1:
            del record[chance.randrange(len(record)) :]
        else:
            other = chance.choice(sealed)
            record[chance.randrange(1, len(record)) :] = other[chance.randrange(len(other)) :]
        if bytes(record) in sealed:
            continue
        opened = []
        assert peak_of(lambda r=bytes(record), o=opened: o.append(open_(r))) < LIMIT
        assert opened == [False]


Asker = Callable[[PromptCache, AsyncOpenAI], Awaitable[Any]]
MESSAGES: list[Any] = [{"role": "user", "content": "why?"}]


async def chat(cache: PromptCache, client: AsyncOpenAI) -> Any:
    answer = await client.chat.completions.create(model="m", messages=MESSAGES)
    return answer.choices[0].message.content, str(cache_status(answer)) and None


async def chat_stream(cache: PromptCache, client: AsyncOpenAI) -> Any:
    stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    words = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
    return words, str(cache_status(stream)) and None


async def raw_response(cache: PromptCache, client: AsyncOpenAI) -> Any:
    raw = await client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
    return raw.status_code, raw.headers.get("content-type"), raw.parse().choices[0].message.content


async def responses(cache: PromptCache, client: AsyncOpenAI) -> Any:
    return (await client.responses.create(model="m", input="why?")).output_text


async def embeddings(cache: PromptCache, client: AsyncOpenAI) -> Any:
    return (await client.embeddings.create(model="m", input="why?")).data[0].embedding


async def own_key(cache: PromptCache, client: AsyncOpenAI) -> Any:
    async def factory() -> Any:
        return {"answer": "right"}

    found = await cache.get("key", type=dict)
    assert found is None or type(found) is dict
    return await cache.get_or_create("key", factory)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"], indirect=True)
@pytest.mark.parametrize(
    "ask",
    [chat, chat_stream, raw_response, responses, embeddings, own_key],
    ids=lambda f: f.__name__,
)
async def test_no_caller_ever_sees_one(ask: Asker, url: str, raw: redis.asyncio.Redis) -> None:
    """Bad records where an answer was."""
    faults: dict[str, bytes] = {}
    async with OpenAIServer() as server, PromptCache(RedisTier(url, timeout=5)) as cache:
        client = cache.wrap(server.client())
        right = await ask(cache, client)
        [place] = [key async for key in raw.scan_iter(match="*:e:*")]
        samples = Mutator([await raw.get(place)], SEED + 2)
        for _, record in zip(range(max(500, COUNT // 100)), samples, strict=False):
            await raw.set(place, record)
            try:
                answer = await ask(cache, client)
            except Exception as error:
                faults.setdefault(type(error).__name__, record)
            else:
                # What was forged well is an answer like any other: that is what keys are for.
                assert decoded(record) is not None or answer == right
    assert not faults
