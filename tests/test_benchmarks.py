"""What holds for every script in tests/benchmarks/; what they measure is in docs/performance.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "benchmarks"
NEED_NO_LIBRARY = ("datasets.py", "rivals.py", "libraries_first.py")


def test_the_benchmark_of_datasets_does_not_hide_the_library_of_that_name():
    asked = "import importlib.util, libraries_first; print(importlib.util.find_spec('datasets').origin)"
    run = subprocess.run([sys.executable, "-c", asked], cwd=FOLDER, capture_output=True, text=True, check=True)

    assert "site-packages" in run.stdout

    scripts = [script for script in FOLDER.glob("*.py") if script.name not in NEED_NO_LIBRARY]
    assert len(scripts) > 7
    assert [script.name for script in scripts if "import libraries_first" not in script.read_text()] == []
