"""The logic of both modules: one part for each thing a panel does, all of them usable without a widget."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

if TYPE_CHECKING:
    from ThoraxSegLib.Catalog import Catalog
    from ThoraxSegLib.Cleaning import SegmentCleaning
    from ThoraxSegLib.ContouringTime import ContouringTime
    from ThoraxSegLib.Measurements import Measurements
    from ThoraxSegLib.Observers import Observers
    from ThoraxSegLib.Preflight import Preflight
    from ThoraxSegLib.Review import Review
    from ThoraxSegLib.Runs import Runs
    from ThoraxSegLib.Tasks import Task


class ThoraxSegLogic(ScriptedLoadableModuleLogic):
    """From a volume to accepted contours, for one task.

    A part is made when it is first used, so that a module opens at once. Example, in the Python console::

        logic = slicer.util.getModuleLogic("MouseThoraxSeg")
        run = logic.runs.start(volumeNode, "my-checkpoint")
        run.wait(600)
        print(logic.measurements.measure(run.segmentationNode).structures)

    Everything that cannot be done raises a `ThoraxSegError`, which says what was expected, what came and what to do.
    """

    task: Task
    """What is contoured; set by the module's subclass or given to the constructor."""

    def __init__(self, task: Task | None = None, scene=None) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        if task is not None:
            self.task = task
        self.moduleName = self.task.moduleName
        self._scene = scene

    @property
    def scene(self):
        """The scene that is worked in: the one given, else that of the application."""
        return self._scene if self._scene is not None else slicer.mrmlScene

    @cached_property
    def catalog(self) -> Catalog:
        """The checkpoints of the task."""
        from ThoraxSegLib.Catalog import Catalog

        return Catalog(self)

    @cached_property
    def preflight(self) -> Preflight:
        """What can be told about a volume before it is run, and corrected on a copy."""
        from ThoraxSegLib.Preflight import Preflight

        return Preflight(self)

    @cached_property
    def runs(self) -> Runs:
        """Contouring in a child process."""
        from ThoraxSegLib.Runs import Runs

        return Runs(self)

    @cached_property
    def review(self) -> Review:
        """Looking, going from doubt to doubt, the verdict."""
        from ThoraxSegLib.Review import Review

        return Review(self)

    @cached_property
    def measurements(self) -> Measurements:
        """Volumes and tumors in tables."""
        from ThoraxSegLib.Measurements import Measurements

        return Measurements(self)

    @cached_property
    def cleaning(self) -> SegmentCleaning:
        """Post-processing with a preview, on a copy."""
        from ThoraxSegLib.Cleaning import SegmentCleaning

        return SegmentCleaning(self)

    @cached_property
    def time(self) -> ContouringTime:
        """How long contouring took, people and machine apart."""
        from ThoraxSegLib.ContouringTime import ContouringTime

        return ContouringTime(self)

    @cached_property
    def observers(self) -> Observers:
        """Agreement between segmentations, consensus, disagreement."""
        from ThoraxSegLib.Observers import Observers

        return Observers(self)

    def close(self) -> None:
        """End the child process and close the ledger of times; may be called twice. A later use begins anew."""
        for name in ("runs", "time"):
            part = self.__dict__.pop(name, None)
            if part is not None:
                part.close()
