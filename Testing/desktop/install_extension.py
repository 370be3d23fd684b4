"""In desktop Slicer: installs the PyTorch extension without questions and ends Slicer."""

import sys
import traceback

import slicer

status = 1
try:
    model = slicer.app.extensionsManagerModel()
    model.setInteractive(False)
    if model.isExtensionInstalled("PyTorch") or model.installExtensionFromServer("PyTorch", False):
        status = 0
    else:
        sys.stderr.write("The PyTorch extension was not installed.\n")
except Exception:
    traceback.print_exc()
slicer.util.exit(status)
