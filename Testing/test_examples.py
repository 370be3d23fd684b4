"""Every example runs, as a user would run it."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs_and_prints_volumes(path, tmp_path):
    outcome = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "mm3" in outcome.stdout
