"""The package as a whole: exports, imports, and what comes along without extras."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import aiopromptcache
from aiopromptcache import aiohttp, asgi, similarity, testing

PACKAGE = Path(aiopromptcache.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", [aiopromptcache, aiohttp, asgi, similarity, testing])
def test_all_names_what_is_exported(module: object) -> None:
    names = module.__all__  # type: ignore[attr-defined]
    assert len(set(names)) == len(names)
    assert all(getattr(module, name) is not None for name in names)


def test_the_contracts_names_are_there() -> None:
    from aiopromptcache import (  # noqa: F401
        CacheEvent,
        CacheStatus,
        ConfigurationError,
        MemoryTier,
        NotCached,
        Policy,
        PromptCache,
        PromptCacheError,
        RedisTier,
        Tier,
        cache_status,
    )
    from aiopromptcache.normalize import fill_defaults, strip_text  # noqa: F401
    from aiopromptcache.testing import FaultyTier, OpenAIServer, VirtualClock  # noqa: F401


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_inside_imports_the_package_root(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            assert all(name.name.split(".")[0] != "aiopromptcache" for name in node.names)
        if isinstance(node, ast.ImportFrom) and path != PACKAGE / "__init__.py":
            depth = len(path.relative_to(PACKAGE).parts)
            assert node.module is not None or node.level != depth  # `from . import` of the root
            assert node.module is None or not node.module.startswith("aiopromptcache")


@pytest.mark.parametrize("name", ["_flights", "_policy", "_keys", "_values", "_entry"])
def test_what_decides_knows_no_tier_and_no_engine(name: str) -> None:
    text = (PACKAGE / f"{name}.py").read_text("utf-8")
    imports = {
        node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)
    }
    assert not imports & {"_engine", "_cache", "tiers._base", "tiers._memory", "_openai"}


@pytest.mark.parametrize(
    "library",
    [
        "openai",
        "redis",
        "aiohttp",
        "click",
        "cryptography",
        "numpy",
        "opentelemetry",
        "prometheus_client",
        "rapidfuzz",
        "rich",
        "starlette",
    ],
)
def test_importing_the_package_imports_no_heavy_library(library: str) -> None:
    code = f"import sys, aiopromptcache; sys.exit({library!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
