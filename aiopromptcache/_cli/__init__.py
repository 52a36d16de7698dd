"""The command line, an extra of its own: `aiopromptcache …`, or `python -m aiopromptcache …`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

MISSING = "aiopromptcache: the command line needs the extra: pip install 'aiopromptcache[cli]'"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit code."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ImportError:
        print(MISSING, file=sys.stderr)  # noqa: T201
        return 2
    from ._app import run

    return run(arguments)
