"""Lines of a file or of stdin, read as they are needed; waiting for stdin holds up nothing else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from ._errors import ToolError

BLOCK = 2**18
LONGEST = 64 * 2**20
"""Bytes of a line."""


class Line(NamedTuple):
    """A line that is not blank."""

    number: int
    """From 1, as editors count; blank lines count too."""
    text: bytes
    """Without its end. Cut where it was too long."""
    whole: bool = True


def open_input(path: str) -> int:
    """A descriptor to read from; "-" is stdin."""
    if path == "-":
        return os.dup(0)
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise ToolError(f"{path}: {error.strerror}") from None


def count_lines(path: str) -> int | None:
    """Lines of a file that are not blank; None where it can only be read once."""
    if path == "-" or not Path(path).is_file():
        return None
    with Path(path).open("rb") as file:
        return sum(1 for line in file if not line.isspace())


class Lines:
    """The lines to the end of the input, or until `stop`."""

    def __init__(self, descriptor: int, longest: int = LONGEST) -> None:
        self._descriptor = descriptor
        self._longest = longest
        self._stopped = False
        self._waiter: asyncio.Future[None] | None = None

    def stop(self) -> None:
        """Give no more, also where the next is being waited for."""
        self._stopped = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def __aiter__(self) -> AsyncIterator[Line]:
        number, rest, cut = 0, b"", False
        while block := await self._block():
            *done, last = block.split(b"\n")
            for part in done:
                number += 1
                text, rest = rest + part, b""
                if (line := self._line(number, text, cut)) is not None:
                    yield line
                cut = False
            rest += last
            if len(rest) > self._longest:
                rest, cut = rest[: self._longest], True
        if (line := self._line(number + 1, rest, cut)) is not None and not self._stopped:
            yield line

    def _line(self, number: int, text: bytes, cut: bool) -> Line | None:
        if not text.strip():
            return None
        return Line(number, text[: self._longest], not cut and len(text) <= self._longest)

    async def _block(self) -> bytes:
        """What there is to read; b"" at the end."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        try:
            loop.add_reader(self._descriptor, self._wake)
        except (OSError, NotImplementedError):  # a file always has something to read
            pass
        else:
            try:
                if not self._stopped:
                    await self._waiter
            finally:
                loop.remove_reader(self._descriptor)
        if self._stopped:
            return b""
        try:
            return os.read(self._descriptor, BLOCK)
        except OSError as error:
            raise ToolError(f"cannot read the requests: {error.strerror}") from None
