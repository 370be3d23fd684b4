"""Post-processing panel: rules that clean the chosen contours, previewed while they are changed, applied to a copy."""

from __future__ import annotations

from dataclasses import replace

import qt
from slicer.i18n import tr as _

from thoraxseg.errors import ThoraxSegError
from thoraxseg.options import Postprocess
from thoraxseg.postprocess.cleaning import Cleaning
from ThoraxSegLib import Nodes
from ThoraxSegLib.Panels import Panel
from ThoraxSegLib.Panels.Parts import enableUnless, fillChecked, tell
from ThoraxSegLib.Parameters import CleaningPack, fromPack

PREVIEW_AFTER_MS = 400
"""A preview follows when nobody has turned a number for this long."""
NEIGHBORS = (6, 18, 26)
"""What the entries of the connectivity box mean, in their order."""


class CleaningPanel(Panel):
    """Draws `logic.cleaning`; the rules are the parameter pack `cleaning`."""

    def setup(self) -> None:
        """Wire the widgets that are not bound to a parameter by name."""
        ui = self.ui
        self._rules: dict[str, list[str]] = {}
        self._awaited = None
        self._problem = ""
        self._later = qt.QTimer(self.root)
        self._later.setSingleShot(True)
        self._later.setInterval(PREVIEW_AFTER_MS)
        self._later.connect("timeout()", self.onPreviewDue)
        ui.structuresListWidget.connect("itemChanged(QListWidgetItem*)", self.onStructuresChanged)
        ui.connectivityComboBox.connect("currentIndexChanged(int)", self.onConnectivityChanged)
        ui.livePreviewCheckBox.connect("toggled(bool)", self.onLivePreview)
        ui.applyCleaningButton.connect("clicked(bool)", self.onApply)
        ui.resetCleaningButton.connect("clicked(bool)", self.onReset)

    def exit(self) -> None:
        """Another module is shown: there the contours themselves are seen, not a preview."""
        self.ui.livePreviewCheckBox.checked = False

    def refresh(self) -> None:
        """Follow the parameters: the chosen contours, the rules, what they change."""
        ui, node = self.ui, self._segmentationNode()
        reason = "" if node is not None else _("No contours are chosen: run, or choose them under Review.")
        if not reason and Nodes.referenceVolume(node) is None:
            reason = _("The volume of these contours is not in the scene: load it first.")
        self._fillStructures(node)
        if node is not None:
            index = NEIGHBORS.index(self.parameters.cleaning.connectivity)
            if ui.connectivityComboBox.currentIndex != index:
                ui.connectivityComboBox.setCurrentIndex(index)
        tell(ui.checkpointRulesLabel, self._checkpointRules(node) if node is not None else [])
        if reason and ui.livePreviewCheckBox.checked:
            ui.livePreviewCheckBox.checked = False
        enableUnless(reason, *self._ruleWidgets(), ui.livePreviewCheckBox)
        filterOff = _("Switch the slice filter on first.")
        if not reason and not self.parameters.cleaning.slice_filter:
            enableUnless(filterOff, ui.sliceFilterSigmaSpinBox, ui.sliceFilterMeanSpinBox)
        nothing = reason or (
            "" if self._doesSomething() else _("Nothing is switched on: choose what to clean.")
        )
        enableUnless(nothing, ui.applyCleaningButton)
        isDefault = _("Nothing is switched on, so there is nothing to reset.")
        enableUnless(reason or ("" if self._isChanged() else isDefault), ui.resetCleaningButton)
        tell(ui.cleaningReasonLabel, nothing or self._problem)
        if ui.livePreviewCheckBox.checked and self._wanted() != self._awaited:
            self._awaited = self._wanted()  # a refresh for another reason must not put the preview off
            self._later.start()
        self._tellChanges(node)

    def onStructuresChanged(self, item) -> None:
        """Clean other structures; all of them checked is kept as none named."""
        if self.parameters is None:
            return
        listWidget = self.ui.structuresListWidget
        items = [listWidget.item(row) for row in range(listWidget.count)]
        checked = [one.data(qt.Qt.UserRole) for one in items if one.checkState() == qt.Qt.Checked]
        if not checked:
            item.setCheckState(qt.Qt.Checked)  # comes back here: at least one stays
            self.widget.say(_("At least one structure stays checked."))
            return
        self.parameters.cleaning.structures = [] if len(checked) == len(items) else checked

    def onConnectivityChanged(self, index: int) -> None:
        """Count other voxels as neighbors."""
        if self.parameters is not None and index >= 0:
            self.parameters.cleaning.connectivity = NEIGHBORS[index]

    def onLivePreview(self, isOn: bool) -> None:
        """Show a preview from now on, or the contours themselves again."""
        self._later.stop()
        self._awaited, self._problem = None, ""
        if isOn:
            self.onPreviewDue()
        else:
            self.logic.cleaning.discardPreview()
            self.refresh()

    def onPreviewDue(self) -> None:
        """Show what the rules would leave; what they cannot do is said here, without a message box at each change."""
        if not self.ui.livePreviewCheckBox.checked or self._segmentationNode() is None:
            return
        self._awaited = self._wanted()
        self._problem = ""
        try:
            self.logic.cleaning.preview(self._segmentationNode(), self._cleaning())
        except ThoraxSegError as error:
            self._problem = str(error)
        self.refresh()

    def onApply(self) -> None:
        """Clean a copy and go on with it."""

        def apply() -> None:
            node, cleaning = self._segmentationNode(), self._cleaning()
            cleaned = self.logic.cleaning.apply(node, cleaning)
            self.ui.livePreviewCheckBox.checked = False
            self.parameters.segmentation = cleaned
            self.widget.say(
                _("{cleaned} was made; {name} stays as it is.").format(
                    cleaned=cleaned.GetName(), name=node.GetName()
                )
            )
            self.widget.refresh()

        self.widget.run(apply, _("The contours could not be cleaned."))

    def onReset(self) -> None:
        """Switch all rules off: what the checkpoint does by itself is in the contours already."""

        def reset() -> None:
            self.parameters.cleaning = CleaningPack()
            self.widget.refresh()

        self.widget.run(reset, _("The rules could not be reset."))

    def onSceneClosing(self) -> None:
        """Let go of the preview."""
        self._later.stop()
        self._awaited, self._problem = None, ""
        wasBlocked = self.ui.livePreviewCheckBox.blockSignals(True)
        self.ui.livePreviewCheckBox.checked = False
        self.ui.livePreviewCheckBox.blockSignals(wasBlocked)

    def cleanup(self) -> None:
        """Show the contours themselves again."""
        self._later.stop()
        self.logic.cleaning.discardPreview()

    def _segmentationNode(self):
        return self.parameters.segmentation if self.parameters is not None else None

    def _cleaning(self) -> Cleaning:
        """Return the rules for the structures that are checked, of those that the contours have."""
        cleaning = fromPack(Cleaning, self.parameters.cleaning)
        return replace(cleaning, structures=tuple(self._named()))

    def _named(self) -> list[str]:
        """Return the IDs of the segments that are named in the parameters; none means all."""
        known = self._segmentationNode().GetSegmentation().GetSegmentIDs()
        return [key for key in self.parameters.cleaning.structures if key in known]

    def _wanted(self):
        """Return what a preview depends on, to compare."""
        node = self._segmentationNode()
        return (node.GetID(), self.logic.measurements.digests.ofContours(node), self._cleaning())

    def _doesSomething(self) -> bool:
        """Tell whether any rule is on."""
        one = self._cleaning()
        return bool(one.slice_filter or one.min_size or one.largest_only or one.fill_holes or one.closing_mm)

    def _isChanged(self) -> bool:
        return self._cleaning() != Cleaning()

    def _ruleWidgets(self) -> list:
        ui = self.ui
        return [
            *(ui.structuresListWidget, ui.minSizeSpinBox, ui.minSizeUnitComboBox, ui.largestOnlyCheckBox),
            *(ui.fillHolesCheckBox, ui.closingSpinBox, ui.connectivityComboBox, ui.sliceFilterCheckBox),
            *(ui.sliceFilterSigmaSpinBox, ui.sliceFilterMeanSpinBox),
        ]

    def _fillStructures(self, node) -> None:
        """List the segments with a check box each; none named in the parameters means all."""
        entries = []
        if node is not None:
            chosen, segmentation = self._named(), node.GetSegmentation()
            entries = [
                (segmentation.GetSegment(key).GetName(), key, not chosen or key in chosen)
                for key in segmentation.GetSegmentIDs()
            ]
        fillChecked(self.ui.structuresListWidget, entries)

    def _checkpointRules(self, node) -> list[str]:
        """Return what the checkpoint that made the contours cleans up by itself, in words."""
        name = self.logic.cleaning.checkpointOf(node)
        if not name:
            return [_("No checkpoint made these contours, so none has cleaned them up.")]
        if name not in self._rules:
            try:
                self._rules[name] = self.logic.cleaning.defaultsInWords(name)
            except ThoraxSegError as error:
                self._rules[name] = [str(error)]
        options = Nodes.recordOf(node).get("provenance", {}).get("options", {})
        if options.get("postprocess") == Postprocess.NONE.value:
            title = _("{checkpoint} has a clean-up of its own, which was switched off in the run:")
        else:
            title = _("{checkpoint} cleans up by itself:")
        return [title.format(checkpoint=name), *self._rules[name]]

    def _tellChanges(self, node) -> None:
        """Say what the preview would change, else what was changed when these contours were made."""
        cleaning = self.logic.cleaning
        preview = cleaning.previewNode() if self.ui.livePreviewCheckBox.checked else None
        if preview is not None:
            tell(self.ui.changesLabel, [_("Preview:"), *cleaning.changesOf(preview)])
        elif node is not None and cleaning.changesOf(node):
            tell(self.ui.changesLabel, [_("These contours were cleaned:"), *cleaning.changesOf(node)])
        else:
            tell(self.ui.changesLabel, "")
