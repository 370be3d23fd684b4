"""Review: showing contours and doubt, going from doubtful slice to doubtful slice, correcting, the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
import slicer
from slicer.i18n import tr as _

from thoraxseg.errors import InputError, OptionError
from thoraxseg.measure import DoubtfulSlice, doubt_profile, doubtful_slices, slice_positions
from thoraxseg.mrml import segmentation_from_node, volume_from_node
from thoraxseg.mrml.grids import grid_of, node_name, require_same_grid
from thoraxseg.mrml.plots import Line, fill_chart
from thoraxseg.mrml.tables import Column, fill_table
from thoraxseg.mrml.views import jump_slices, set_opacity, show_in_slices
from thoraxseg.segmentation import Segmentation
from thoraxseg.volume import to_ras
from ThoraxSegLib import Nodes
from ThoraxSegLib.Measurements import volumeToMeasureOn

if TYPE_CHECKING:
    from ThoraxSegLib.Logic import ThoraxSegLogic

PROFILE = "doubt profile"
PROFILE_TABLE_ROLE = "ThoraxSeg.ProfileTable"
PROFILE_CHART_ROLE = "ThoraxSeg.ProfileChart"
PROFILE_SERIES_ROLE = "ThoraxSeg.ProfileSeries"
OPACITY_ATTRIBUTE = "ThoraxSeg.Opacity"
"""On a map of doubt: how opaque it is shown, 0 to 1."""
SHOWN_ATTRIBUTE = "ThoraxSeg.Shown"
"""On a map of doubt: "0" when the user hid it."""
JUDGED_ATTRIBUTE = "ThoraxSeg.Judged"
"""Digest of the contours that a verdict is about."""
MASK_BEFORE_ATTRIBUTE = "ThoraxSeg.MaskModeBefore"
OVERWRITE_BEFORE_ATTRIBUTE = "ThoraxSeg.OverwriteModeBefore"
"""On a segment editor node with locked neighbors: the modes that unlocking gives back."""
DEFAULT_OPACITY = 0.6
WHOLE_COLOR = (0.35, 0.35, 0.35)


class Verdict(Enum):
    """What a person says of contours."""

    NONE = "none"
    ACCEPTED = "accepted"
    NEEDS_WORK = "needs work"
    REJECTED = "rejected"

    def label(self) -> str:
        """Return the word for people."""
        words = {
            Verdict.NONE: _("Not judged"),
            Verdict.ACCEPTED: _("Accepted"),
            Verdict.NEEDS_WORK: _("Needs work"),
            Verdict.REJECTED: _("Rejected"),
        }
        return words[self]


@dataclass(frozen=True, eq=False)
class Profile:
    """Doubt along the slices of a volume as they were acquired (array index k)."""

    positionsMm: np.ndarray
    """`(K,)`: where the slices lie, along the axis of the name."""
    values: np.ndarray
    """`(K,)`: sum of doubt over the structures and their rim, in the unit of the map."""
    sliceAxisName: str
    """Such as "superior (mm)"."""


@dataclass(frozen=True)
class Doubtful:
    """A slice to look at, and the how manieth of how many it is."""

    k: int
    key: str
    doubt: float
    positionRas: tuple[float, float, float]
    """Where in the slice doubt is highest, in mm."""
    number: int
    count: int


@dataclass
class _Round:
    """Slices to look at, in order, as they were when the round began: edits on the way do not shuffle them."""

    slices: list[DoubtfulSlice]
    doubtTime: int
    """When the map of doubt got its voxels: no two maps share it, as nodes of two scenes may share an ID."""
    next: int = field(default=0)


class Review:
    """Everything between a result and its acceptance, but for the editing itself."""

    def __init__(self, logic: ThoraxSegLogic) -> None:
        self.logic = logic
        self._rounds: dict[tuple[str, str | None], _Round] = {}

    # Looking

    def show(self, segmentationNode) -> None:
        """Show a segmentation over its volume in all slice views, its doubt as overlay with a legend, all in view.

        Slice views turn to the planes of the volume, since contours are drawn in its voxels. Raises InputError for no
        segmentation or one whose volume is gone.
        """
        volumeNode = volumeToMeasureOn(segmentationNode)
        uncertaintyNode = Nodes.uncertaintyOf(segmentationNode)
        show_in_slices(self.logic.scene, volumeNode, uncertaintyNode)
        if segmentationNode.GetDisplayNode() is not None:
            segmentationNode.GetDisplayNode().SetVisibility(True)
        if uncertaintyNode is not None:
            self._showUncertainty(segmentationNode, uncertaintyNode)
        for sliceLogic in _sliceLogics():
            sliceLogic.GetSliceNode().RotateToVolumePlane(volumeNode)
            sliceLogic.FitSliceToBackground()
            sliceLogic.SnapSliceOffsetToIJK()

    def isUncertaintyVisible(self, segmentationNode) -> bool:
        """Tell whether there is doubt to be shown, and the user has not hidden it."""
        node = Nodes.uncertaintyOf(segmentationNode)
        return node is not None and node.GetAttribute(SHOWN_ATTRIBUTE) != "0"

    def uncertaintyOpacity(self, segmentationNode) -> float:
        """Return how opaque the doubt is shown, 0 to 1, while it is visible."""
        node = Nodes.uncertaintyOf(segmentationNode)
        try:
            opacity = float((node.GetAttribute(OPACITY_ATTRIBUTE) if node is not None else None) or "nan")
        except ValueError:  # edited by hand
            return DEFAULT_OPACITY
        return opacity if 0 <= opacity <= 1 else DEFAULT_OPACITY

    def setUncertaintyVisible(self, segmentationNode, isVisible: bool) -> None:
        """Show or hide the doubt and its legend. Raises InputError where there is no doubt to show."""
        node = _uncertaintyOf(segmentationNode)
        node.SetAttribute(SHOWN_ATTRIBUTE, "1" if isVisible else "0")
        self._showUncertainty(segmentationNode, node)

    def setUncertaintyOpacity(self, segmentationNode, opacity: float) -> None:
        """Set how opaque the doubt is shown. Raises OptionError outside of 0 to 1, InputError without doubt."""
        if not 0 <= opacity <= 1:
            raise OptionError(_("Expected an opacity from 0 to 1, got {opacity}.").format(opacity=opacity))
        node = _uncertaintyOf(segmentationNode)
        node.SetAttribute(OPACITY_ATTRIBUTE, repr(float(opacity)))
        self._showUncertainty(segmentationNode, node)

    def _showUncertainty(self, segmentationNode, node) -> None:
        isVisible = self.isUncertaintyVisible(segmentationNode)
        opacity = self.uncertaintyOpacity(segmentationNode) if isVisible else 0.0
        set_opacity(self.logic.scene, node, opacity)
        legend = slicer.modules.colors.logic().AddDefaultColorLegendDisplayNode(node)
        if legend is not None:
            unit = Nodes.recordOf(segmentationNode).get("uncertainty") or {}
            unit = unit.get("unit", "")
            legend.SetTitleText(_("Doubt ({unit})").format(unit=unit) if unit else _("Doubt"))
            legend.SetLabelFormat("%.2f")
            legend.SetVisibility(isVisible)

    def jumpTo(self, positionRas: Sequence[float]) -> None:
        """Move all slice views through a point of the patient, in mm; what they show beside it stays in view."""
        jump_slices(self.logic.scene, positionRas)

    # Doubt along the slices

    def profile(self, segmentationNode, segmentID: str | None = None) -> Profile:
        """Return the doubt in each slice, of one segment or of all. Raises InputError where there is no doubt."""
        segmentation, doubt = self._contoursAndDoubt(segmentationNode)
        name, positions = slice_positions(segmentation.ijk_to_ras, len(doubt))
        key = _keyOf(segmentationNode, segmentation, segmentID)
        return Profile(positions, doubt_profile(segmentation, doubt, key), _axisTitle(name))

    def plotProfile(self, segmentationNode):
        """Return a chart of the doubt along the slices, one line for each structure, over a table of the scene.

        Table and chart are made once for a segmentation and filled again. Raises InputError where there is no doubt.
        """
        segmentation, doubt = self._contoursAndDoubt(segmentationNode)
        name, positions = slice_positions(segmentation.ijk_to_ras, len(doubt))
        structures = list(segmentation.structures.values())
        curves = {one.key: doubt_profile(segmentation, doubt, one.key) for one in structures}
        curves["all"] = doubt_profile(segmentation, doubt)
        columns = [
            Column("k", int, _("Slice")),
            Column("position_mm", float, _axisName(name), "mm"),
            Column("all", float, _("All")),
            *(Column(one.key, float, one.name) for one in structures),
        ]
        rows = [
            {
                "k": k,
                "position_mm": float(position),
                **{key: float(curve[k]) for key, curve in curves.items()},
            }
            for k, position in enumerate(positions)
        ]
        table = self._companion(segmentationNode, "vtkMRMLTableNode", PROFILE_TABLE_ROLE)
        fill_table(table, columns, rows)
        chart = self._companion(segmentationNode, "vtkMRMLPlotChartNode", PROFILE_CHART_ROLE)
        lines = [Line("position_mm", one.key, one.name, one.color) for one in structures]
        lines.insert(0, Line("position_mm", "all", _("All"), WHOLE_COLOR))
        unit = (Nodes.recordOf(segmentationNode).get("uncertainty") or {}).get("unit", "")
        doubtTitle = _("Sum of doubt ({unit})").format(unit=unit) if unit else _("Sum of doubt")
        series = fill_chart(chart, table, lines, _("Doubt by slice"), _axisTitle(name), doubtTitle)
        segmentationNode.RemoveNodeReferenceIDs(PROFILE_SERIES_ROLE)
        for node in series:
            node.SetAttribute(Nodes.KIND_ATTRIBUTE, PROFILE)
            segmentationNode.AddNodeReferenceID(PROFILE_SERIES_ROLE, node.GetID())
        return chart

    def _companion(self, segmentationNode, kind: str, role: str):
        """Return the node of a role that belongs to a segmentation, new where there is none."""
        node = segmentationNode.GetNodeReference(role)
        if node is None:
            node = self.logic.scene.AddNewNodeByClass(kind)
            node.SetAttribute(Nodes.KIND_ATTRIBUTE, PROFILE)
            node.SetAttribute(Nodes.TASK_ATTRIBUTE, self.logic.task.key)
            segmentationNode.SetNodeReferenceID(role, node.GetID())
        node.SetName(f"{segmentationNode.GetName()} {PROFILE}")
        return node

    def nextDoubtfulSlice(self, segmentationNode, segmentID: str | None = None) -> Doubtful:
        """Move all slice views to the next slice to look at, most doubtful first, and return which it is.

        After the last comes the first again, by what is doubtful then. With a segment ID only that segment counts.
        Raises InputError where there is no doubt, or none in the contours.
        """
        image = _uncertaintyOf(segmentationNode).GetImageData()
        doubtTime = image.GetMTime() if image is not None else 0
        place = segmentationNode.GetID(), segmentID
        round_ = self._rounds.get(place)
        if round_ is None or round_.next >= len(round_.slices) or round_.doubtTime != doubtTime:
            segmentation, doubt = self._contoursAndDoubt(segmentationNode)
            key = _keyOf(segmentationNode, segmentation, segmentID)
            round_ = self._rounds[place] = _Round(doubtful_slices(segmentation, doubt, key), doubtTime)
        if not round_.slices:
            raise InputError(
                _(
                    "{name}: there is no slice to look at, since no doubt lies in or around the contours."
                ).format(name=node_name(segmentationNode))
            )
        one = round_.slices[round_.next]
        round_.next += 1
        world = grid_of(volumeToMeasureOn(segmentationNode)).world
        (position,) = to_ras(world, np.array([one.place_kji])).tolist()
        self.jumpTo(position)
        return Doubtful(one.k, one.key, one.doubt, tuple(position), round_.next, len(round_.slices))

    def _contoursAndDoubt(self, segmentationNode) -> tuple[Segmentation, np.ndarray]:
        """Return contours and doubt on the grid of the volume; InputError where one of them is missing or elsewhere."""
        volumeNode = volumeToMeasureOn(segmentationNode)
        doubt = volume_from_node(_uncertaintyOf(segmentationNode))
        require_same_grid(grid_of(volumeNode), doubt.shape, doubt.name, doubt.ijk_to_ras)
        return segmentation_from_node(segmentationNode, volumeNode), doubt.array

    # Correcting

    def lockNeighbors(self, segmentEditorNode, isLocked: bool = True) -> None:
        """Let the Segment Editor draw the chosen segment outside of all others only, or give back what was set before.

        Masking keeps effects off the other segments; no overwriting keeps those that know no mask from taking voxels
        away from them. Both are settings of the editor that users see there. Twice the same is as good as once.
        """
        node = segmentEditorNode
        hasBefore = node.GetAttribute(MASK_BEFORE_ATTRIBUTE) is not None
        if isLocked:
            if not hasBefore:
                node.SetAttribute(MASK_BEFORE_ATTRIBUTE, str(node.GetMaskMode()))
                node.SetAttribute(OVERWRITE_BEFORE_ATTRIBUTE, str(node.GetOverwriteMode()))
            node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
            node.SetOverwriteMode(node.OverwriteNone)
        elif hasBefore:
            anywhere = slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere
            last = slicer.vtkMRMLSegmentationNode.EditAllowed_Last
            node.SetMaskMode(_modeOf(node, MASK_BEFORE_ATTRIBUTE, last, anywhere))
            node.SetOverwriteMode(
                _modeOf(node, OVERWRITE_BEFORE_ATTRIBUTE, node.Overwrite_Last, node.OverwriteAllSegments)
            )
            node.RemoveAttribute(MASK_BEFORE_ATTRIBUTE)
            node.RemoveAttribute(OVERWRITE_BEFORE_ATTRIBUTE)

    # Judging

    def setVerdict(self, segmentationNode, verdict: Verdict) -> None:
        """Note what a person says of the contours as they are now; saved with the scene.

        Slicer's own segment status follows: completed, in progress, flagged, or not started. The ledger of times is
        told where it is open for this very scan: a verdict on one animal is none on another.
        """
        if verdict is Verdict.NONE:
            segmentationNode.RemoveAttribute(Nodes.VERDICT_ATTRIBUTE)
            segmentationNode.RemoveAttribute(JUDGED_ATTRIBUTE)
        else:
            segmentationNode.SetAttribute(Nodes.VERDICT_ATTRIBUTE, verdict.name)
            segmentationNode.SetAttribute(JUDGED_ATTRIBUTE, Nodes.digestOfSegmentation(segmentationNode))
        segments = segmentationNode.GetSegmentation()
        status = slicer.vtkSlicerSegmentationsModuleLogic
        statuses = {
            Verdict.NONE: status.NotStarted,
            Verdict.ACCEPTED: status.Completed,
            Verdict.NEEDS_WORK: status.InProgress,
            Verdict.REJECTED: status.Flagged,
        }
        for n in range(segments.GetNumberOfSegments()):
            status.SetSegmentStatus(segments.GetNthSegment(n), statuses[verdict])
        ledger = self.logic.__dict__.get("time")  # not made for this alone
        if ledger is not None and ledger.isFor(Nodes.referenceVolume(segmentationNode)):
            ledger.verdict(verdict, segmentationNode)

    def verdict(self, segmentationNode) -> Verdict:
        """Return what was said of the contours; NONE where nothing was."""
        name = segmentationNode.GetAttribute(Nodes.VERDICT_ATTRIBUTE) or Verdict.NONE.name
        return Verdict[name] if name in Verdict.__members__ else Verdict.NONE

    def staleness(self, segmentationNode) -> str:
        """Return "" when all that belongs to a segmentation is up to date, else sentences that say what is not.

        The volume is not what was contoured; the verdict, or the tables, are of other contours.
        """
        said = [self._staleVolume(segmentationNode)]
        judged = segmentationNode.GetAttribute(JUDGED_ATTRIBUTE)
        if judged is not None and judged != self.logic.measurements.digests.ofContours(segmentationNode):
            sentence = _("The contours were changed after the verdict ({verdict}): judge them again.")
            said.append(sentence.format(verdict=self.verdict(segmentationNode).label().lower()))
        said.append(self.logic.measurements.staleness(segmentationNode))
        return " ".join(sentence for sentence in said if sentence)

    def _staleVolume(self, segmentationNode) -> str:
        then = segmentationNode.GetAttribute(Nodes.VOLUME_DIGEST_ATTRIBUTE)
        if then is None:  # drawn by hand
            return ""
        volumeNode = Nodes.volumeOf(segmentationNode)
        if volumeNode is None:
            return _("The volume that was contoured is not in the scene any more.")
        try:
            if self.logic.measurements.digests.ofVolume(volumeNode) == then:
                return ""
        except InputError as error:  # no voxels any more, or a transform that is not linear
            return str(error)
        return _(
            "{name} was changed after it was contoured, its voxels or their place: contour it again."
        ).format(name=volumeNode.GetName())


def _modeOf(node, attribute: str, end: int, default: int) -> int:
    """Return the mode below `end` that an attribute holds; the default where it was edited by hand."""
    text = node.GetAttribute(attribute) or ""
    return int(text) if text in map(str, range(end)) else default


def _uncertaintyOf(segmentationNode):
    node = Nodes.uncertaintyOf(segmentationNode)
    if node is None:
        raise InputError(
            _("{name}: there is no map of doubt. Run again with uncertainty switched on.").format(
                name=node_name(segmentationNode)
            )
        )
    return node


def _keyOf(segmentationNode, segmentation: Segmentation, segmentID: str | None) -> str | None:
    """Return the key of the structure that a segment stands for; None for none. InputError for an unknown segment."""
    if not segmentID:
        return None
    keys = list(segmentationNode.GetSegmentation().GetSegmentIDs())
    if segmentID not in keys:
        raise InputError(
            _("{name}: there is no segment {key!r}. Choose one of {known}.").format(
                name=node_name(segmentationNode), key=segmentID, known=", ".join(keys) or _("none")
            )
        )
    return list(segmentation.structures.values())[keys.index(segmentID)].key


def _axisName(axis: str) -> str:
    return {"right": _("right"), "anterior": _("anterior"), "superior": _("superior")}[axis]


def _axisTitle(axis: str) -> str:
    return f"{_axisName(axis)} (mm)"


def _sliceLogics() -> list:
    logics = slicer.app.applicationLogic().GetSliceLogics()
    return [logics.GetItemAsObject(n) for n in range(logics.GetNumberOfItems())] if logics is not None else []
