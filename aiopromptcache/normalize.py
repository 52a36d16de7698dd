"""Ready-made `Policy(normalize=…)`: they change what is hashed, never what is sent.

Both are off by default, because servers differ and white space can matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ._policy import Request

__all__ = ["fill_defaults", "strip_text"]


def strip_text(request: Request) -> dict[str, Any]:
    """Ignore white space around the texts of messages, `input` and `prompt`."""
    return {
        name: _strip(value) if name in _TEXTS else value for name, value in request.params.items()
    }


def fill_defaults(defaults: Mapping[str, Any]) -> Callable[[Request], dict[str, Any]]:
    """Treat an omitted parameter like its default, e.g. `fill_defaults({"temperature": 1})`."""
    given = dict(defaults)
    return lambda request: {**given, **request.params}


_TEXTS = frozenset({"messages", "input", "prompt", "instructions"})
_PARTS = frozenset({"content", "text"})


def _strip(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, (list, tuple)):
        return [_strip(item) for item in value]
    if isinstance(value, Mapping):
        return {k: _strip(v) if k in _PARTS else v for k, v in value.items()}
    return value
