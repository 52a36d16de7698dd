"""From stored bytes to the SDK's objects, fast, and only where that gives the very same object.

The SDK builds objects without validating them, which is slow; validating is fast, but refuses or
changes what servers that only resemble OpenAI return. So the first hit builds both ways and
compares; the entry then remembers (`Entry.memo`) how it is rebuilt:

* `VALIDATE`: the validator gives the same object;
* bytes: a pickle of the SDK's own object, made and read by this process only;
* `AS_THE_SDK_DOES`: neither; the complete layer rebuilds it each time.
"""

from __future__ import annotations

import array
import base64
import pickle
from enum import Enum, auto
from typing import Any

from openai import AsyncOpenAI
from pydantic import BaseModel

from .._entry import Entry
from ._endpoints import Endpoint
from ._record import is_json, request_id

_SCALARS = frozenset({str, int, float, bool, type(None)})


class Way(Enum):
    """How an entry is rebuilt when it is not unpickled."""

    VALIDATE = auto()
    AS_THE_SDK_DOES = auto()


def rebuild(entry: Entry, endpoint: Endpoint, client: AsyncOpenAI) -> Any:
    """A new object for a plain answer; None where only the SDK's own path will do."""
    memo = entry.memo
    if memo is None:
        memo = entry.memo = _learn(entry, endpoint, client)
    way, identifier = memo
    if way is Way.VALIDATE:
        built = endpoint.model.__pydantic_validator__.validate_json(entry.payload)
    elif way is Way.AS_THE_SDK_DOES:
        return None
    else:
        built = pickle.loads(way)
    built.__dict__["_request_id"] = identifier
    return built


def _learn(entry: Entry, endpoint: Endpoint, client: AsyncOpenAI) -> tuple[Way | bytes, str | None]:
    identifier = request_id(entry)
    if client._strict_response_validation or not is_json(entry):
        return Way.AS_THE_SDK_DOES, identifier
    try:
        reference = _as_the_sdk_does(entry, endpoint, client)
        if not isinstance(reference, BaseModel):  # a list, a text: it carries no request id
            return Way.AS_THE_SDK_DOES, identifier
        if endpoint.validates_fast and same(_validated(entry, endpoint), reference):
            return Way.VALIDATE, identifier
        pickled = pickle.dumps(reference, pickle.HIGHEST_PROTOCOL)
        if same(pickle.loads(pickled), reference):
            return pickled, identifier
    except Exception:  # an odd body: the SDK's own path shows what it makes of it
        pass
    return Way.AS_THE_SDK_DOES, identifier


def _as_the_sdk_does(entry: Entry, endpoint: Endpoint, client: AsyncOpenAI) -> Any:
    import httpx2

    response = httpx2.Response(200, content=entry.payload)
    return client._process_response_data(
        data=response.json(), cast_to=endpoint.model, response=response
    )


def _validated(entry: Entry, endpoint: Endpoint) -> Any:
    endpoint.model.model_rebuild()  # the SDK defers building its validators
    try:
        return endpoint.model.__pydantic_validator__.validate_json(entry.payload)
    except ValueError:
        return None


def same(one: Any, other: Any) -> bool:
    """Equal in value, in the type of every part, in fields set and in order."""
    kind = type(one)
    if kind is not type(other):
        return False
    if kind in _SCALARS:  # most parts are
        return bool(one == other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(same, one.values(), other.values()))
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, BaseModel):
        return (
            same(one.__dict__, other.__dict__)
            and same(one.__pydantic_extra__, other.__pydantic_extra__)
            and one.__pydantic_fields_set__ == other.__pydantic_fields_set__
        )
    return bool(one == other)


def decode_vectors(embeddings: Any) -> bool:
    """Turn base64 vectors into lists of floats, as the SDK does when no encoding was asked for.

    False where the answer is not simply a list of base64 vectors of whole floats: what the SDK
    says of it depends on whether NumPy is installed.
    """
    items = embeddings.data
    if not items or not all(type(item.embedding) is str for item in items):
        return False
    vectors = [base64.b64decode(item.embedding) for item in items]
    if any(len(vector) % 4 for vector in vectors):
        return False
    for item, vector in zip(items, vectors, strict=True):
        item.embedding = array.array("f", vector).tolist()
    return True
