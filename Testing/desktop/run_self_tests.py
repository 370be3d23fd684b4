"""In desktop Slicer: runs both modules' self tests, takes screenshots, and ends Slicer with 0 when all went well.

Started with `--additional-module-paths LungTumorSeg MouseThoraxSeg --python-script`; the environment variable
SCREENSHOTS names the folder for the pictures.
"""

import os
import sys
import traceback
from pathlib import Path

import slicer
import slicer.testing

MODULES = ("LungTumorSeg", "MouseThoraxSeg")


def screenshot(name: str) -> None:
    """Write what the main window shows."""
    folder = Path(os.environ.get("SCREENSHOTS", "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    slicer.app.processEvents()
    if not slicer.util.mainWindow().grab().save(str(folder / f"{name}.png")):
        raise OSError(f"{folder / name}.png could not be written")


def show_sample(module: str) -> None:
    """Open a module beside a phantom of its task."""
    from ThoraxSegLib import SampleData

    key = "mouse-micro-ct" if module == "MouseThoraxSeg" else "mouse-mri"
    sample = next(sample for sample in SampleData.SAMPLES if sample.key == key)
    SampleData.load(sample, lambda title, text: False)
    slicer.util.selectModule(module)
    screenshot(module)


def main() -> int:
    """Return 0 when both modules are there, pass their tests and can be pictured."""
    failed = []
    for module in MODULES:
        try:
            folder = str(Path(slicer.util.modulePath(module)).parent)
            slicer.testing.runUnitTest([folder], module)
            slicer.mrmlScene.Clear(False)
            show_sample(module)
        except Exception:
            traceback.print_exc()
            failed.append(module)
    sys.stdout.write(f"failed: {', '.join(failed)}\n" if failed else "both modules passed\n")
    return len(failed)


slicer.util.exit(main())
