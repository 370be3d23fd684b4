"""Measurements: volumes and tumors of the contours as they are now, in tables of the scene.

Numbers come from `thoraxseg.measure`, in mm3 and in full precision; Slicer's own statistics round 0.3 mm3 to 0.000 cm3.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from thoraxseg.errors import InputError, OptionError
from thoraxseg.files import publish_together
from thoraxseg.measure import measure_contours
from thoraxseg.mrml import segmentation_from_node
from thoraxseg.mrml.grids import grid_of, node_name
from thoraxseg.mrml.plots import Bars, fill_chart
from thoraxseg.mrml.tables import (
    Column,
    fill_table,
    sort_table,
    table_columns,
    table_csv,
    table_rows,
)
from thoraxseg.mrml.views import jump_slices, point_cameras
from thoraxseg.segmentation import STRUCTURES
from thoraxseg.volume import check_geometry
from ThoraxSegLib import Nodes

if TYPE_CHECKING:
    from ThoraxSegLib.Logic import ThoraxSegLogic

STRUCTURES_TABLE = "structures"
TUMORS_TABLE = "tumors"
CHART = "measurements chart"
SERIES = "measurements series"
CHART_ROLE = "ThoraxSeg.MeasurementsChart"
SERIES_ROLE = "ThoraxSeg.MeasurementsSeries"
MEASURED_ATTRIBUTE = "ThoraxSeg.Measured"
"""On a table: digest of the contours it was made from, and where their voxels lay, as JSON."""
CONNECTIVITIES = (6, 18, 26)
CONNECTIVITY, SMALL_BELOW_MM3 = 18, 0.4
"""How tumors are counted where the record of no checkpoint says otherwise, as in the mouse MRI paper."""
CENTROID = ("centroid_right_mm", "centroid_anterior_mm", "centroid_superior_mm")
BAR_COLOR = (0.35, 0.55, 0.75)


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured, as nodes of the scene and as numbers."""

    structuresTable: Any
    tumorsTable: Any | None
    """None where no segment stands for tumors."""
    structures: list[dict[str, Any]]
    """Key, name, label, voxels and volume_mm3 of each; 0 for an absent one."""
    tumors: dict[str, Any] | None
    """Count, classes, total_volume_mm3, the rule, and `nodules` one by one, largest first."""
    notes: list[str]
    """What a reader of the numbers must know, in sentences."""


class Digests:
    """Digests of nodes, computed anew only when the node says that it was modified: panels ask for them often."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple, str]] = {}

    def ofVolume(self, volumeNode) -> str:
        """Return `Nodes.digestOf`, of voxels and their place in the patient."""
        return self._remembered(volumeNode, Nodes.stateOf(volumeNode), Nodes.digestOf)

    def ofContours(self, segmentationNode) -> str:
        """Return `Nodes.digestOfSegmentation`, of the voxels and names of all segments."""
        segmentation = segmentationNode.GetSegmentation()
        representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
        times = [segmentation.GetMTime()]
        for n in range(segmentation.GetNumberOfSegments()):
            segment = segmentation.GetNthSegment(n)
            layer = segment.GetRepresentation(representation)
            times += [segment.GetMTime(), layer.GetMTime() if layer is not None else 0]
        return self._remembered(segmentationNode, tuple(times), Nodes.digestOfSegmentation)

    def _remembered(self, node, state: tuple, compute) -> str:
        known = self._known.get(node.GetID())
        if known is None or known[0] != state:
            known = self._known[node.GetID()] = (state, compute(node))
        return known[1]


class Measurements:
    """Measures segmentations, keeps one set of tables for each, and leads from a tumor's row to the tumor."""

    def __init__(self, logic: ThoraxSegLogic) -> None:
        self.logic = logic
        self.digests = Digests()

    def measure(self, segmentationNode) -> Measured:
        """Measure the contours as they are now and put the numbers into tables, those made before if there are any.

        Raises InputError for no segmentation, one without a volume, contours that overlap or reach outside of it.
        """
        volumeNode = volumeToMeasureOn(segmentationNode)
        segmentation = segmentation_from_node(segmentationNode, volumeNode)
        connectivity, small, notes = self._rule(segmentationNode)
        found = measure_contours(segmentation, connectivity, small)
        state = json.dumps(
            {
                "contours": self.digests.ofContours(segmentationNode),
                "ijk_to_ras": segmentation.ijk_to_ras.tolist(),
            }
        )
        rows = found["structures"] + self._togetherRow(found)
        table = self._table(
            segmentationNode, volumeNode, Nodes.STRUCTURES_TABLE_ROLE, STRUCTURES_TABLE, state
        )
        fill_table(table, _structureColumns(), rows)
        tumorsTable = None
        if found["tumors"] is not None:
            tumorsTable = self._table(
                segmentationNode, volumeNode, Nodes.TUMORS_TABLE_ROLE, TUMORS_TABLE, state
            )
            fill_table(tumorsTable, _tumorColumns(), [_tumorRow(one) for one in found["tumors"]["nodules"]])
            tumorsTable.SetDescription(" ".join(notes))
        else:
            _drop(segmentationNode, Nodes.TUMORS_TABLE_ROLE)
            notes = []
        return Measured(table, tumorsTable, found["structures"], found["tumors"], notes)

    def tables(self, segmentationNode) -> tuple:
        """Return the tables of structures and of tumors that `measure` made, each None where there is none."""
        roles = (Nodes.STRUCTURES_TABLE_ROLE, Nodes.TUMORS_TABLE_ROLE)
        return tuple(segmentationNode.GetNodeReference(role) for role in roles)

    def staleness(self, segmentationNode) -> str:
        """Return "" when the tables are of the contours as they are or there are none, else a sentence."""
        tables = [table for table in self.tables(segmentationNode) if table is not None]
        if all(
            _state(table).get("contours") == self.digests.ofContours(segmentationNode) for table in tables
        ):
            return ""
        return _("The contours were changed after they were measured: measure again.")

    def plot(self, segmentationNode):
        """Return a chart of the tumors' volumes where there are tumors, else of the structures' volumes.

        It refers to the tables, so it follows them. Measures first where there are no tables.
        """
        if self.tables(segmentationNode)[0] is None:
            self.measure(segmentationNode)
        structuresTable, tumorsTable = self.tables(segmentationNode)
        ofTumors = tumorsTable is not None and tumorsTable.GetNumberOfRows() > 0
        table = tumorsTable if ofTumors else structuresTable
        labels = "number" if ofTumors else "name"
        chart = segmentationNode.GetNodeReference(CHART_ROLE)
        if chart is None:
            chart = self.logic.scene.AddNewNodeByClass("vtkMRMLPlotChartNode")
            _own(chart, CHART, CHART_ROLE, segmentationNode, self.logic.task.key)
        color = STRUCTURES["tumors"].color if ofTumors else BAR_COLOR
        title = _("Volume of each tumor") if ofTumors else _("Volume of each structure")
        bars = Bars("volume_mm3", labels, _("Volume (mm3)"), color)
        (series,) = fill_chart(chart, table, [bars], title, _("Tumor") if ofTumors else "", _("Volume (mm3)"))
        _own(series, SERIES, SERIES_ROLE, segmentationNode, self.logic.task.key)
        chart.SetName(_("{name} chart").format(name=segmentationNode.GetName()))
        return chart

    def csvText(self, tableNode) -> str:
        """Return a table as CSV text with units in the column names and all digits; for the clipboard too.

        Text that a spreadsheet would run as a formula is guarded by an apostrophe.
        """
        return table_csv(tableNode)

    def writeCsv(self, tableNode, path: Path | str) -> Path:
        """Write a table as CSV in UTF-8, whole or not at all, and return the absolute path.

        Raises OptionError for a path that does not end with .csv, OutputError where it cannot be written.
        """
        path = Path(path).absolute()
        if path.suffix.lower() != ".csv":
            raise OptionError(
                _("{path}: expected a file name that ends with .csv. Choose another name.").format(path=path)
            )
        text = self.csvText(tableNode)
        with publish_together(path.parent) as scratch:
            (scratch / path.name).write_text(text, encoding="utf-8", newline="")
        return path

    def sort(self, tableNode, column: str, descending: bool = False) -> None:
        """Sort the rows of a table by the column of that name or title, in place; undefined numbers come last.

        Of columns with the same title, which differ in their unit, the first is taken.
        """
        byTitle = {one.title: one.key for one in reversed(table_columns(tableNode)) if one.title}
        sort_table(tableNode, byTitle.get(column, column), descending)

    def centerOn(self, tumorsTable, row: int) -> tuple[float, float, float]:
        """Show the tumor in a row of its table in the middle of all slice views and 3-D views; return its place, RAS.

        When the volume was moved by a transform after measuring, the place moves along. Raises OptionError for a row
        that the table does not have, InputError for a table without tumors.
        """
        rows = table_rows(tumorsTable)
        if not set(CENTROID) <= {column.key for column in table_columns(tumorsTable)}:
            raise InputError(
                _("{name}: expected a table of tumors. Measure first, then choose its tumors.").format(
                    name=node_name(tumorsTable)
                )
            )
        if not 0 <= row < len(rows):
            raise OptionError(
                _("{name}: expected a row from 0 to {last}, got {row}.").format(
                    name=node_name(tumorsTable), last=len(rows) - 1, row=row
                )
            )
        place = _placeNow(tumorsTable, [rows[row][key] for key in CENTROID])
        jump_slices(self.logic.scene, place, centered=True)
        point_cameras(self.logic.scene, place)
        return place

    def _rule(self, segmentationNode) -> tuple[int, float, list[str]]:
        """Return connectivity and limit for small tumors, those of the run where it had some, and what to say."""
        rule = Nodes.recordOf(segmentationNode).get("measurements", {}).get("tumors") or {}
        connectivity, small = rule.get("connectivity"), rule.get("small_below_mm3")
        if (
            connectivity not in CONNECTIVITIES
            or not isinstance(small, (int, float))
            or not 0 < small < math.inf
        ):
            rule, connectivity, small = {}, CONNECTIVITY, SMALL_BELOW_MM3
        whose = _("the checkpoint's rule") if rule else _("no checkpoint says otherwise")
        note = _(
            "Tumors: voxels with {number} neighbors are one tumor, small is below {small:g} mm3 ({whose})."
        )
        return connectivity, small, [note.format(number=connectivity, small=small, whose=whose)]

    def _togetherRow(self, found: dict[str, Any]) -> list[dict[str, Any]]:
        if found["lungs_with_tumors"] is None:
            return []
        return [{"key": "lungs_with_tumors", "name": _("Lungs with tumors"), **found["lungs_with_tumors"]}]

    def _table(self, segmentationNode, volumeNode, role: str, kind: str, state: str):
        """Return the table of a role, new where there is none, named after the segmentation as it is called now."""
        table = segmentationNode.GetNodeReference(role)
        if table is None:
            table = self.logic.scene.AddNewNodeByClass("vtkMRMLTableNode")
            _own(table, kind, role, segmentationNode, self.logic.task.key)
            table.SetNodeReferenceID(Nodes.VOLUME_ROLE, volumeNode.GetID())
            Nodes.placeBeside(table, volumeNode)
        table.SetAttribute(MEASURED_ATTRIBUTE, state)
        table.SetName(f"{segmentationNode.GetName()} {kind}")
        return table


def volumeToMeasureOn(segmentationNode):
    """Return the volume whose grid the contours lie on. Raises InputError for no segmentation, or one without."""
    if not (hasattr(segmentationNode, "IsA") and segmentationNode.IsA("vtkMRMLSegmentationNode")):
        raise InputError(
            _("Expected a segmentation, got {what}. Choose a segmentation.").format(
                what=node_name(segmentationNode) if segmentationNode is not None else _("nothing")
            )
        )
    volumeNode = Nodes.referenceVolume(segmentationNode)
    if volumeNode is None:
        raise InputError(
            _(
                "{name}: the volume it was made from is not in the scene. Load that volume and choose it as the "
                "segmentation's source geometry in the Segment Editor."
            ).format(name=node_name(segmentationNode))
        )
    return volumeNode


def _own(node, kind: str, role: str, segmentationNode, task: str) -> None:
    """Make a node a companion of a segmentation: it goes when that is replaced by a newer result."""
    node.SetAttribute(Nodes.KIND_ATTRIBUTE, kind)
    node.SetAttribute(Nodes.TASK_ATTRIBUTE, task)
    segmentationNode.SetNodeReferenceID(role, node.GetID())


def _drop(segmentationNode, role: str) -> None:
    node = segmentationNode.GetNodeReference(role)
    if node is not None:
        Nodes.removeNode(node)


def _structureColumns() -> list[Column]:
    return [
        Column("name", str, _("Structure")),
        Column("key", str, _("Key"), description=_("Name for programs")),
        Column("voxels", int, _("Voxels")),
        Column("volume_mm3", float, _("Volume"), "mm3"),
    ]


def _tumorColumns() -> list[Column]:
    centroid = _("Center of the tumor in the patient (RAS)")
    titles = (_("Right"), _("Anterior"), _("Superior"))
    return [
        Column("number", int, _("Tumor"), description=_("1 is the largest")),
        Column("voxels", int, _("Voxels")),
        Column("volume_mm3", float, _("Volume"), "mm3"),
        Column("size_class", str, _("Size")),
        *(Column(key, float, title, "mm", centroid) for key, title in zip(CENTROID, titles, strict=True)),
    ]


def _tumorRow(nodule: dict[str, Any]) -> dict[str, Any]:
    return {**nodule, **dict(zip(CENTROID, nodule["centroid_ras_mm"], strict=True))}


def _state(table) -> dict[str, Any]:
    return Nodes.jsonOf(table.GetAttribute(MEASURED_ATTRIBUTE), dict)


def _placeNow(table, place: Sequence[float]) -> tuple[float, float, float]:
    """Return where a point that was measured lies now, after transforms that came since."""
    volumeNode = table.GetNodeReference(Nodes.VOLUME_ROLE)
    try:
        then = check_geometry(_state(table).get("ijk_to_ras"), node_name(table))
    except (ValueError, TypeError):  # not there, or edited by hand
        return tuple(place)
    if volumeNode is None:
        return tuple(place)
    now = grid_of(volumeNode).world @ np.linalg.solve(then, [*place, 1.0])
    return tuple(float(x) for x in now[:3])
