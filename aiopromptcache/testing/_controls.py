"""How a test watches and steers the local server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._request import RecordedRequest
from ._scenario import (
    BEFORE_ANSWER,
    Failure,
    Faults,
    Gate,
    Reset,
    StreamError,
    Truncation,
    error_object,
)
from ._traffic import Traffic


class Controls:
    """The part of `OpenAIServer` that counts, holds and injects faults; knows no HTTP."""

    def __init__(self) -> None:
        self._traffic = Traffic()
        self._faults = Faults()
        self._gate = Gate()

    # Counting

    @property
    def calls(self) -> int:
        """Requests received. Equals `active + completed + disconnects + cut`, but for
        those that were active at the last `reset`."""
        return self._traffic.calls

    @property
    def requests(self) -> list[RecordedRequest]:
        """The last 10,000 requests, oldest first."""
        return list(self._traffic.requests)

    def calls_for(self, endpoint: str) -> int:
        """Requests received for an endpoint such as `"chat/completions"`."""
        return self._traffic.by_endpoint[endpoint]

    @property
    def active(self) -> int:
        """Requests being answered now, held ones included."""
        return self._traffic.active

    @property
    def peak(self) -> int:
        """The most requests that were being answered at one time."""
        return self._traffic.peak

    @property
    def completed(self) -> int:
        """Answers handed to the network to their end, those with an error status included.

        Counted before the client can see the end.
        """
        return self._traffic.ended["completed"]

    @property
    def disconnects(self) -> int:
        """Requests whose client went away before the end of the answer."""
        return self._traffic.ended["disconnects"]

    @property
    def cut(self) -> int:
        """Answers the server broke off: `fail_connection`, `truncate_stream`, `aclose`."""
        return self._traffic.ended["cut"]

    def reset(self) -> None:
        """Zero the counts, forget the requests, drop the faults, and release what is held.

        Requests still under way stay `active`, but their end is not counted.
        """
        self._traffic.reset()
        self._faults.clear()
        self._gate.open()

    async def wait_active(self, n: int, timeout: float = 5.0) -> None:
        """Wait until `n` requests or more are being answered at one time.

        Like all `wait_` methods it returns at once if that is so now, and raises
        TimeoutError, with the counts as they are, after `timeout` seconds.
        """
        await self._traffic.wait(lambda: self.active >= n, f"{n} active", timeout)

    async def wait_idle(self, timeout: float = 5.0) -> None:
        """Wait until no request is being answered."""
        await self._traffic.wait(lambda: self.active == 0, "idle moment", timeout)

    async def wait_calls(self, n: int, timeout: float = 5.0) -> None:
        """Wait until `n` requests or more have been received."""
        await self._traffic.wait(lambda: self.calls >= n, f"{n} calls", timeout)

    async def wait_disconnects(self, n: int, timeout: float = 5.0) -> None:
        """Wait until `n` clients or more went away before the end of their answer."""
        await self._traffic.wait(lambda: self.disconnects >= n, f"{n} disconnects", timeout)

    # Holding

    def hold(self) -> None:
        """Make all answers wait, before their first byte, until `release`."""
        self._gate.close(BEFORE_ANSWER)

    def hold_after(self, chunks: int) -> None:
        """Make all streams wait after so many events, until `release`.

        The `[DONE]` at the end is no event; 0 holds after the headers. Streams with fewer
        events are not held. Adds to other holds.
        """
        self._gate.close(_not_negative("chunks", chunks))

    def release(self) -> None:
        """End all holds. Whoever waits goes on, even if `hold` is called again at once."""
        self._gate.open()

    # Faults

    def fail(
        self,
        status: int = 500,
        times: int = 1,
        *,
        headers: Mapping[str, str] | None = None,
        body: dict[str, Any] | bytes | None = None,
        code: str | None = None,
    ) -> None:
        """Answer the next requests to arrive with an error.

        Faults queue up; each request takes, on arrival, the first that fits it.

        Args:
            status: HTTP status, 400 to 599.
            times: For how many requests, at least 1.
            headers: Sent besides or instead of the usual ones, such as `{"retry-after": "1"}`.
            body: Instead of OpenAI's error object: JSON, or bytes sent as they are.
            code: The error object's `code`, such as `"context_length_exceeded"`.

        Raises:
            ValueError: A number is out of its range.
        """
        if not 400 <= status <= 599:
            raise ValueError(f"status must be 400 to 599, not {status!r}")
        usual = {
            "error": error_object(status, f"The local server was told to fail with {status}.", code)
        }
        lowered = {name.lower(): value for name, value in (headers or {}).items()}
        self._faults.add(Failure(status, usual if body is None else body, lowered), times)

    def fail_connection(self, times: int = 1) -> None:
        """Reset the connection of the next requests, without an answer."""
        self._faults.add(Reset(), times)

    def truncate_stream(self, after: int, times: int = 1, *, clean: bool = False) -> None:
        """End the next streams after so many events, and without their last frame.

        The client sees the connection close amid the body. With `clean` it sees a body
        that ends as it should and only lacks its rest: a stream without `[DONE]`, or
        without `response.completed`.
        """
        self._faults.add(Truncation(_not_negative("after", after), clean), times)

    def error_in_stream(self, after: int, times: int = 1, *, code: str | None = None) -> None:
        """Send an error object as an event of the next streams, after so many others, and end."""
        error = error_object(500, "The local server was told to fail within the stream.", code)
        self._faults.add(StreamError(_not_negative("after", after), error), times)


def _not_negative(name: str, value: int) -> int:
    if value < 0:
        raise ValueError(f"{name} must be 0 or more, not {value!r}")
    return value
