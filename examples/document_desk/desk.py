"""The desk itself: documents, and answers from them, each kept until its document changes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from openai import AsyncOpenAI

from aiopromptcache import CacheStatus, PromptCache, cache_status

from . import documents, passages, prompt
from .documents import Document, Library, Refused

MAX_QUESTION = 500
"""Characters."""
T = TypeVar("T")
How = Literal["hit", "similar", "shared", "fresh"]
_OWN = {"max_age": None, "max_stale": None, "only_if_cached": False}


def tag_of(name: str) -> str:
    """What all answers from a document are tagged with."""
    return f"document:{name}"


def namespace_of(library: Library) -> str:
    """One for each directory, so that two desks may share a store."""
    digest = hashlib.sha256(str(library.folder).encode()).hexdigest()
    return f"document-desk-{digest[:12]}"


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage that was sent. `cited`: the answer names it."""

    number: int
    text: str
    cited: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer and where it came from."""

    question: str
    answer: str
    how: How
    tokens_saved: int
    """What the model would have billed, where it was not asked."""
    similarity: float | None
    milliseconds: float
    status: str
    worker: int
    passages: list[Passage]
    of: int
    """Passages that the document has."""


class Desk:
    """What a worker does. Several share the directory and the cache's shared tiers."""

    def __init__(
        self, cache: PromptCache, client: AsyncOpenAI, library: Library, model: str
    ) -> None:
        self.library = library
        self._cache = cache
        self._client = client
        self._model = model
        self._changes: set[asyncio.Future[Any]] = set()
        # The file's stamp is part of the key, so a save by hand, outside of this service, counts.
        self._prepared = cache.cached(tags=lambda name, stamp: [f"text:{name}"])(self._prepare)

    async def names(self) -> list[str]:
        """The names of all documents."""
        return await asyncio.to_thread(self.library.names)

    async def read(self, name: str) -> Document:
        """A document as it is now."""
        return await asyncio.to_thread(self.library.read, name)

    async def save(self, name: str, data: bytes, expected: str | None) -> tuple[Document, int]:
        """Save a document; gives it, and how many answers from the old one are gone."""

        async def saved() -> tuple[Document, int]:
            document = await asyncio.to_thread(self.library.save, name, data, expected=expected)
            return document, await self._changed(document.name)

        return await self._to_its_end(saved())

    async def remove(self, name: str) -> int:
        """Delete a document; gives how many answers are gone with it."""
        name = documents.checked(name)

        async def removed() -> int:
            await asyncio.to_thread(self.library.remove, name)
            return await self._changed(name)

        return await self._to_its_end(removed())

    async def closed_at_the_end(self, app: object) -> AsyncIterator[None]:
        """For `cleanup_ctx`: no change is left half done."""
        yield
        await asyncio.gather(*self._changes, return_exceptions=True)

    async def _to_its_end(self, change: Coroutine[Any, Any, T]) -> T:
        """Make a change of a file and of the cache, even if whoever wants it goes away halfway."""
        task = asyncio.ensure_future(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _changed(self, name: str) -> int:
        """Drop what came from a file that is another now, in all workers.

        After the change, not before it: what is under way with the old text at this moment, in any
        worker, still answers whoever asked, and is not stored.
        """
        await self._cache.invalidate(f"text:{name}")
        return await self._cache.invalidate(tag_of(name))

    async def ask(self, name: str, question: str) -> Reply:
        """Answer a question from a document. Raises `Refused`, and the SDK's errors."""
        # A name may be spelt in several ways; tags and keys need one.
        name, question, started = documents.checked(name), checked(question), time.perf_counter()
        parts, indexed = await self._passages(name)
        places = passages.choose(parts, indexed, question)
        sent = {place + 1: parts[place] for place in places}
        with self._cache.control(tags=[tag_of(name)]):
            completion = await self._client.chat.completions.create(
                model=self._model, messages=prompt.messages(name, sent, question), temperature=0
            )
        took = (time.perf_counter() - started) * 1_000
        return _reply(question, completion, sent, len(parts), took)

    async def _passages(self, name: str) -> tuple[list[str], list[str]]:
        stamp = await asyncio.to_thread(self.library.stamp, name)
        with self._cache.control(**_OWN):  # what a request says of its age is about the answer
            parts, indexed = await self._prepared(name, stamp)
        return parts, indexed

    async def _prepare(self, name: str, stamp: str) -> list[list[str]]:
        """A document's passages, and the words of each. Where it is a PDF, its text comes first."""
        return await asyncio.to_thread(self._read_and_split, name)

    def _read_and_split(self, name: str) -> list[list[str]]:
        parts = passages.split(self.library.read(name).text)
        return [parts, passages.index(parts)]


def checked(question: str) -> str:
    """A question without needless white space; `Refused` for one that is none."""
    question = " ".join(question.split())
    if not question or any("\ud800" <= letter <= "\udfff" for letter in question):
        raise Refused(400, "There is no question.")
    if len(question) > MAX_QUESTION:
        raise Refused(400, f"A question has at most {MAX_QUESTION} characters.")
    return question


def _reply(
    question: str, completion: Any, sent: dict[int, str], of: int, milliseconds: float
) -> Reply:
    status = cache_status(completion)
    assert status is not None  # a wrapped client's answers have one
    answer, how = completion.choices[0].message.content or "", how_answered(status)
    billed = completion.usage.total_tokens if completion.usage else 0
    named = prompt.cited(answer)
    return Reply(
        question=question,
        answer=answer,
        how=how,
        tokens_saved=0 if how == "fresh" else billed,
        similarity=status.similarity,
        milliseconds=round(milliseconds, 1),
        status=str(status),
        worker=os.getpid(),
        passages=[Passage(number, text, number in named) for number, text in sent.items()],
        of=of,
    )


def how_answered(status: CacheStatus) -> How:
    """The status in one word."""
    if status.hit:
        return "hit" if status.similarity is None else "similar"
    return "shared" if status.collapsed else "fresh"
