"""Observers panel: how well contours of one scan agree, what they agree on, and where they do not."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

from thoraxseg.mrml.views import nodes_of
from ThoraxSegLib.Observers import RULES
from ThoraxSegLib.Panels import Panel
from ThoraxSegLib.Panels.Parts import TableSection, enableUnless, fillChecked, showChart, tell


class ObserversPanel(Panel):
    """Draws `logic.observers`; which contours are compared is the parameter `observerSegmentations`."""

    def setup(self) -> None:
        """Wire the widgets that are not bound to a parameter by name."""
        ui = self.ui
        self._agreement = None
        self._compared: tuple = ()
        self.cigen = TableSection(self.widget, ui.cigenTableView, ui.copyCigenButton, ui.saveCigenButton)
        self.pairs = TableSection(self.widget, ui.pairsTableView, ui.copyPairsButton, ui.savePairsButton)
        ui.segmentationsListWidget.connect("itemChanged(QListWidgetItem*)", self.onChecked)
        ui.compareButton.connect("clicked(bool)", self.onCompare)
        ui.plotCigenButton.connect("clicked(bool)", self.onPlotCigen)
        ui.plotPairsButton.connect("clicked(bool)", self.onPlotPairs)
        ui.consensusButton.connect("clicked(bool)", self.onConsensus)
        ui.disagreementButton.connect("clicked(bool)", self.onDisagreement)

    def refresh(self) -> None:
        """Follow the scene and the parameters: which contours there are, which are checked, what was found."""
        self._forgetWhatIsGone()
        self._fillSegmentations()
        chosen = self._chosen()
        reason = ""
        if self.parameters is None:
            reason = _("The scene is being closed.")
        elif self.ui.segmentationsListWidget.count < 2:
            reason = _(
                "The scene has fewer than two contours to compare: load or make those of another observer."
            )
        elif len(chosen) < 2:
            reason = _("Check two or more contours.")
        enableUnless(reason, self.ui.compareButton)
        notYet = "" if self._agreement is not None else _("Nothing is compared yet: press Compare.")
        agreement = self._agreement
        self.cigen.show(agreement.cigenTable if agreement is not None else None, notYet)
        self.pairs.show(agreement.pairsTable if agreement is not None else None, notYet)
        enableUnless(
            notYet,
            *(self.ui.plotCigenButton, self.ui.plotPairsButton),
            *(self.ui.consensusButton, self.ui.disagreementButton, self.ui.consensusRuleComboBox),
        )
        self.ui.agreementSection.visible = agreement is not None
        if agreement is None:
            tell(self.ui.observersWarningsLabel, reason)
            return
        tell(
            self.ui.observersWarningsLabel,
            [reason, *self._changedSince(), *agreement.warnings],
        )
        tell(self.ui.observersNotesLabel, agreement.notes)

    def onChecked(self, item) -> None:
        """Compare other contours next time."""
        if self.parameters is None:
            return
        listWidget = self.ui.segmentationsListWidget
        items = [listWidget.item(row) for row in range(listWidget.count)]
        checked = [one.data(qt.Qt.UserRole) for one in items if one.checkState() == qt.Qt.Checked]
        self.parameters.observerSegmentations = [self.logic.scene.GetNodeByID(key) for key in checked]

    def onCompare(self) -> None:
        """Compare the checked contours."""

        def compare() -> None:
            self._agreement = None
            chosen, parameters = self._chosen(), self.parameters
            self._agreement = self.logic.observers.compare(
                chosen, mergeLungs=parameters.mergeLungs, resample=parameters.resampleObservers
            )
            self._compared = self._state()
            self.widget.say(_("Compared {count} contours.").format(count=len(chosen)))

        self.widget.run(compare, _("The contours could not be compared."))
        self.refresh()

    def onPlotCigen(self) -> None:
        """Show the conformity of each structure as bars."""
        self.widget.run(
            lambda: showChart(self.logic.observers.plot(self._agreement)), _("The chart could not be made.")
        )

    def onPlotPairs(self) -> None:
        """Show the Dice of each pair as bars."""
        self.widget.run(
            lambda: showChart(self.logic.observers.plot(self._agreement, byPair=True)),
            _("The chart could not be made."),
        )

    def onConsensus(self) -> None:
        """Make contours of what the observers agree on."""

        def agree() -> None:
            rule = RULES[self.ui.consensusRuleComboBox.currentIndex]
            node = self.logic.observers.consensus(self._agreement, rule)
            self.widget.say(_("{name} was made.").format(name=node.GetName()))
            self.refresh()

        self.widget.run(agree, _("There is no consensus."))

    def onDisagreement(self) -> None:
        """Make a volume of where the observers differ."""

        def map_() -> None:
            node = self.logic.observers.disagreementVolume(self._agreement)
            self.widget.say(_("{name} was made.").format(name=node.GetName()))

        self.widget.run(map_, _("The disagreement could not be mapped."))

    def onSceneClosing(self) -> None:
        """Forget what was compared."""
        self._agreement, self._compared = None, ()
        self.cigen.show(None)
        self.pairs.show(None)

    def cleanup(self) -> None:
        """Let go of everything."""
        self.onSceneClosing()

    def _chosen(self) -> list:
        """Return the checked contours that are in the scene."""
        if self.parameters is None:
            return []
        return [node for node in self.parameters.observerSegmentations if node is not None]

    def _state(self) -> tuple:
        """Return what the comparison depends on, to tell whether it is out of date."""
        nodes = self._agreement.segmentationNodes
        contours = tuple(self.logic.measurements.digests.ofContours(node) for node in nodes)
        return (contours, self.parameters.mergeLungs, self.parameters.resampleObservers)

    def _changedSince(self) -> list[str]:
        if self.parameters is None:
            return []
        isSame = self._state() == self._compared and self._chosen() == self._agreement.segmentationNodes
        return (
            []
            if isSame
            else [_("Something was changed since: these are the numbers from before. Compare again.")]
        )

    def _forgetWhatIsGone(self) -> None:
        """Drop a comparison whose tables or contours were removed from the scene."""
        if self._agreement is None:
            return
        nodes = [self._agreement.cigenTable, self._agreement.pairsTable, *self._agreement.segmentationNodes]
        if any(node.GetScene() is not self.logic.scene for node in nodes):
            self.onSceneClosing()

    def _fillSegmentations(self) -> None:
        """List the contours of the scene with a check box each."""
        chosen = self._chosen()
        nodes = nodes_of(self.logic.scene, "vtkMRMLSegmentationNode")
        listed = [node for node in nodes if not node.GetHideFromEditors()]
        entries = [(node.GetName(), node.GetID(), node in chosen) for node in listed]
        fillChecked(self.ui.segmentationsListWidget, entries)
