"""The command line: a parent that starts what is needed, and its workers."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _offline import ended, listening, supervise, tiers
from aiohttp import web
from openai import AsyncOpenAI

from aiopromptcache import PromptCache
from aiopromptcache.testing import OpenAIServer
from document_desk.app import make_app
from document_desk.desk import namespace_of
from document_desk.documents import Library
from document_desk.prompt import stand_in

HERE = Path(__file__).parent
SIMILARITIES = ("words", "meaning", "off")


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="document_desk", description="Ask about your documents.")
    parser.add_argument(
        "--documents",
        type=Path,
        help="a folder of texts; default: two samples, in a folder that goes with the desk",
    )
    parser.add_argument("--workers", type=int, default=2, choices=range(1, 65), metavar="N")
    parser.add_argument("--port", type=int, default=8081, help="0: any that is free")
    parser.add_argument(
        "--similar",
        choices=SIMILARITIES,
        default="words",
        help="what makes two questions one (meaning: a small model, `pip install wordllama`)",
    )
    parser.add_argument("--real", action="store_true", help="ask the API of OPENAI_API_KEY")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    found = parser.parse_args(arguments)
    if found.real and not os.environ.get("OPENAI_API_KEY"):
        parser.error("--real needs OPENAI_API_KEY")
    return found


def possible(kind: str) -> str:
    """The kind of similarity, or "off" where its extra is not installed, which is said."""
    if kind == "meaning" and find_spec("wordllama") is None:
        raise SystemExit("--similar meaning: pip install wordllama")
    if kind != "off" and (find_spec("numpy") is None or find_spec("rapidfuzz") is None):
        print("Similar questions are not looked for: pip install 'aiopromptcache[similarity]'")
        return "off"
    return kind


def similarity(kind: str) -> Any:
    """How similar questions are found; None where that is off."""
    if kind == "off":
        return None
    from aiopromptcache.similarity import LexicalSimilarity, SemanticSimilarity

    if kind == "words":
        return LexicalSimilarity(threshold=0.85)
    import wordllama  # type: ignore[import-untyped]

    logging.getLogger().setLevel(logging.WARNING)  # the package makes every library talk
    folder = Path(wordllama.__file__).parent  # the weights come with it: nothing is fetched
    model = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
    return SemanticSimilarity(model.embed, threshold=0.9)


async def work(options: argparse.Namespace) -> None:
    """One worker: serve until the parent says stop."""
    library = Library(options.documents)
    cache = PromptCache(
        *tiers(), namespace=namespace_of(library), similarity=similarity(options.similar)
    )
    async with AsyncOpenAI() as client:
        model = os.environ.get("OPENAI_MODEL", "gpt-4o-mini")
        app = make_app(cache, client, library, model=model)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=3, access_log=None)
        await runner.setup()
        try:
            await web.SockSite(runner, listening(options.worker)).start()
            await ended()
        finally:
            await runner.cleanup()


def main() -> None:
    """The parent, or with --worker one of its workers."""
    options = parsed()
    if options.worker is not None:
        asyncio.run(work(options))
    elif options.documents is not None:
        if not options.documents.is_dir():
            raise SystemExit(f"--documents: there is no folder {options.documents}")
        serve(options)
    else:
        with tempfile.TemporaryDirectory(prefix="documents-") as folder:
            options.documents = Path(folder, "desk")
            shutil.copytree(HERE / "samples", options.documents)
            serve(options)


def serve(options: argparse.Namespace) -> None:
    """Start everything, and end it on Ctrl-C."""
    similar = possible(options.similar)
    worker = [str(HERE), "--documents", str(options.documents), "--similar", similar]
    supervise(
        [*worker, "--worker"],
        workers=options.workers,
        port=options.port,
        model=None if options.real else OpenAIServer(answer=stand_in, latency=0.8),
        what="Document desk",
    )
