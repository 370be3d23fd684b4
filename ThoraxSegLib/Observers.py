"""Observers: how well two or more segmentations of one scan agree, what they agree on, and where they do not.

The numbers are those of `thoraxseg observers` on the same masks in files; here nodes become masks, and answers nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from thoraxseg.agreement.consensus import make_consensus
from thoraxseg.agreement.grids import Onto
from thoraxseg.agreement.masks import Masks, Reading, masks_from
from thoraxseg.agreement.measuring import Measuring
from thoraxseg.agreement.remedies import Remedies
from thoraxseg.agreement.scan import Drawn, drawn_from
from thoraxseg.agreement.scan_scores import OBSERVER_DEFINITIONS, scan_scores
from thoraxseg.agreement.words import whys
from thoraxseg.errors import InputError, OptionError
from thoraxseg.metrics import disagreement
from thoraxseg.mrml import segmentation_to_node, uncertainty_to_node
from thoraxseg.mrml.compared import common_grid, contours_on, lies_on, own_grid, volume_of_grid
from thoraxseg.mrml.grids import Grid, class_name, grid_of, node_name, require_same_grid
from thoraxseg.mrml.plots import Bars, fill_chart
from thoraxseg.mrml.tables import Column, fill_table
from thoraxseg.progress import Progress, part, silent
from thoraxseg.report import printable
from thoraxseg.segmentation import Segmentation
from ThoraxSegLib.Nodes import (
    KIND_ATTRIBUTE,
    TASK_ATTRIBUTE,
    VOLUME_ROLE,
    nodesOfKind,
    placeBeside,
    referenceVolume,
    removeNode,
    savableName,
)

if TYPE_CHECKING:
    from ThoraxSegLib.Logic import ThoraxSegLogic

OBSERVER_ROLE = "ThoraxSeg.Observer"
"""References from a table, consensus or map to the segmentations that were compared, in their order."""
TABLE_ROLE = "ThoraxSeg.Table"
"""Reference from a chart to the table that it shows."""
CIGEN, PAIRS, CONSENSUS, DISAGREEMENT = (
    "observers-cigen",
    "observers-pairs",
    "observers-consensus",
    "observers-disagreement",
)
"""What `KIND_ATTRIBUTE` says of the nodes made here."""
CHART = "observers-chart"
RULES = ("majority", "all")
BAR_COLOR = (0.25, 0.45, 0.70)
SIDES = {"right_lung", "left_lung"}


@dataclass(eq=False)
class Agreement:
    """What a comparison found: tables in the scene, the same as data, and what else its results need."""

    cigenTable: Any
    """vtkMRMLTableNode, a row for each structure."""
    pairsTable: Any
    """vtkMRMLTableNode, a row for each structure and pair of observers."""
    rows: list[dict[str, Any]]
    """A row for each structure, keys as in `definitions`; `observers` says how many contoured it, `missing` who not."""
    notes: list[str]
    """What was done and decided, in sentences."""
    warnings: list[str]
    """What has to be looked at before a number is used, in sentences."""
    names: list[str]
    """The observers' names, in the order of their nodes."""
    segmentationNodes: list
    referenceVolume: Any
    """The volume on whose grid all were compared; None where they brought their own."""
    drawn: Drawn = field(repr=False)
    definitions: dict[str, str] = field(default_factory=lambda: dict(OBSERVER_DEFINITIONS), repr=False)


class Observers:
    """Compares segmentation nodes of one scan."""

    def __init__(self, logic: ThoraxSegLogic) -> None:
        self.logic = logic

    def compare(
        self,
        segmentationNodes: Sequence,
        names: Sequence[str] | None = None,
        mergeLungs: bool = False,
        resample: bool = False,
        reference=None,
        progress: Progress = silent,
    ) -> Agreement:
        """Return how well segmentations of one scan agree, as two tables in the scene and as rows.

        Segments are matched by name, else by terminology. `names` are the observers' names; without them those of the
        nodes, made unique. All are compared on the grid of the volume `reference`, else of the first reference volume
        that a node has, else on their own. One with other voxels is refused, or brought onto that grid by nearest
        neighbor with `resample`, which the notes say. A segment without a voxel counts as an empty mask; a structure
        that an observer has no segment for as not contoured. Comparing the same nodes again fills the same tables.

        Raises OptionError or InputError with a sentence: fewer than two nodes, one of them twice, no segmentation,
        without segments, overlapping segments, another grid, nothing in common.
        """
        nodes = list(segmentationNodes)
        self._check(nodes, reference)
        names = _checkedNames(names, nodes)
        volume = reference or next(filter(None, map(referenceVolume, nodes)), None)
        grid, gridName = _grid(nodes, volume)
        segmentations, notes, warnings = [], [], _differentVolumes(nodes, names)
        for n, (node, name) in enumerate(zip(nodes, names, strict=True)):
            progress(0.2 * n / len(nodes), _("Reading {name}").format(name=name))
            segmentation, done = _segmentation(node, grid, gridName, resample)
            segmentations.append(segmentation)
            notes += done
        masks = [masks_from(one, name) for one, name in zip(segmentations, names, strict=True)]
        warnings += [
            _("{name}: no segment has a voxel; all count as empty masks.").format(name=one.role)
            for one in masks
            if one.is_empty
        ]
        merge, merged = _merge(masks, mergeLungs)
        drawn = drawn_from(
            gridName,
            masks,
            Reading(merge=merge, resample=resample, remedies=_remedies()),
            onto=Onto(gridName, grid.shape, grid.world),
        )
        rows = scan_scores(drawn, Measuring(), part(progress, 0.2, 1.0))
        for row in rows:
            row["missing"] = [name for name in map(printable, names) if name not in row["observer_names"]]
        agreement = Agreement(
            cigenTable=None,
            pairsTable=None,
            rows=rows,
            notes=[
                _("All were compared on the grid of {name}.").format(name=gridName),
                *notes,
                *merged,
                *drawn.matched.notes,
            ],
            warnings=[*warnings, *drawn.matched.warnings, *drawn.decided],
            names=names,
            segmentationNodes=nodes,
            referenceVolume=volume,
            drawn=drawn,
        )
        self._fillTables(agreement)
        return agreement

    def consensus(self, agreement: Agreement, rule: str = "majority"):
        """Return a new segmentation node of the voxels that a strict majority of the observers marked, or "all".

        Each structure counts the observers who contoured it; one that fewer than two did has no consensus and no
        segment. What had to be decided is added to the agreement's notes. Raises OptionError for another rule or where
        no structure has two observers, InputError where the volume is gone or was moved since.
        """
        if rule not in RULES:
            raise OptionError(
                _("Expected a consensus of {rules}, got {rule}.").format(
                    rules=" / ".join(RULES), rule=repr(rule)
                )
            )
        drawn = agreement.drawn
        agreed = {n: one for n, one in drawn.matched.structures.items() if len(drawn.who(n)) >= 2}
        if not agreed:
            raise OptionError(_("No structure was contoured by two observers: there is nothing to agree on."))
        labels, notes = make_consensus(drawn, rule)
        title = _("{volume} consensus ({rule})").format(volume=self._title(agreement), rule=rule)
        segmentation = Segmentation(labels, drawn.matched.ijk_to_ras, agreed, title)
        with _VolumeFor(agreement, self.logic.scene) as volume:
            node = segmentation_to_node(segmentation, volume, name=title)
        self._mark(node, CONSENSUS, agreement)
        agreement.notes += [note for note in notes if note not in agreement.notes]
        return node

    def disagreementVolume(self, agreement: Agreement):
        """Return a new volume node: the share of the pairs of observers whose labels differ at a voxel, 0 to 1.

        Colors span 0 to 1, so that maps can be compared; where all agree nothing is shown. A pair in which one drew
        there what the other did not contour at all does not count. Raises InputError as `consensus`.
        """
        drawn = agreement.drawn
        share = disagreement(drawn.maps, drawn.contoured)
        title = _("{volume} disagreement").format(volume=self._title(agreement))
        with _VolumeFor(agreement, self.logic.scene) as volume:
            node = uncertainty_to_node(share, volume, maximum=1.0, name=title)
        self._mark(node, DISAGREEMENT, agreement)
        return node

    def plot(self, agreement: Agreement, byPair: bool = False):
        """Return a chart node with a bar for the CIgen of each structure, or, by pair, for the Dice of each pair."""
        table = agreement.pairsTable if byPair else agreement.cigenTable
        scene = self.logic.scene
        if scene.GetNodeByID(table.GetID() or "") is not table:
            raise InputError(_("The table is not in the scene any more. Compare again."))
        chart = next(
            (
                node
                for node in nodesOfKind(scene, "vtkMRMLPlotChartNode", CHART)
                if node.GetNodeReference(TABLE_ROLE) is table
            ),
            None,
        )
        if chart is None:
            name = _("{table} chart").format(table=table.GetName())
            chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", name)
            chart.SetAttribute(KIND_ATTRIBUTE, CHART)
            chart.SetAttribute(TASK_ATTRIBUTE, self.logic.task.key)
            chart.SetNodeReferenceID(TABLE_ROLE, table.GetID())
        if byPair:
            bars, title, label = Bars("dsc", "pair", _("Dice"), BAR_COLOR), _("Dice by pair"), _("Dice")
        else:
            bars, title, label = Bars("cigen", "structure", "CIgen", BAR_COLOR), _("Conformity"), "CIgen"
        fill_chart(chart, table, [bars], title, _("Pair") if byPair else _("Structure"), label)
        chart.SetYAxisRangeAuto(False)
        chart.SetYAxisRange(0.0, 1.0)
        return chart

    def csvText(self, tableNode) -> str:
        """Return a table as CSV, by the writer of all tables."""
        return self.logic.measurements.csvText(tableNode)

    def writeCsv(self, tableNode, path: Path | str):
        """Write a table to a CSV file, by the writer of all tables."""
        return self.logic.measurements.writeCsv(tableNode, path)

    def _check(self, nodes: Sequence, reference) -> None:
        """Refuse what cannot be compared, with the name of the node."""
        if len(nodes) < 2:
            raise OptionError(
                _(
                    "Expected the segmentations of two observers or more, got {count}. Choose another one."
                ).format(count=len(nodes))
            )
        for node in nodes:
            if not (hasattr(node, "IsA") and node.IsA("vtkMRMLSegmentationNode")):
                raise InputError(
                    _("{name}: expected a segmentation, got {kind}. Choose a segmentation.").format(
                        name=node_name(node), kind=_("nothing") if node is None else class_name(node)
                    )
                )
            self._checkIsThere(node)
            if node.GetSegmentation().GetNumberOfSegments() == 0:
                raise InputError(
                    _(
                        "{name}: expected segments, got none. Leave it out, or contour something in it."
                    ).format(name=node_name(node))
                )
        twice = [node for node, count in Counter(nodes).items() if count > 1]
        if twice:
            raise OptionError(
                _("{name} is chosen twice. Choose every segmentation once.").format(name=node_name(twice[0]))
            )
        if reference is not None:
            grid_of(reference)
            self._checkIsThere(reference)

    def _checkIsThere(self, node) -> None:
        if node.GetScene() is not self.logic.scene:
            raise InputError(
                _("{name} is not in the scene any more. Choose another one.").format(name=node_name(node))
            )

    def _fillTables(self, agreement: Agreement) -> None:
        title = self._title(agreement)
        agreement.cigenTable = self._table(agreement, CIGEN, _("{volume} agreement").format(volume=title))
        agreement.pairsTable = self._table(
            agreement, PAIRS, _("{volume} agreement by pair").format(volume=title)
        )
        columns = _cigenColumns(agreement.names)
        fill_table(agreement.cigenTable, columns, [_cigenRow(row, agreement.names) for row in agreement.rows])
        fill_table(agreement.pairsTable, _pairColumns(), _pairRows(agreement.rows))

    def _table(self, agreement: Agreement, kind: str, title: str):
        """Return the table of an earlier comparison of the same nodes, else a new one."""
        observers = [node.GetID() for node in agreement.segmentationNodes]
        for node in nodesOfKind(self.logic.scene, "vtkMRMLTableNode", kind):
            count = node.GetNumberOfNodeReferences(OBSERVER_ROLE)
            if [node.GetNthNodeReferenceID(OBSERVER_ROLE, n) for n in range(count)] == observers:
                node.SetName(title)
                return node
        node = self.logic.scene.AddNewNodeByClass("vtkMRMLTableNode", title)
        self._mark(node, kind, agreement)
        return node

    def _mark(self, node, kind: str, agreement: Agreement) -> None:
        """Note on a new node what it is and of which nodes, and file it with the volume."""
        node.SetAttribute(KIND_ATTRIBUTE, kind)
        node.SetAttribute(TASK_ATTRIBUTE, self.logic.task.key)
        for one in agreement.segmentationNodes:
            node.AddNodeReferenceID(OBSERVER_ROLE, one.GetID())
        if agreement.referenceVolume is not None:
            node.SetNodeReferenceID(VOLUME_ROLE, agreement.referenceVolume.GetID())
        placeBeside(node, agreement.referenceVolume or agreement.segmentationNodes[0])

    def _title(self, agreement: Agreement) -> str:
        """Return what results are named after: the volume, else the first observer's segmentation."""
        return savableName(node_name(agreement.referenceVolume or agreement.segmentationNodes[0]))


class _VolumeFor:
    """The volume that a result is made for: the reference, else one of zeros that is gone afterwards."""

    def __init__(self, agreement: Agreement, scene) -> None:
        self._agreement, self._scene = agreement, scene
        self._made = None

    def __enter__(self):
        volume, first = self._agreement.referenceVolume, self._agreement.segmentationNodes[0]
        matched = self._agreement.drawn.matched
        if volume is not None:
            if volume.GetScene() is not self._scene:
                raise InputError(
                    _("{name} is not in the scene any more. Compare again.").format(name=node_name(volume))
                )
            require_same_grid(grid_of(volume), matched.maps[0].shape, node_name(volume), matched.ijk_to_ras)
            return volume
        grid = Grid(matched.maps[0].shape, matched.ijk_to_ras, matched.ijk_to_ras)
        beside = first if first.GetScene() is self._scene else None
        self._made = volume_of_grid(self._scene, grid, node_name(first), beside)
        return self._made

    def __exit__(self, *error) -> None:
        if self._made is not None:
            removeNode(self._made)


def _checkedNames(names: Sequence[str] | None, nodes: Sequence) -> list[str]:
    """Return a name for every observer: those given, else of the nodes, numbered where they are alike."""
    if names is None:
        found: list[str] = []
        for name in map(node_name, nodes):
            name, base, number = printable(name), printable(name), 1
            while name in found:
                number += 1
                name = f"{base} ({number})"
            found.append(name)
        return found
    names = [printable(str(name)).strip() for name in names]
    if len(names) != len(nodes) or not all(names) or len(set(names)) < len(names):
        raise OptionError(
            _("Expected a name of its own for each of {count} observers, got {names}.").format(
                count=len(nodes), names=", ".join(names) or _("none")
            )
        )
    return names


def _grid(nodes: Sequence, volume) -> tuple[Grid, str]:
    """Return the grid to compare on and whose it is."""
    if volume is not None:
        return grid_of(volume), node_name(volume)
    grid = common_grid(nodes)
    if grid is None:
        raise InputError(_("Expected contours to compare, got segmentations without a voxel."))
    first = next(node for node in nodes if own_grid(node) is not None)
    return grid, node_name(first)


def _segmentation(node, grid: Grid, gridName: str, resample: bool) -> tuple[Segmentation, list[str]]:
    """Return the contours of a node on the grid where they share its voxels, else on their own; and what was done."""
    own = own_grid(node)
    if own is None or lies_on(node, grid):
        try:
            return contours_on(node, grid, gridName), []
        except InputError:
            if own is None or not resample:
                raise
            return contours_on(node, own, node_name(node)), []  # what lies beyond is lost later, and counted
    if lies_on(node, own):
        return contours_on(node, own, node_name(node)), []
    if not resample:
        raise InputError(
            _(
                "{name}: expected segments on one grid, got several. Choose to resample, or bring them onto the grid "
                "of the volume (Segmentations module, Representations, Binary labelmap, Update)."
            ).format(name=node_name(node))
        )
    note = _(
        "{name}: its segments lie on several grids and were brought onto the first one by nearest neighbor."
    )
    return contours_on(node, own, node_name(node)), [note.format(name=node_name(node))]


def _differentVolumes(nodes: Sequence, names: Sequence[str]) -> list[str]:
    """Return a sentence where segmentations belong to different volumes, which may be other scans."""
    volumes = {name: referenceVolume(node) for name, node in zip(names, nodes, strict=True)}
    volumes = {name: volume for name, volume in volumes.items() if volume is not None}
    if len({volume.GetID() for volume in volumes.values()}) < 2:
        return []
    told = "; ".join(f"{name}: {node_name(volume)}" for name, volume in volumes.items())
    return [
        _(
            "The segmentations belong to different volumes ({told}). Check that these show one scan before you use a "
            "number."
        ).format(told=told)
    ]


def _merge(masks: Sequence[Masks], mergeLungs: bool) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Return what is merged, and what was decided for it."""
    if not mergeLungs:
        return {}, []
    if not any(one.key in SIDES for mask in masks for one in mask.structures.values()):
        return {}, [_("There are no right and left lungs to merge.")]
    return {"lungs": ("right lung", "left lung")}, [_("Right and left lung were merged.")]


def _remedies() -> Remedies:
    """Return what a person can do here where segmentations do not fit."""
    return Remedies(
        resample=_("choose to resample this one onto the other's grid (nearest neighbor)"),
        place=_("To resample puts it in its place, voxel for voxel; what lies outside is lost, and counted"),
        absent=_("an empty segment of this name counts as an empty mask"),
        merge_lungs=_("choose to merge right and left lung"),
        merge=_("Merging into "),
        same=_("name both segments {theirs} or {mine}"),
    )


def _cigenColumns(names: Sequence[str]) -> list[Column]:
    define = OBSERVER_DEFINITIONS
    return [
        Column("structure", str, _("Structure")),
        Column("cigen", float, "CIgen", "", define["cigen"]),
        Column("observers", int, _("Observers"), "", define["observers"]),
        Column("missing", str, _("Not contoured by")),
        Column("majority_mm3", float, _("Majority"), "mm3", define["consensus_voxels.majority"]),
        Column("all_mm3", float, _("All"), "mm3", define["consensus_voxels.all"]),
        *(
            Column(f"volume_{name}_mm3", float, _("Volume {name}").format(name=name), "mm3")
            for name in map(printable, names)
        ),
        Column("remarks", str, _("Remarks")),
    ]


def _cigenRow(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    volumes = dict(zip(row["observer_names"], row["volumes_mm3"], strict=True))
    return {
        "structure": row["name"],
        "cigen": row["cigen"],
        "observers": row["observers"],
        "missing": ", ".join(row["missing"]),
        **{f"{rule}_mm3": value for rule, value in row["consensus_mm3"].items()},
        **{f"volume_{name}_mm3": volumes.get(name) for name in map(printable, names)},
        "remarks": "; ".join(whys(row["undefined"])),
    }


def _pairColumns() -> list[Column]:
    define = OBSERVER_DEFINITIONS
    return [
        Column("structure", str, _("Structure")),
        Column("a", str, "A"),
        Column("b", str, "B"),
        Column("dsc", float, _("Dice"), "", define["dsc"]),
        Column("iou", float, _("Jaccard"), "", define["iou"]),
        Column("msd_mm", float, _("Mean surface distance"), "mm", define["msd_mm"]),
        Column("hd95_mm", float, _("95 % Hausdorff"), "mm", define["hd95_mm"]),
        Column("volume_a_mm3", float, _("Volume A"), "mm3"),
        Column("volume_b_mm3", float, _("Volume B"), "mm3"),
        Column("volume_difference_mm3", float, _("B minus A"), "mm3"),
        Column("volume_difference_percent", float, _("B minus A"), "%"),
        Column("pair", str, _("Pair")),
        Column("remarks", str, _("Remarks")),
    ]


def _pairRows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "structure": row["name"],
            **pair,
            "pair": f"{row['name']}: {pair['a']}, {pair['b']}",
            "remarks": "; ".join(whys(pair["undefined"])),
        }
        for row in rows
        for pair in row["pairs"]
    ]
