"""Streams side by side in one process, as ratios where there is another side: the bare SDK.

Run: pip install -e '.[test]' && python benchmarks/streams.py
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2
import orjson
from openai import AsyncOpenAI

from aiopromptcache import Policy, PromptCache
from aiopromptcache.testing import OpenAIServer

ROUNDS = 7
CHUNKS = 200
CROWD = 200
DELAY = 0.020
ASKED: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": " ".join(f"word{i}" for i in range(48))}],
}
RESPONSE: dict[str, Any] = {"model": "m", "input": "Why is the sky blue?"}


def event(value: dict[str, Any], name: str = "") -> bytes:
    """One server-sent event."""
    return (
        (f"event: {name}\n".encode() if name else b"") + b"data: " + orjson.dumps(value) + b"\n\n"
    )


def chat_body() -> bytes:
    """A recorded chat stream, as OpenAI sends it."""
    head: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "gpt-4o-mini",
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    }
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": "", "refusal": None}]
    deltas += [{"content": f" word{i}"} for i in range(CHUNKS)]
    choices: list[dict[str, Any]] = [
        {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None} for delta in deltas
    ]
    choices.append({"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"})
    return (
        b"".join(event({**head, "choices": [choice]}) for choice in choices) + b"data: [DONE]\n\n"
    )


def response_body() -> bytes:
    """A recorded stream of the Responses API: its deltas, then the whole."""
    item: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
    }
    text = "".join(f" word{i}" for i in range(CHUNKS))
    part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    body: dict[str, Any] = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_700_000_000.0,
        "status": "completed",
        "model": "m",
        "output": [{**item, "content": [part]}],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
    place: dict[str, Any] = {
        "item_id": "msg_1",
        "output_index": 0,
        "content_index": 0,
        "logprobs": [],
    }
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**body, "output": []}}
    ]
    events += [
        {"type": "response.output_text.delta", "delta": f" word{i}", **place} for i in range(CHUNKS)
    ]
    events.append({"type": "response.completed", "response": body})
    return b"".join(
        event({**value, "sequence_number": number}, str(value["type"]))
        for number, value in enumerate(events)
    )


BODIES = {"/v1/chat/completions": chat_body(), "/v1/responses": response_body()}


async def recorded(request: httpx2.Request) -> httpx2.Response:
    """The in-memory transport: the recorded bytes, at once."""
    headers = {"content-type": "text/event-stream"}
    return httpx2.Response(200, headers=headers, content=BODIES[request.url.path])


async def consume(stream: Any) -> int:
    """How many items a stream has."""
    count = 0
    async for _ in stream:
        count += 1
    return count


async def per_chunk(ask: Callable[[], Awaitable[Any]], times: int) -> float:
    """Mean seconds of one chunk, the call included."""
    started, count = time.perf_counter(), 0
    for _ in range(times):
        count += await consume(await ask())
    return (time.perf_counter() - started) / count


async def replay() -> None:
    """A stored stream, against the bare SDK over the same bytes."""
    transport = httpx2.AsyncClient(transport=httpx2.MockTransport(recorded))
    bare = AsyncOpenAI(api_key="-", base_url="http://in-memory/v1", http_client=transport)
    async with PromptCache() as cache:
        ours = cache.wrap(bare)
        calls: dict[str, Callable[[AsyncOpenAI], Awaitable[Any]]] = {
            "chat.completions, stream=True": lambda client: client.chat.completions.create(
                **ASKED, stream=True
            ),
            "responses, stream=True": lambda client: client.responses.create(
                **RESPONSE, stream=True
            ),
        }
        for name, ask in calls.items():
            await consume(await ask(ours))
            mine, other = [], []
            for _ in range(ROUNDS):
                other.append(await per_chunk(lambda ask=ask: ask(bare), 3))  # type: ignore[misc]
                mine.append(await per_chunk(lambda ask=ask: ask(ours), 30))  # type: ignore[misc]
            a, b = min(mine), min(other)
            print(
                f"replay: {name:<32}{a * 1e6:>8.1f} us a chunk{b * 1e6:>8.1f} us, bare"
                f"   1/{b / a:.0f}   (at most 1/10)"
            )


class Seen:
    """What one consumer saw, and when."""

    def __init__(self) -> None:
        self.first = 0.0
        self.times: list[float] = []
        self.text = ""

    async def read(self, client: AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(**ASKED, stream=True)
        async for chunk in stream:
            now = time.perf_counter()
            self.first = self.first or now
            self.times.append(now)
            if chunk.choices:
                self.text += chunk.choices[0].delta.content or ""


def percentile(values: list[float], share: float) -> float:
    """The value below which this share lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def crowd(*, stream_usage: bool) -> None:
    """Identical streams at once, chunks 20 ms apart, and one that comes at half time."""
    policy = Policy(stream_usage=stream_usage)
    async with OpenAIServer(chunk_delay=DELAY) as server, PromptCache(policy=policy) as cache:
        client = cache.wrap(server.client())
        everyone = [Seen() for _ in range(CROWD)]
        tasks = [asyncio.ensure_future(seen.read(client)) for seen in everyone]
        await server.wait_calls(1)
        await asyncio.sleep(DELAY * 26)
        half = len(everyone[0].times)
        late, started = Seen(), time.perf_counter()
        joined = asyncio.ensure_future(late.read(client))
        await asyncio.gather(*tasks, joined)
        leader, *followers = everyone
        delays = [follower.first - leader.first for follower in followers]
        lags = [
            mine - theirs
            for follower in followers
            for mine, theirs in zip(follower.times, leader.times, strict=True)
        ]
        print(
            f"{CROWD + 1} streams at once{', stream_usage' if stream_usage else ''}: "
            f"{server.calls} upstream, {len({seen.text for seen in [*everyone, late]})} text\n"
            f"  first chunk after the leader's: p50 {statistics.median(delays) * 1e3:.2f} ms, "
            f"p99 {percentile(delays, 0.99) * 1e3:.2f} ms   (p50 at most 2 ms)\n"
            f"  any chunk after the leader's:   p50 {statistics.median(lags) * 1e3:.2f} ms, "
            f"p99 {percentile(lags, 0.99) * 1e3:.2f} ms\n"
            f"  who came after {half} chunks had them in "
            f"{(late.times[half - 1] - started) * 1e3:.2f} ms   (at most 5 ms)"
        )


async def leaving() -> None:
    """How soon the upstream is closed when the last consumer has left."""
    async with OpenAIServer(chunk_delay=DELAY) as server, PromptCache() as cache:
        client = cache.wrap(server.client())
        took = []
        for number in range(20):
            streams = [
                await client.chat.completions.create(**ASKED, seed=number, stream=True)
                for _ in range(5)
            ]
            for stream in streams:
                await anext(stream)
            started = time.perf_counter()
            for stream in streams:
                await stream.close()
            await server.wait_disconnects(number + 1)
            took.append(time.perf_counter() - started)
        usual, worst = statistics.median(took) * 1e3, max(took) * 1e3
        print(
            f"the upstream hears of the last one's leaving after {usual:.1f} ms, "
            f"at most {worst:.1f} ms   (at most 100 ms)"
        )


async def own_items() -> None:
    """`PromptCache.stream` against the bare generator."""
    numbers = itertools.count()

    async def items() -> AsyncIterator[str]:
        next(numbers)
        for number in range(CHUNKS):
            yield f" word{number}"

    async with PromptCache() as cache:

        async def stored() -> Any:
            return cache.stream("key", items)

        async def plain() -> Any:
            return items()

        await consume(await stored())
        mine = min([await per_chunk(stored, 50) for _ in range(ROUNDS)])
        other = min([await per_chunk(plain, 50) for _ in range(ROUNDS)])
        print(f"cache.stream, stored: {mine * 1e6:.2f} us an item, {other * 1e6:.2f} us, generator")


async def main() -> None:
    """All of it."""
    await replay()
    await crowd(stream_usage=False)
    await crowd(stream_usage=True)
    await leaving()
    await own_items()


if __name__ == "__main__":
    asyncio.run(main())
