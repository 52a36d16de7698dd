"""What the metrics need, and what is said where it is missing."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

PARTS = {"prometheus": "prometheus_client", "opentelemetry": "opentelemetry.metrics"}


@pytest.mark.parametrize("extra", PARTS)
def test_without_its_library_the_error_names_the_extra(
    extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, PARTS[extra], None)
    monkeypatch.delitem(sys.modules, f"aiopromptcache.metrics.{extra}", raising=False)
    with pytest.raises(ImportError, match=rf"pip install 'aiopromptcache\[{extra}\]'"):
        importlib.import_module(f"aiopromptcache.metrics.{extra}")


@pytest.mark.parametrize("extra", PARTS)
def test_the_library_alone_is_enough(extra: str) -> None:
    others = {
        "prometheus": ["opentelemetry"],
        "opentelemetry": ["prometheus_client", "opentelemetry.sdk"],
    }
    code = (
        f"import sys, aiopromptcache.metrics.{extra}; "
        f"sys.exit(any(name in sys.modules for name in {others[extra]}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
