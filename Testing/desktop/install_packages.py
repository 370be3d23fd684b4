"""In desktop Slicer: installs what the modules need by their own road, saying yes to its question, and ends Slicer."""

import sys
import traceback
from pathlib import Path

import slicer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
status = 1
try:
    from ThoraxSegLib import Dependencies

    asked = []
    Dependencies.ensure(lambda title, text: asked.append(text) or True)
    sys.stdout.write("\n".join([*asked, f"torch {Dependencies.proveTorch()}", ""]))
    status = len(Dependencies.missing())
except Exception:
    traceback.print_exc()
slicer.util.exit(status)
