"""Review panel: look where the model doubts, correct with neighbors locked, say what you think of the contours."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from thoraxseg.errors import ThoraxSegError
from ThoraxSegLib import Nodes
from ThoraxSegLib.Measurements import volumeToMeasureOn
from ThoraxSegLib.Panels import Panel
from ThoraxSegLib.Panels.Parts import enableUnless, showChart, tell
from ThoraxSegLib.Review import Verdict

EFFECTS = (
    "Paint",
    "Draw",
    "Erase",
    "Scissors",
    "Level tracing",
    "Fill between slices",
    "Islands",
    "Smoothing",
)
"""Effects of the Segment Editor that are offered, in this order: those that correct a contour."""
STRIP_SIZE = (600, 56)
"""Pixels of the drawn profile, which is stretched to the width of the panel."""
LEGEND_SIZE = (256, 14)
QUIET_MS = 800
"""Contours are looked at anew when nobody has drawn for this long."""
PAPER_COLOR, BAR_COLOR, HERE_COLOR = (245, 245, 245), (70, 90, 130), (210, 30, 30)


class ReviewPanel(Panel, VTKObservationMixin):
    """Draws `logic.review` and tells `logic.time` whether the user looks or edits."""

    def __init__(self, widget) -> None:
        Panel.__init__(self, widget)
        VTKObservationMixin.__init__(self)
        self._isActive = False
        self._forget()

    def setup(self) -> None:
        """Wire the widgets."""
        ui = self.ui
        ui.segmentEditorWidget.setEffectNameOrder(list(EFFECTS))
        ui.showButton.connect("clicked(bool)", self.onShow)
        ui.nextDoubtfulButton.connect("clicked(bool)", self.onNextDoubtful)
        ui.plotProfileButton.connect("clicked(bool)", self.onPlotProfile)
        ui.doubtStructureComboBox.connect("currentIndexChanged(int)", self.onDoubtStructureChanged)
        ui.lockNeighborsCheckBox.connect("toggled(bool)", self.onLockNeighbors)
        for button, verdict in self._verdictButtons().items():
            button.connect("clicked(bool)", lambda isOn, verdict=verdict: self.onVerdict(isOn, verdict))
        self._quiet = qt.QTimer(self.root)
        self._quiet.setSingleShot(True)
        self._quiet.setInterval(QUIET_MS)
        self._quiet.connect("timeout()", self.onQuiet)
        self._fillStructures()
        self._drawProfile()

    def enter(self) -> None:
        """The module is shown: keys of the editor work, the clock may run."""
        self._isActive = True
        self.ui.segmentEditorWidget.installKeyboardShortcuts()
        self._followAttention()
        self.tellActivity()

    def exit(self) -> None:
        """Another module is shown: no effect stays at work, keys go back, the clock pauses."""
        self._isActive = False
        if self._editorNode is not None:
            self._editorNode.SetActiveEffectName("")
        self.ui.segmentEditorWidget.uninstallKeyboardShortcuts()
        self.ui.segmentEditorWidget.removeViewObservations()
        if self.logic.time.isOpen:
            self.logic.time.pause()

    def refresh(self) -> None:
        """Follow the parameters: the chosen contours, their doubt, their verdict."""
        parameters = self.parameters
        if parameters is not None:
            self._followVolume(parameters)
        node = parameters.segmentation if parameters is not None else None
        if node is not self._segmentationNode or _problemOf(node) != self._problem:
            self._choose(node)
        reason = (
            self._problem if node is not None else _("No contours are chosen: run, or choose them above.")
        )
        noDoubt = reason
        if not reason and Nodes.uncertaintyOf(node) is None:
            noDoubt = _(
                "There is no map of doubt for these contours: run again with uncertainty switched on."
            )
        ui = self.ui
        enableUnless(reason, ui.showButton, ui.lockNeighborsCheckBox, *self._verdictButtons())
        ui.segmentEditorWidget.enabled = not reason
        enableUnless(
            noDoubt,
            *(ui.showUncertaintyCheckBox, ui.uncertaintyOpacitySlider, ui.doubtStructureComboBox),
            *(ui.nextDoubtfulButton, ui.plotProfileButton),
        )
        tell(ui.reviewReasonLabel, reason or noDoubt)
        if not noDoubt:
            self._showUncertainty(node, parameters)
        self._drawLegend(None if noDoubt else Nodes.uncertaintyOf(node))
        self._refreshState()

    def onShow(self) -> None:
        """Show contours, volume and doubt in the views again."""
        self.widget.run(lambda: self._show(self._segmentationNode), _("The contours could not be shown."))

    def onNextDoubtful(self) -> None:
        """Show the next doubtful slice in all views, and say which it is."""

        def goOn() -> None:
            found = self.logic.review.nextDoubtfulSlice(self._segmentationNode, self._doubtSegmentID())
            sentence = _("{number} of {count}: slice {k}, {structure}.").format(
                number=found.number, count=found.count, k=found.k, structure=self._nameOf(found.key)
            )
            tell(self.ui.doubtfulLabel, sentence)
            self._here = found.k
            self._drawProfile()
            self.tellActivity()

        self.widget.run(goOn, _("There is no next doubtful slice."))

    def onPlotProfile(self) -> None:
        """Show the doubt along the slices as a chart."""
        self.widget.run(
            lambda: showChart(self.logic.review.plotProfile(self._segmentationNode)),
            _("The doubt could not be plotted."),
        )

    def onDoubtStructureChanged(self, index: int) -> None:
        """Show the doubt along the slices of another structure."""
        if self._segmentationNode is None or Nodes.uncertaintyOf(self._segmentationNode) is None:
            return
        self._here = None
        tell(self.ui.doubtfulLabel, "")
        self.widget.run(self._drawProfile, _("The doubt of the structure could not be shown."))

    def onLockNeighbors(self, isLocked: bool) -> None:
        """Keep drawing away from other structures, or no longer."""
        if self._editorNode is not None:
            self.widget.run(
                lambda: self.logic.review.lockNeighbors(self._editorNode, isLocked),
                _("The neighbors could not be locked."),
            )

    def onVerdict(self, isOn: bool, verdict: Verdict) -> None:
        """Note the verdict, or take it back when its button is pressed again."""

        def judge() -> None:
            said = verdict if isOn else Verdict.NONE
            self.logic.review.setVerdict(self._segmentationNode, said)
            self._refreshState()
            self.widget.say(
                _("{name}: {verdict}.").format(
                    name=self._segmentationNode.GetName(), verdict=said.label().lower()
                )
            )

        self.widget.run(judge, _("The verdict was not noted."))
        self._refreshState()  # a verdict that could not be noted leaves no button pressed

    def onEditorModified(self, caller=None, event=None) -> None:
        """Another effect or segment was chosen in the editor."""
        self.tellActivity()

    def onContoursModified(self, caller=None, event=None) -> None:
        """Somebody drew: that is work now; what follows from it is looked at when the hand rests."""
        self.tellActivity()
        self._quiet.start()

    def onQuiet(self) -> None:
        """Say what is out of date after an edit, here and in the other panels."""
        self._fillStructures()
        self.widget.refresh()

    def onAttention(self, caller=None, event=None) -> None:
        """The mouse moves in a view or a slice is scrolled: somebody is there."""
        if self._isTimed():
            self.logic.time.touch()

    def onSceneClosing(self) -> None:
        """Let go of the nodes before they are gone."""
        self.removeObservers()
        self._quiet.stop()
        self._openInEditor(None)
        self.ui.segmentEditorWidget.removeViewObservations()
        self._forget()
        tell(self.ui.doubtfulLabel, "")
        self._fillStructures()
        self._drawProfile()

    def cleanup(self) -> None:
        """Let go of everything."""
        self.onSceneClosing()
        self.ui.segmentEditorWidget.uninstallKeyboardShortcuts()

    def _isTimed(self) -> bool:
        """Tell whether the clock runs for what is looked at here, and not for another animal."""
        volume = self.parameters.inputVolume if self.parameters is not None else None
        if self._segmentationNode is not None:
            volume = Nodes.referenceVolume(self._segmentationNode)
        return self.logic.time.isFor(volume)

    def tellActivity(self) -> None:
        """Let the clock count what goes on: editing while an effect is at work on a segment, else looking."""
        time = self.logic.time
        if not (self._isActive and self._isTimed()):
            return
        segment = self._editedSegment()
        if segment is None:
            if time.activity[0] == "look":
                time.touch()
            else:
                time.look()
        elif time.activity == ("edit", segment):
            time.touch()
        else:
            time.edit(segment)

    # The chosen contours

    def _forget(self) -> None:
        self._segmentationNode = self._editorNode = None
        self._followed = (None, None)
        self._problem = ""
        self._here = None

    def _followVolume(self, parameters) -> None:
        """When another volume is chosen, look at its own newest result or at none: never on at another animal's.

        Parameters that are new here, as those of a loaded scene, are taken as they are.
        """
        wasParameters, wasVolume = self._followed
        volume = parameters.inputVolume
        self._followed = (parameters, volume)
        if parameters is not wasParameters or volume is wasVolume or volume is None:
            return
        node = parameters.segmentation
        if node is None or Nodes.referenceVolume(node) is not volume:
            results = Nodes.resultsOf(self.logic.scene, volume, self.logic.task.key)
            parameters.segmentation = results[-1] if results else None

    def _choose(self, node) -> None:
        """Take up other contours: show them, open them in the editor, draw their doubt."""
        if self._segmentationNode is not None:
            self.removeObservers(self.onContoursModified)
        self._segmentationNode, self._problem = node, _problemOf(node)
        self._here = None
        tell(self.ui.doubtfulLabel, "")
        self._openInEditor(node)
        if node is not None:
            segmentation = node.GetSegmentation()
            for event in (
                segmentation.SourceRepresentationModified,
                segmentation.SegmentAdded,
                segmentation.SegmentRemoved,
                segmentation.SegmentModified,
            ):
                self.addObserver(segmentation, event, self.onContoursModified)
            if not self._problem:
                self._show(node)
        self._fillStructures()
        self._drawProfile()
        self.tellActivity()

    def _show(self, node) -> None:
        self.logic.review.show(node)

    def _showUncertainty(self, node, parameters) -> None:
        review = self.logic.review
        if review.isUncertaintyVisible(node) != parameters.showUncertainty:
            review.setUncertaintyVisible(node, parameters.showUncertainty)
        if review.uncertaintyOpacity(node) != parameters.uncertaintyOpacity:
            review.setUncertaintyOpacity(node, parameters.uncertaintyOpacity)

    def _refreshState(self) -> None:
        """Say what is out of date, what the run warned of, and what was judged."""
        node, review = self._segmentationNode, self.logic.review
        record = Nodes.recordOf(node) if node is not None else {}
        stale = [self._whoseContours(node), review.staleness(node)] if node is not None else []
        tell(self.ui.stalenessLabel, stale)
        tell(
            self.ui.warningsLabel,
            [_("Note: {text}").format(text=text) for text in record.get("warnings", ())],
        )
        said = review.verdict(node) if node is not None else Verdict.NONE
        for button, verdict in self._verdictButtons().items():
            button.checked = verdict is said
        tell(self.ui.verdictLabel, said.label() + "." if node is not None else "")

    def _whoseContours(self, node) -> str:
        """Return a warning where these are the contours of another volume than the one chosen under Inputs."""
        volumeNode = Nodes.referenceVolume(node)
        inputVolume = self.parameters.inputVolume if self.parameters is not None else None
        if inputVolume is None or volumeNode is None or volumeNode is inputVolume:
            return ""
        return _("These contours are of {volume}; under Inputs {other} is chosen.").format(
            volume=volumeNode.GetName(), other=inputVolume.GetName()
        )

    def _verdictButtons(self) -> dict:
        return {
            self.ui.acceptButton: Verdict.ACCEPTED,
            self.ui.needsWorkButton: Verdict.NEEDS_WORK,
            self.ui.rejectButton: Verdict.REJECTED,
        }

    # The editor

    def _openInEditor(self, node) -> None:
        editor = self.ui.segmentEditorWidget
        if node is None:
            if self._editorNode is not None:  # without its node the editor complains
                editor.setSegmentationNode(None)
            return
        if self._editorNode is None:
            self._editorNode = self._ownEditorNode()
            editor.setMRMLSegmentEditorNode(self._editorNode)
            self.addObserver(self._editorNode, "ModifiedEvent", self.onEditorModified)
        editor.setSegmentationNode(node)
        editor.setSourceVolumeNode(Nodes.referenceVolume(node))
        self.logic.review.lockNeighbors(self._editorNode, self.ui.lockNeighborsCheckBox.checked)

    def _ownEditorNode(self):
        """Return the editor's settings of this module, apart from those of the Segment Editor module."""
        scene, kind = self.logic.scene, "vtkMRMLSegmentEditorNode"
        tag = f"{self.logic.moduleName}.SegmentEditor"
        node = scene.GetSingletonNode(tag, kind)
        if node is None:
            node = scene.CreateNodeByClass(kind)
            node.UnRegister(None)
            node.SetSingletonTag(tag)
            node = scene.AddNode(node)
        return node

    def _editedSegment(self) -> str | None:
        """Return the name of the segment that an effect is at work on; None where none is."""
        node = self._editorNode
        if node is None or self._segmentationNode is None:
            return None
        if not node.GetActiveEffectName() or not node.GetSelectedSegmentID():
            return None
        segment = self._segmentationNode.GetSegmentation().GetSegment(node.GetSelectedSegmentID())
        return segment.GetName() if segment is not None else None

    def _followAttention(self) -> None:
        """Take the mouse in the views and the scrolling of slices for signs of life."""
        scene = self.logic.scene
        crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        watched = [(crosshair, crosshair.CursorPositionModifiedEvent)] if crosshair is not None else []
        for n in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceNode")):
            watched.append((scene.GetNthNodeByClass(n, "vtkMRMLSliceNode"), "ModifiedEvent"))
        for node, event in watched:
            if not self.hasObserver(node, event, self.onAttention):
                self.addObserver(node, event, self.onAttention)

    # Doubt along the slices

    def _fillStructures(self) -> None:
        """List the segments by name, and keep the one that is chosen."""
        combo, chosen = self.ui.doubtStructureComboBox, self._doubtSegmentID()
        wasBlocked = combo.blockSignals(True)
        combo.clear()
        combo.addItem(_("All structures"), "")
        if self._segmentationNode is not None:
            segmentation = self._segmentationNode.GetSegmentation()
            for key in segmentation.GetSegmentIDs():
                combo.addItem(segmentation.GetSegment(key).GetName(), key)
        combo.setCurrentIndex(max(0, combo.findData(chosen or "")))
        combo.blockSignals(wasBlocked)

    def _doubtSegmentID(self) -> str | None:
        return self.ui.doubtStructureComboBox.currentData or None

    def _nameOf(self, key: str) -> str:
        """Return the name of the segment with an ID, which is the key of a structure in our results."""
        segment = self._segmentationNode.GetSegmentation().GetSegment(key)
        return segment.GetName() if segment is not None else key

    def _drawProfile(self) -> None:
        """Draw doubt slice by slice, with a line where the slice chosen last is."""
        node, label = self._segmentationNode, self.ui.profileStripLabel
        hasDoubt = node is not None and not self._problem and Nodes.uncertaintyOf(node) is not None
        label.visible = hasDoubt
        if not hasDoubt:
            tell(self.ui.profileLabel, "")
            return
        try:
            profile = self.logic.review.profile(node, self._doubtSegmentID())
        except ThoraxSegError as error:  # such as contours that were moved onto another grid
            label.visible = False
            tell(self.ui.profileLabel, str(error))
            return
        label.setPixmap(_stripOf(profile.values, self._here))
        sentence = _("Each bar is a slice, 0 to {last} from left to right; {axis}: {first:.1f} to {end:.1f}.")
        tell(
            self.ui.profileLabel,
            sentence.format(
                last=len(profile.values) - 1,
                axis=profile.sliceAxisName,
                first=profile.positionsMm[0],
                end=profile.positionsMm[-1],
            ),
        )

    def _drawLegend(self, uncertaintyNode) -> None:
        ui = self.ui
        display = uncertaintyNode.GetDisplayNode() if uncertaintyNode is not None else None
        colors = display.GetColorNode() if display is not None else None
        ui.legendRow.visible = ui.legendRowCaption.visible = colors is not None
        if colors is None:
            return
        quantity = Nodes.recordOf(self._segmentationNode).get("uncertainty") or {}
        highest = f"{display.GetWindowLevelMax():.2f} {quantity.get('unit', '')}".strip()
        ui.legendLowLabel.text = _("0: sure")
        ui.legendHighLabel.text = _("{highest}: no idea").format(highest=highest)
        ui.legendRow.toolTip = quantity.get("kind", "")
        ui.legendColorsLabel.setPixmap(_legendOf(colors))


def _problemOf(node) -> str:
    """Return why contours cannot be shown over their volume, "" where they can or there are none."""
    try:
        if node is not None:
            volumeToMeasureOn(node)
    except ThoraxSegError as error:
        return str(error)
    return ""


def _stripOf(values, here: int | None):
    """Return a picture of bars, one for each value, and a line at the slice `here`."""
    width, height = STRIP_SIZE
    pixmap = qt.QPixmap(width, height)
    pixmap.fill(qt.QColor(*PAPER_COLOR))
    painter = qt.QPainter()
    painter.begin(pixmap)
    count, highest = len(values), max(float(values.max()), 1e-12)
    for k, value in enumerate(values):
        left, right = k * width // count, (k + 1) * width // count
        tall = round((height - 4) * float(value) / highest)
        painter.fillRect(left, height - tall, max(1, right - left), tall, qt.QColor(*BAR_COLOR))
    if here is not None:
        painter.fillRect((2 * here + 1) * width // (2 * count) - 1, 0, 3, height, qt.QColor(*HERE_COLOR))
    painter.end()
    return pixmap


def _legendOf(colors):
    """Return a picture of the colors of a color node, the lowest at the left."""
    width, height = LEGEND_SIZE
    pixmap = qt.QPixmap(width, height)
    painter = qt.QPainter()
    painter.begin(pixmap)
    for x in range(width):
        rgba = [0.0] * 4
        colors.GetColor(x * colors.GetNumberOfColors() // width, rgba)
        painter.fillRect(x, 0, 1, height, qt.QColor.fromRgbF(*rgba[:3]))
    painter.end()
    return pixmap
