"""For tests of what uses the cache: time that stands still, faults on demand, a local OpenAI.

`OpenAIServer` needs the extra `testing`: `pip install "aiopromptcache[testing]"`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._clock import VirtualClock
from ._proxy import TCPProxy
from ._request import RecordedRequest
from ._tiers import FaultyTier

if TYPE_CHECKING:
    from ._server import OpenAIServer

__all__ = ["FaultyTier", "OpenAIServer", "RecordedRequest", "TCPProxy", "VirtualClock"]


def __getattr__(name: str) -> Any:
    if name == "OpenAIServer":
        from ._server import OpenAIServer

        return OpenAIServer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
