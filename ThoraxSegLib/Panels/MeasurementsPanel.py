"""Measurements panel: volumes and tumors of the chosen contours, in tables that lead back to the images."""

from __future__ import annotations

from slicer.i18n import tr as _

from ThoraxSegLib import Nodes
from ThoraxSegLib.Panels import Panel
from ThoraxSegLib.Panels.Parts import TableSection, enableUnless, showChart, tell


class MeasurementsPanel(Panel):
    """Draws the tables of `logic.measurements` and says which contours they are of."""

    def setup(self) -> None:
        """Wire the buttons."""
        ui = self.ui
        self.structures = TableSection(
            self.widget, ui.structuresTableView, ui.copyStructuresButton, ui.saveStructuresButton
        )
        self.tumors = TableSection(self.widget, ui.tumorsTableView, ui.copyTumorsButton, ui.saveTumorsButton)
        self.tumors.onClickedRow(self.onTumorClicked)
        ui.measureButton.connect("clicked(bool)", self.onMeasure)
        ui.plotMeasurementsButton.connect("clicked(bool)", self.onPlot)

    def refresh(self) -> None:
        """Show what was measured of the chosen contours, and whether they were changed since."""
        node = self._segmentationNode()
        structuresTable, tumorsTable = (
            self.logic.measurements.tables(node) if node is not None else (None, None)
        )
        reason = "" if node is not None else _("No contours are chosen: run, or choose them under Review.")
        if not reason and Nodes.referenceVolume(node) is None:
            reason = _("The volume of these contours is not in the scene: load it first.")
        enableUnless(reason, self.ui.measureButton, self.ui.plotMeasurementsButton)
        notYet = reason or (
            "" if structuresTable is not None else _("Nothing is measured yet: press Measure.")
        )
        self.structures.show(structuresTable, notYet)
        noTumors = _("These contours have no segment for tumors.") if structuresTable is not None else notYet
        self.tumors.show(tumorsTable, "" if tumorsTable is not None else noTumors)
        self.ui.structuresSection.visible = structuresTable is not None
        self.ui.tumorsSection.visible = tumorsTable is not None
        tell(self.ui.measuredFromLabel, notYet or self._measuredFrom(node))
        tell(self.ui.tumorsTitleLabel, self._tumorsTitle(tumorsTable))
        stale = self.logic.measurements.staleness(node) if structuresTable is not None else ""
        tell(self.ui.measurementsStaleLabel, stale)

    def onMeasure(self) -> None:
        """Measure the chosen contours as they are now."""

        def measure() -> None:
            node = self._segmentationNode()
            self.logic.measurements.measure(node)
            self.refresh()
            self.widget.say(_("Measured {name}.").format(name=node.GetName()))

        self.widget.run(measure, _("The contours could not be measured."))

    def onPlot(self) -> None:
        """Show the volumes as bars."""

        def plot() -> None:
            showChart(self.logic.measurements.plot(self._segmentationNode()))
            self.refresh()

        self.widget.run(plot, _("The volumes could not be plotted."))

    def onTumorClicked(self, row: int) -> None:
        """Show the tumor of a row in the middle of all views."""
        self.widget.run(
            lambda: self.logic.measurements.centerOn(self.tumors.node, row),
            _("The tumor could not be shown."),
        )

    def onSceneClosing(self) -> None:
        """Let go of the tables before they are gone."""
        self.structures.show(None)
        self.tumors.show(None)

    def cleanup(self) -> None:
        """Let go of everything."""
        self.onSceneClosing()

    def _segmentationNode(self):
        return self.parameters.segmentation if self.parameters is not None else None

    def _measuredFrom(self, node) -> str:
        return _("Measured on {contours}, in {volume}.").format(
            contours=node.GetName(), volume=Nodes.referenceVolume(node).GetName()
        )

    def _tumorsTitle(self, tumorsTable) -> list[str]:
        if tumorsTable is None:
            return []
        count = tumorsTable.GetNumberOfRows()
        title = _("{count} tumors. Click on one to see it in the views.").format(count=count)
        return [title if count else _("No tumors."), tumorsTable.GetDescription() or ""]
