"""What went wrong, in one line for people: no traceback, no password."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MovedError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from .._errors import PromptCacheError
from ..tiers._base import Refused

FAILED, UNUSABLE, INTERRUPTED = 1, 2, 130
"""Exit codes: not all of it was done; nothing could be done; Ctrl-C."""


class ToolError(Exception):
    """A command ends with this line and this exit code."""

    def __init__(self, message: str, code: int = UNUSABLE) -> None:
        super().__init__(message)
        self.code = code


def place_of(url: str) -> str:
    """Where a URL points to, without user and password."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return parts.path
        host = parts.hostname or "localhost"
        return f"[{host}]:{parts.port or 6379}" if ":" in host else f"{host}:{parts.port or 6379}"
    except ValueError:  # nothing of it can be shown: who knows where the password is
        return "a URL that cannot be read"


def explained(error: BaseException, place: str) -> ToolError | None:
    """An expected fault as a line that names the server; None for a bug of ours."""
    if isinstance(error, ToolError):
        return error
    if isinstance(error, (PromptCacheError, ImportError)):
        return ToolError(str(error))
    if isinstance(error, OSError) and error.errno in _OF_FILES:  # the client's are RedisErrors
        return ToolError(f"cannot write: {os.strerror(error.errno or 0)}")
    chain = list(_chain(error))
    if isinstance(error, (RedisError, Refused, OSError, TimeoutError)):
        return ToolError(f"redis at {place}: {_reason(error, chain)}")
    return None


def _reason(error: BaseException, chain: list[BaseException]) -> str:
    text = str(error).partition("\n")[0]
    match error:
        case AuthenticationError():
            said = "" if "HELLO" in text else f" ({text.rstrip('.')})"  # that is on the protocol
            return f"wrong or missing password{said}; put it into the URL"
        case NoPermissionError() | ResponseError() if "permission" in text.lower():
            return f"missing right: {text}; `aiopromptcache doctor` lists what is needed"
        case Refused():
            return f"takes no writes for now: {text}"
        case BusyLoadingError():
            return "is still loading its data; try again"
        case MovedError():
            return "is a cluster, and this user may not run INFO to find out; grant +info"
        case ResponseError():
            return text
        case RedisClusterException():
            return f"the cluster is not usable: {text}"
    return _connection_reason(error, chain)


def _connection_reason(error: BaseException, chain: list[BaseException]) -> str:
    for link in chain:
        if isinstance(link, ssl.SSLError):
            return f"TLS failed ({link.reason or link}); rediss:// is for TLS, redis:// for none"
    if any(isinstance(link, TimeoutError) for link in chain) or "imeout" in type(error).__name__:
        return "no answer in time: right host and port, TLS (rediss://) or not? --timeout is longer"
    for link in chain:
        if isinstance(link, socket.gaierror):
            return "no such host"
        if isinstance(link, OSError) and link.errno in _KNOWN:
            return f"cannot connect: {os.strerror(link.errno or 0)}"
    text = str(error).partition("\n")[0] or type(error).__name__
    return f"cannot connect: {text.rstrip('.')}"


_OF_FILES = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
_KNOWN = {
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENOENT,
    errno.EACCES,
}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
