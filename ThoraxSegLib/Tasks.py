"""The two tasks: what each module is called, what it does and which structures it finds."""

from __future__ import annotations

from dataclasses import dataclass

from slicer.i18n import tr as _


@dataclass(frozen=True)
class Task:
    """One of the two modules, as data: the module files and the shared panel differ in nothing else."""

    key: str
    """The `task` of the checkpoints' cards: "mouse-thorax" or "lung-tumor"."""
    moduleName: str
    title: str
    summary: str
    """One sentence for people."""
    helpText: str
    """Rich text for the module's help, without the documentation link."""
    structureKeys: tuple[str, ...]
    """Structures in the order of their labels, as in `thoraxseg.segmentation.STRUCTURES`."""


MOUSE_THORAX = Task(
    key="mouse-thorax",
    moduleName="MouseThoraxSeg",
    title=_("Mouse Thorax Segmentation"),
    summary=_("Contours heart, spinal cord, right lung and left lung in micro-CT of mice."),
    helpText=_(
        "Contours <b>heart, spinal cord, right lung and left lung</b> in micro-CT of mice, shows where the model "
        "doubts, and helps to correct, measure and compare contours and to time the work."
    ),
    structureKeys=("heart", "spinal_cord", "right_lung", "left_lung"),
)
LUNG_TUMOR = Task(
    key="lung-tumor",
    moduleName="LungTumorSeg",
    title=_("Lung Tumor Segmentation"),
    summary=_("Contours lungs and lung tumors in MRI and CT of mice and people."),
    helpText=_(
        "Contours <b>lungs and lung tumors</b> in MRI and CT of mice and people, counts and measures the tumors, "
        "shows where the model doubts, and helps to correct, measure and compare contours and to time the work."
    ),
    structureKeys=("lungs", "tumors"),
)
TASKS = {task.key: task for task in (MOUSE_THORAX, LUNG_TUMOR)}
