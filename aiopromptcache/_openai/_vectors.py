"""Embeddings item by item: taken apart when they come, put together when they are asked for.

An item's record is a `Kind.VECTOR` entry. Its payload:

    offset  bytes  what
    0       1      form of the vector: 0 = float32 that came as base64, 1 = float32 that came as
                   numbers; where that would lose bits, 2 = float64, or 3 = numbers as JSON
    1       4      the item's place in the answer that brought it, little-endian as all that follows
    5       4      how many items that answer had
    9       4      n, length of the description
    13      4      m, length of the usage
    17      n      the description: JSON [the answer without its data, the item without its vector]
    17+n    m      the usage of the whole answer, JSON
    17+n+m  …      the vector

What cannot be kept so without changing it (a server that only resembles OpenAI) is not taken apart.
"""

from __future__ import annotations

import array
import base64
import copy
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from cachetools import LRUCache
from openai import AsyncOpenAI
from openai.types import CreateEmbeddingResponse
from pydantic import BaseModel

from .._entry import Entry, ForeignEntry, Kind, Usage
from ._endpoints import Body, usage_of
from ._record import has_long_integer, is_head, request_id

BASE64, FLOATS, DOUBLES, JSON = range(4)
_HEAD = struct.Struct("<BIIII")
_SCALARS = (str, int, float, bool, type(None))
_EXACT_INT = 2**53
_NOTHING = b'{"prompt_tokens":0,"total_tokens":0}'


class Item(NamedTuple):
    """One item of an answer, ready to be kept."""

    payload: bytes
    usage: Usage


# Taking apart


def take_apart(body: bytes, parsed: Body | None, inputs: Sequence[Any]) -> list[Item] | None:
    """The items of an answer in the order of its inputs; None where it is not such an answer."""
    if parsed is None or not _regular(parsed) or has_long_integer(body):
        return None
    items = _in_order(parsed["data"], len(inputs))
    if items is None:
        return None
    envelope = {k: None if k in ("data", "usage") else v for k, v in parsed.items()}
    billed, usage = orjson.dumps(parsed["usage"]), usage_of(parsed)
    shares = shared_out(usage.prompt if usage else 0, inputs)
    taken = []
    for place, (item, tokens) in enumerate(zip(items, shares, strict=True)):
        packed = _pack(item["embedding"])
        if packed is None:
            return None
        form, vector = packed
        rest = {k: None if k in ("index", "embedding") else v for k, v in item.items()}
        text = orjson.dumps([envelope, rest])
        head = _HEAD.pack(form, place, len(items), len(text), len(billed))
        payload = b"".join((head, text, billed, vector))
        taken.append(Item(payload, Usage(tokens, 0, tokens)))
    return taken


def _regular(parsed: Body) -> bool:
    """Has it all that OpenAI's answers have, and nothing that says otherwise?"""
    usage, data = parsed.get("usage"), parsed.get("data")
    if not isinstance(data, list) or not isinstance(usage, dict) or parsed.get("error"):
        return False
    counts = [usage.get("prompt_tokens"), usage.get("total_tokens")]
    return all(type(count) is int and count >= 0 for count in counts)


def _in_order(data: list[Any], count: int) -> list[Body] | None:
    """Items by their own index, where each index is there exactly once."""
    placed: dict[int, Body] = {}
    for item in data:
        if not isinstance(item, dict) or "embedding" not in item:
            return None
        if type(index := item.get("index")) is not int:
            return None
        placed[index] = item
    if len(data) != count or placed.keys() != set(range(count)):
        return None
    return [placed[index] for index in range(count)]


def _pack(vector: object) -> tuple[int, bytes] | None:
    """The form and the bytes of a vector; None for what cannot come back as it was."""
    if type(vector) is str:
        try:
            packed = base64.b64decode(vector, validate=True)
        except ValueError:
            return None
        exact = len(packed) % 4 == 0 and base64.b64encode(packed).decode() == vector
        return (BASE64, packed) if packed and exact else None
    if type(vector) is not list or not vector:
        return None
    kinds = set(map(type, vector))
    if kinds == {float}:
        try:
            single = array.array("f", vector)
        except OverflowError:
            single = array.array("f")
        if single.tolist() == vector:
            return FLOATS, _little(single).tobytes()
        return DOUBLES, _little(array.array("d", vector)).tobytes()
    if not kinds <= {float, int} or not all(abs(number) < _EXACT_INT for number in vector):
        return None
    return JSON, orjson.dumps(vector)


def is_item(entry: Entry) -> bool:
    """Is it the record of an item? What comes from outside may be anything."""
    if entry.kind is not Kind.VECTOR:
        return False
    if type(entry) is not ForeignEntry or entry.memo is not None:
        return True
    try:
        form, place, count, n, m = _HEAD.unpack_from(entry.payload)
        text, billed, vector = _parts(entry.payload, n, m)
        envelope, rest = orjson.loads(text)
        usage = orjson.loads(billed)
        floats = orjson.loads(vector) if form == JSON else vector
    except (struct.error, TypeError, ValueError):
        return False
    size = {BASE64: 4, FLOATS: 4, DOUBLES: 8, JSON: 1}.get(form)
    return (
        is_head(entry)
        and all(type(part) is dict for part in (envelope, rest, usage))
        and size is not None
        and place < count
        and len(vector) > 0
        and len(vector) % size == 0
        and (form != JSON or (type(floats) is list and set(map(type, floats)) <= {float, int}))
    )


def _parts(payload: bytes, n: int, m: int) -> tuple[bytes, bytes, bytes]:
    """Description, usage and vector."""
    start = _HEAD.size
    return payload[start : start + n], payload[start + n : start + n + m], payload[start + n + m :]


def _little(single: array.array[float]) -> array.array[float]:
    if sys.byteorder == "big":
        single = single[:]
        single.byteswap()
    return single


def shared_out(tokens: int, inputs: Sequence[Any]) -> list[int]:
    """A request's tokens by item, in proportion to the items' lengths; they add up exactly."""
    sizes = [len(one) + 1 for one in inputs]
    whole, given, seen, shares = sum(sizes), 0, 0, []
    for size in sizes:
        seen += size
        share = tokens * seen // whole - given
        given += share
        shares.append(share)
    return shares


# Putting together


class _Mould(NamedTuple):
    """The SDK's own objects for one description, to be copied and filled."""

    envelope: Body
    rest: Body
    response: _Cast
    item: _Cast


class _Cast:
    """Makes copies of one pydantic object, each with parts of its own."""

    def __init__(self, model: BaseModel) -> None:
        self._kind = type(model)
        self._fields = dict(model.__dict__)
        self._set = model.__pydantic_fields_set__
        self._extra = model.__pydantic_extra__
        values = [*self._fields.values(), *(self._extra or {}).values()]
        self._flat = all(type(value) in _SCALARS for value in values)

    def __call__(self, **fields: Any) -> Any:
        own, extra = self._fields.copy(), self._extra
        if not self._flat:
            own, extra = copy.deepcopy((own, extra))
        elif extra is not None:
            extra = extra.copy()
        own.update(fields)
        made = self._kind.__new__(self._kind)
        put = object.__setattr__
        put(made, "__dict__", own)
        put(made, "__pydantic_fields_set__", self._set.copy())
        put(made, "__pydantic_extra__", extra)
        put(made, "__pydantic_private__", None)
        return made


class Assembler:
    """Puts items together for one client."""

    def __init__(self, client: AsyncOpenAI) -> None:
        self._client = client
        self._moulds: LRUCache[bytes, _Mould] = LRUCache(1_024)
        self._usages: LRUCache[bytes, _Cast] = LRUCache(1_024)
        self._ids: LRUCache[bytes, str | None] = LRUCache(1_024)

    def response(
        self, entries: Sequence[Entry], usage: Body | None, *, decoded: bool
    ) -> CreateEmbeddingResponse:
        """The object that the SDK makes; `decoded`: of base64 the floats, as it does unasked.

        `usage` is what was paid for. Without it, it is that of the answer which these items are,
        if they are all of one, and nothing otherwise.
        """
        data = []
        for index, entry in enumerate(entries):
            memo = entry.memo or self._learn(entry)
            data.append(memo[0].item(index=index, embedding=[]))
        # Filled in afterwards: for each long list a short one goes, so that the garbage collector
        # is not called to walk over a million floats again and again.
        for item, entry in zip(data, entries, strict=True):
            _, form, start, *_ = entry.memo or self._learn(entry)
            vector = _vector(entry, form, start, decoded)
            if form == JSON:  # the SDK makes floats of them
                vector = list(map(float, vector))
            item.__dict__["embedding"] = vector
        text = self._billed(entries) if usage is None else orjson.dumps(usage)
        response: CreateEmbeddingResponse = self._mould(entries[0]).response(
            data=data, usage=self._usage(text)
        )
        return response

    def _billed(self, entries: Sequence[Entry]) -> bytes:
        """The usage of the answer that these items are, if they are all of one; else nothing."""
        if not self._is_one_answer(entries):
            return _NOTHING
        usage: bytes = (entries[0].memo or self._learn(entries[0]))[5]
        return usage

    def _is_one_answer(self, entries: Sequence[Entry]) -> bool:
        """Are these all the items of one upstream answer, in its order?"""
        head, first, count = entries[0].head, self._mould(entries[0]), len(entries)
        usage = (entries[0].memo or self._learn(entries[0]))[5]
        for index, entry in enumerate(entries):
            mould, _, _, *rest = entry.memo or self._learn(entry)
            if rest != [index, count, usage] or entry.head != head:
                return False
            if mould is not first and mould.envelope != first.envelope:
                return False
        return True

    def _usage(self, text: bytes) -> Any:
        cast = self._usages.get(text)
        if cast is None:
            data = {"usage": orjson.loads(text), "data": []}
            built: Any = self._client._process_response_data(
                data=data, cast_to=CreateEmbeddingResponse, response=_no_http()
            )
            cast = self._usages[text] = _Cast(built.usage)
        return cast()

    def body(self, entries: Sequence[Entry], usage: Body | None) -> bytes:
        """The JSON text of an answer with these items."""
        data = []
        for index, entry in enumerate(entries):
            one, form, start, *_ = entry.memo or self._learn(entry)
            vector = _vector(entry, form, start, False)
            data.append({**one.rest, "index": index, "embedding": vector})
        billed = orjson.loads(self._billed(entries)) if usage is None else usage
        envelope = self._mould(entries[0]).envelope
        return orjson.dumps({**envelope, "data": data, "usage": billed})

    def http(self, entries: Sequence[Entry], usage: Body | None, head: bytes | None) -> Entry:
        """The HTTP answer that would have brought these items; its head is the first's if None."""
        return Entry(
            Kind.HTTP,
            self.body(entries, usage),
            stored_at=entries[0].stored_at,
            ttl=entries[0].ttl,
            head=head if head is not None else entries[0].head,
        )

    def request_id(self, entry: Entry) -> str | None:
        """The id of the upstream request that brought an item."""
        head = entry.head or b""
        if head not in self._ids:
            self._ids[head] = request_id(entry)
        return self._ids[head]

    def _mould(self, entry: Entry) -> _Mould:
        mould: _Mould = (entry.memo or self._learn(entry))[0]
        return mould

    def _learn(self, entry: Entry) -> tuple[Any, ...]:
        form, place, count, length, billed = _HEAD.unpack_from(entry.payload)
        usage = _HEAD.size + length
        start = usage + billed
        text = entry.payload[_HEAD.size : usage]
        mould = self._moulds.get(text)
        if mould is None:
            mould = self._moulds[text] = self._cast(*orjson.loads(text))
        entry.memo = (mould, form, start, place, count, entry.payload[usage:start])
        return entry.memo

    def _cast(self, envelope: Body, rest: Body) -> _Mould:
        body = {**envelope, "data": [{**rest, "index": 0, "embedding": []}], "usage": None}
        made: Any = self._client._process_response_data(
            data=copy.deepcopy(body), cast_to=CreateEmbeddingResponse, response=_no_http()
        )
        made.data[0].embedding = None
        item = _Cast(made.data[0])
        made.data = None
        return _Mould(envelope, rest, _Cast(made), item)


def _no_http() -> Any:
    import httpx2

    return httpx2.Response(200)


def _vector(entry: Entry, form: int, start: int, decoded: bool) -> Any:
    """A new vector, as it came, or decoded."""
    payload = entry.payload
    if form == JSON:
        return orjson.loads(payload[start:])
    if form == BASE64 and not decoded:
        return base64.b64encode(payload[start:]).decode()
    packed = array.array("d" if form == DOUBLES else "f")
    packed.frombytes(memoryview(payload)[start:])
    return _little(packed).tolist()


def added(usages: Iterable[Mapping[str, Any]]) -> Body | None:
    """What several calls were billed for, as one `usage`; None for none."""
    total: Body = {}
    for usage in usages:
        for name, value in usage.items():
            known = total.get(name)
            total[name] = known + value if type(known) is int and type(value) is int else value
    return total or None
