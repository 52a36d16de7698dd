"""A local HTTP server that speaks the OpenAI protocol; needs `aiopromptcache[testing]`."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

from openai import AsyncOpenAI

from ._controls import Controls
from ._replies import Answer, Reply, Stream, decide, error_reply, usual_headers
from ._request import STREAMING, RecordedRequest, endpoint_of
from ._scenario import BEFORE_ANSWER, Fault, Reset
from ._texts import Options
from ._traffic import Call

try:
    from aiohttp import web
except ImportError as error:
    raise ImportError(
        "OpenAIServer is built on aiohttp: pip install aiopromptcache[testing]"
    ) from error

_BACKLOG: Final = 4096
_SHUTDOWN_SECONDS: Final = 1.0  # only ever waited for if a handler ignores its cancellation
_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream; charset=utf-8"
_LINGER_NOT: Final = struct.pack("ii", 1, 0)  # makes close() send RST instead of FIN


class OpenAIServer(Controls):
    """A real HTTP server on loopback that answers like OpenAI, for tests and examples.

    ```python
    async with OpenAIServer() as server:
        client = server.client()
        answer = await client.chat.completions.create(model="gpt-test", messages=[...])
        assert server.calls == 1
    ```

    It serves `chat/completions`, `responses` and `completions` (JSON, or server-sent
    events where the body says `stream: true`), `embeddings`, `moderations` and
    `GET models`, below `/v1` and in Azure's layouts. Anything else is a 404 like OpenAI's.

    Answers depend on nothing but the content of the request: an echo of the prompt under
    a hash of all that was asked. `id`, `created` and the header `x-request-id: req_N` are
    different in every answer, so that they show which call an answer came from. The n
    choices of a call differ. Words stand for tokens, in `usage` and as chunks of a stream;
    `max_tokens` and `stop` are ignored. A JSON-schema format gets an object valid for the
    schema. `tool_choice` of `"required"`, or that names a function, gets a call to it.
    Embeddings are unit vectors made from the input item alone, exact in float32.

    Every constructor argument is an attribute too, and may be changed at any time.

    Args:
        latency: Seconds from request to answer.
        chunk_delay: Seconds between the events of a stream.
        embedding_dimensions: Length of vectors where the request does not say.
        answer: Makes the answer instead: given the `RecordedRequest`, returns a str (the
            text of every choice), a dict (the whole JSON body, cut into chunks if a stream
            was asked for), bytes (sent as they are: as events if a stream was asked for and
            they begin with `data:`, `event:` or `:`, otherwise as JSON), or None (the
            default answer). What it raises becomes a 500 that names the exception. It is
            asked about unknown endpoints as well.
        finish_reason: Instead of the natural one, in every choice. `"length"` and
            `"content_filter"` make a response of `responses` incomplete.
        refusal: Refuse with this text, in `chat/completions` and `responses`.

    A server belongs to the event loop that started it. It may be started again after
    `aclose`; its counts then go on.
    """

    def __init__(
        self,
        *,
        latency: float = 0.0,
        chunk_delay: float = 0.0,
        embedding_dimensions: int = 256,
        answer: Answer | None = None,
        finish_reason: str | None = None,
        refusal: str | None = None,
    ) -> None:
        super().__init__()
        self.latency = latency
        self.chunk_delay = chunk_delay
        self.embedding_dimensions = embedding_dimensions
        self.answer = answer
        self.finish_reason = finish_reason
        self.refusal = refusal
        self._arrived = 0
        self._runner: web.AppRunner | None = None
        self._closing = False
        self._handlers: set[asyncio.Task[Any]] = set()
        self._clients: list[AsyncOpenAI] = []

    def __repr__(self) -> str:
        where = self.origin if self._runner else "stopped"
        return f"<OpenAIServer {where}: {self._traffic}>"

    # Running

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def start(self) -> Self:
        """Listen on a free port of 127.0.0.1; returns the server itself.

        Raises:
            RuntimeError: It is running already.
        """
        if self._runner is not None:
            raise RuntimeError(f"{self!r} is running already")
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._closing = False
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=_BACKLOG).start()
        return self

    async def aclose(self) -> None:
        """Cancel what is being answered, stop, and close the clients made by `client`.

        Ends all holds; keeps the counts and the faults not yet taken. Does nothing if the
        server is not running.
        """
        runner, self._runner = self._runner, None
        clients, self._clients = self._clients, []
        if runner is not None:
            self._closing = True
            for task in self._handlers:
                task.cancel()
            await runner.cleanup()
            self._gate.open()  # a hold belongs to the event loop it was waited for in
        for client in clients:
            await client.close()
        await asyncio.sleep(0)  # lets transports, closed just now, let go of their sockets

    @property
    def origin(self) -> str:
        """`http://127.0.0.1:{port}`; what Azure clients take as `azure_endpoint`.

        Raises:
            RuntimeError: The server is not running.
        """
        if self._runner is None or not self._runner.addresses:
            raise RuntimeError(
                "the server is not running: use `async with OpenAIServer()` or `await start()`"
            )
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:{port}/v1`. Raises like `origin`."""
        return f"{self.origin}/v1"

    def client(self, **kwargs: Any) -> AsyncOpenAI:
        """A client of this server, closed with it.

        Args:
            kwargs: For `AsyncOpenAI`; they win over `api_key="test"`, `max_retries=0` and
                the server's `base_url`.
        """
        client = AsyncOpenAI(
            **{"api_key": "test", "base_url": self.base_url, "max_retries": 0, **kwargs}
        )
        self._clients.append(client)
        return client

    # Answering

    async def _handle(self, http: web.Request) -> web.StreamResponse:
        task = asyncio.current_task()
        if task is None or self._closing:
            raise asyncio.CancelledError  # arrived while aclose() waits for the others
        self._handlers.add(task)
        try:
            return await self._exchange(http, await http.read())
        finally:
            self._handlers.discard(task)

    async def _exchange(self, http: web.Request, payload: bytes) -> web.StreamResponse:
        self._arrived += 1
        request, readable = _record(http, payload, self._arrived)
        fault = self._faults.take(stream=request.stream)
        call = self._traffic.begin(request)
        try:
            await self._gate.wait(BEFORE_ANSWER)
            await _pause(self.latency)
            reply = self._decide(http.method, request, fault) if readable else _UNREADABLE
            return await self._send(http, usual_headers(request.number), reply, call)
        except (asyncio.CancelledError, ConnectionError):
            call.end("cut" if self._closing else "disconnects")
            raise
        finally:
            call.end("cut")  # whatever else went wrong: no call stays active for ever

    def _decide(self, method: str, request: RecordedRequest, fault: Fault | None) -> Reply:
        options = Options(self.embedding_dimensions, self.finish_reason, self.refusal)
        return decide(method, request, fault, self.answer, options)

    async def _send(
        self, http: web.Request, headers: dict[str, str], reply: Reply, call: Call
    ) -> web.StreamResponse:
        if isinstance(reply, Stream):
            return await self._send_stream(http, headers, reply, call)
        if isinstance(reply, Reset):
            call.end("cut")
            _reset(http)
            return web.Response()
        call.end("completed")
        headers = {"content-type": _JSON, **headers, **reply.headers}
        return web.Response(body=reply.payload, status=reply.status, headers=headers)

    async def _send_stream(
        self,
        http: web.Request,
        headers: dict[str, str],
        stream: Stream,
        call: Call,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": _EVENTS, **headers})
        await response.prepare(http)
        last = -1 if stream.cut else len(stream.frames) - 1
        for place, frame in enumerate(stream.frames):
            await self._gate.wait(place)
            await _pause(self.chunk_delay if place else 0.0)
            if place == last:  # before the client can have it all and hang up
                call.end("completed")
            await response.write(frame)
        if stream.cut:
            await self._gate.wait(len(stream.frames))
        call.end("cut" if stream.cut else "completed")
        if stream.close and http.transport is not None:
            http.transport.close()
        return response


_UNREADABLE: Final = error_reply(400, "We could not parse the JSON body of your request.")


def _record(http: web.Request, payload: bytes, number: int) -> tuple[RecordedRequest, bool]:
    """The record of a request, and whether its body is a JSON object, or none was sent."""
    body = _parse(payload) if http.content_type == _JSON or not payload else {}
    endpoint = endpoint_of(http.path)
    request = RecordedRequest(
        path=http.path,
        endpoint=endpoint,
        body=body or {},
        headers=MappingProxyType({name.lower(): value for name, value in http.headers.items()}),
        query=MappingProxyType(dict(http.query)),
        stream=endpoint in STREAMING and body is not None and body.get("stream") is True,
        number=number,
    )
    return request, body is not None


def _parse(payload: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(payload or b"{}")
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _reset(http: web.Request) -> None:
    """Close the connection with RST, so that the client sees a reset and not an end."""
    transport = http.transport
    if transport is None:
        return
    if (sock := transport.get_extra_info("socket")) is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    transport.abort()


async def _pause(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)
