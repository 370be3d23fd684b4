"""What both module files say about themselves: who made them, help, and how they are reloaded."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from slicer.i18n import tr as _

if TYPE_CHECKING:
    from ThoraxSegLib.Tasks import Task

HOMEPAGE = "https://github.com/ORG/SlicerThoraxSeg"
CONTRIBUTORS = ("ThoraxSeg developers",)
DEPENDENCIES = ("Volumes", "Segmentations", "SegmentEditor", "SubjectHierarchy", "Tables", "Plots")
"""Modules of Slicer that have to be there before ours: the embedded editor, tables and plots are theirs."""
_SHARED_PACKAGES = ("thoraxseg", "ThoraxSegLib")


def helpText(task: Task) -> str:
    """Return the rich text of a module's help: what it does, what it is not for, where the documentation is."""
    caution = _(
        "For research only: contours are suggestions that a person has to check. Not a medical device."
    )
    link = _('See more information in the <a href="{url}">documentation</a>.').format(
        url=f"{HOMEPAGE}#{task.moduleName.lower()}"
    )
    return f"<p>{task.helpText}</p><p><b>{caution}</b></p><p>{link}</p>"


def acknowledgementText() -> str:
    """Return the rich text of a module's acknowledgement."""
    return _(
        "Developed by the ThoraxSeg developers under the Apache License 2.0. Each checkpoint has its own authors "
        "and license: the catalog shows them, and whoever publishes results cites the authors of the checkpoint."
    )


def forgetSharedPackages() -> None:
    """Drop the shared packages from `sys.modules`, so that reloading a module file reads them anew.

    Slicer's Reload executes the module file only; what that imports would come from memory.
    """
    for name in [name for name in sys.modules if name.split(".")[0] in _SHARED_PACKAGES]:
        del sys.modules[name]
