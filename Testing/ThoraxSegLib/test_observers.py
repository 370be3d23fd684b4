"""Observers as nodes of a scene: the numbers of paper and command line, and every way in which nodes do not fit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import slicer

from Testing.made_results import put_under
from Testing.mrml.conftest import placed, rotation
from thoraxseg.cli import main
from thoraxseg.errors import InputError, OptionError
from thoraxseg.io import write_segmentation
from thoraxseg.mrml import segmentation_from_node, segmentation_to_node
from thoraxseg.mrml.grids import grid_of
from thoraxseg.mrml.tables import table_csv, table_rows
from thoraxseg.segmentation import STRUCTURES, Segmentation
from ThoraxSegLib.Nodes import VOLUME_ROLE, referenceVolume
from ThoraxSegLib.Observers import Observers

SHAPE = (10, 12, 14)
SPACING = 0.5
OBLIQUE = placed(rotation((1, 2, 3), 25), spacing=(0.5, 0.6, 1.1))


class LogicStandIn:
    """What Observers asks of the logic, in any scene."""

    def __init__(self, scene):
        from ThoraxSegLib.Tasks import MOUSE_THORAX

        self.scene, self.task = scene, MOUSE_THORAX


def box(at, size, label=1):
    labels = np.zeros(SHAPE, np.uint8)
    labels[tuple(slice(a, a + n) for a, n in zip(at, size, strict=True))] = label
    return labels


HEARTS = [box((2, 4, at), (2, 4, 4)) for at in (4, 6, 8)]
"""32 voxels each, moved by half: pairs share 16, 16 and 0 voxels, their unions hold 48, 48 and 64."""
LUNG = box((6, 2, 2), (3, 3, 3), 2)


@pytest.fixture
def observers(scene):
    return Observers(LogicStandIn(scene))


@pytest.fixture
def volumeNode(scene):
    return makeVolume(scene, "mouse 7", placed(np.eye(3), spacing=(SPACING,) * 3))


def makeVolume(scene, name, ijkToRas, shape=SHAPE):
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, np.zeros(shape, np.int16))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijkToRas))
    return node


def contoured(volumeNode, name, labels, *keys):
    structures = {n: STRUCTURES[key] for n, key in enumerate(keys or ("heart",), 1)}
    segmentation = Segmentation(labels, grid_of(volumeNode).world, structures, name)
    return segmentation_to_node(segmentation, volumeNode)


@pytest.fixture
def three(volumeNode):
    return [
        contoured(volumeNode, name, heart)
        for name, heart in zip(("Ann", "Ben", "Chris"), HEARTS, strict=True)
    ]


def loneSegmentation(scene, name, labels, ijkToRas, key="heart"):
    """Put contours into the scene that know of no volume."""
    volume = makeVolume(scene, "gone", ijkToRas, labels.shape)
    node = contoured(volume, name, labels, key)
    scene.RemoveNode(volume)
    return node


# Numbers


def test_three_observers_agree_as_on_paper(observers, three):
    agreement = observers.compare(three)
    (row,) = agreement.rows
    assert row["cigen"] == 32 / 160
    assert [pair["dsc"] for pair in row["pairs"]] == [0.5, 0.0, 0.5]
    (cells,) = table_rows(agreement.cigenTable)
    assert cells["structure"] == "Heart"
    assert cells["cigen"] == 0.2
    assert cells["observers"] == 3
    assert cells["volume_Ann_mm3"] == pytest.approx(32 * SPACING**3)
    assert cells["majority_mm3"] == pytest.approx(32 * SPACING**3)
    assert cells["all_mm3"] == 0
    pairs = table_rows(agreement.pairsTable)
    assert [(pair["a"], pair["b"], pair["dsc"]) for pair in pairs] == [
        ("Ann", "Ben", 0.5),
        ("Ann", "Chris", 0.0),
        ("Ben", "Chris", 0.5),
    ]
    assert not agreement.warnings


def test_distances_and_volumes_of_a_pair_are_those_of_paper(observers, volumeNode):
    """A box, and the same one moved by one voxel of 0.5 mm: 4 of 5 columns of its length are shared."""
    one, other = (
        contoured(volumeNode, name, box((2, 2, at), (4, 4, 4))) for name, at in (("A", 4), ("B", 5))
    )
    (pair,) = observers.compare([one, other]).rows[0]["pairs"]
    assert pair["dsc"] == 0.75
    assert pair["hd_mm"] == SPACING
    assert pair["volume_difference_mm3"] == 0


def test_the_command_line_says_the_same_of_the_same_masks_in_files(observers, volumeNode, tmp_path, capsys):
    grid = grid_of(volumeNode).world
    nodes, paths = [], []
    for name, heart, extra in zip(("ann", "ben", "chris"), HEARTS, (0, 1, 2), strict=True):
        lungs = LUNG + 3 * (box((0, 8, extra), (4, 3, 5)) > 0)
        keys = ("heart", "left_lung", "right_lung")
        nodes.append(contoured(volumeNode, name, heart + lungs.astype(np.uint8), *keys))
        paths.append(tmp_path / f"{name}.seg.nrrd")
        structures = {n: STRUCTURES[key] for n, key in enumerate(keys, 1)}
        write_segmentation(paths[-1], Segmentation(heart + lungs.astype(np.uint8), grid, structures, name))
    rows = observers.compare(nodes).rows
    assert _same(rows, commandLine(capsys, paths))


def commandLine(capsys, paths, *words):
    """Return what `thoraxseg observers` says of every structure."""
    capsys.readouterr()
    assert main(["observers", *map(str, paths), *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["structures"]


def _same(rows, expected):
    """Compare rows of words and numbers; geometry in a file is rounded in its last digit."""
    if isinstance(expected, dict):
        return all(_same(rows[key], value) for key, value in expected.items())
    if isinstance(expected, list):
        return len(rows) == len(expected) and all(map(_same, rows, expected))
    if isinstance(expected, float):
        return math.isclose(rows, expected, rel_tol=1e-9, abs_tol=1e-12)
    return rows == expected


def test_resampled_observers_agree_as_on_the_command_line(observers, volumeNode, scene, tmp_path, capsys):
    moved = grid_of(volumeNode).world.copy()
    moved[:3, 3] += 0.2
    other = makeVolume(scene, "moved", moved)
    nodes = [contoured(volumeNode, "ann", HEARTS[0]), contoured(other, "ben", HEARTS[0])]
    paths = [tmp_path / "ann.seg.nrrd", tmp_path / "ben.seg.nrrd"]
    for path, volume in zip(paths, (volumeNode, other), strict=True):
        structures = {1: STRUCTURES["heart"]}
        write_segmentation(path, Segmentation(HEARTS[0], grid_of(volume).world, structures, path.name))
    rows = observers.compare(nodes, resample=True, reference=volumeNode).rows
    assert _same(rows, commandLine(capsys, paths, "--resample"))


def test_the_tables_of_oblique_voxels_are_in_true_cubic_millimeters(observers, scene):
    volume = makeVolume(scene, "oblique", OBLIQUE)
    nodes = [contoured(volume, name, heart) for name, heart in zip("ab", HEARTS, strict=False)]
    (row,) = observers.compare(nodes).rows
    assert row["volumes_mm3"] == pytest.approx([32 * 0.5 * 0.6 * 1.1] * 2)


# Who contoured what


def test_a_missing_segment_is_listed_and_counted(observers, volumeNode):
    both = contoured(volumeNode, "Ann", HEARTS[0] + LUNG, "heart", "left_lung")
    agreement = observers.compare([both, contoured(volumeNode, "Ben", HEARTS[1])])
    lung = agreement.rows[1]
    assert (lung["observers"], lung["missing"], lung["cigen"]) == (1, ["Ben"], None)
    cells = table_rows(agreement.cigenTable)[1]
    assert (cells["observers"], cells["missing"], cells["cigen"]) == (1, "Ben", None)
    assert "two are needed" in cells["remarks"]
    assert agreement.warnings == [
        "Left lung: Ben has none; taken as not contoured, so it is left out there (an empty segment of this name "
        "counts as an empty mask)."
    ]


def test_an_empty_segment_is_an_empty_mask(observers, volumeNode):
    both = contoured(volumeNode, "Ann", HEARTS[0] + LUNG, "heart", "left_lung")
    empty = contoured(volumeNode, "Ben", HEARTS[1], "heart", "left_lung")
    lung = observers.compare([both, empty]).rows[1]
    assert (lung["observers"], lung["missing"], lung["cigen"]) == (2, [], 0.0)


def test_an_observer_who_drew_nothing_at_all_is_said(observers, volumeNode, three):
    nothing = contoured(volumeNode, "Dan", np.zeros(SHAPE, np.uint8))
    agreement = observers.compare([*three, nothing])
    assert agreement.rows[0]["observers"] == 4
    assert "Dan: no segment has a voxel; all count as empty masks." in agreement.warnings


def test_segments_are_matched_by_terminology_where_names_differ(observers, three):
    segment = three[1].GetSegmentation().GetNthSegment(0)
    segment.SetName("Segment_1")
    agreement = observers.compare(three)
    assert [row["observers"] for row in agreement.rows] == [3]
    assert any("'Segment_1' is taken as Heart" in note for note in agreement.notes)


def test_right_and_left_lung_are_merged_on_request(observers, volumeNode):
    right, left = box((2, 2, 2), (3, 3, 3)), box((2, 2, 8), (3, 3, 3))
    sides = contoured(volumeNode, "Ann", right + 2 * left, "right_lung", "left_lung")
    whole = contoured(volumeNode, "Ben", right + left, "lungs")
    with pytest.raises(
        InputError, match=r"none in common.*right and left: choose to merge right and left lung\.$"
    ):
        observers.compare([sides, whole])
    agreement = observers.compare([sides, whole], mergeLungs=True)
    assert [(row["name"], row["cigen"]) for row in agreement.rows] == [("Lungs", 1.0)]
    assert "Right and left lung were merged." in agreement.notes


def test_merging_lungs_is_not_offered_to_who_drew_another_organ(observers, volumeNode):
    right, left = box((2, 2, 2), (3, 3, 3)), box((2, 2, 8), (3, 3, 3))
    nodes = [
        contoured(volumeNode, "Ann", right, "heart"),
        contoured(volumeNode, "Ben", right + left, "lungs"),
        contoured(volumeNode, "Eve", right + 2 * left, "right_lung", "left_lung"),
    ]
    with pytest.raises(InputError, match=r"Ann: has Heart.*none in common\. If two of them mean the same"):
        observers.compare(nodes)


def test_without_lungs_there_is_nothing_to_merge(observers, three):
    agreement = observers.compare(three, mergeLungs=True)
    assert "There are no right and left lungs to merge." in agreement.notes
    assert agreement.rows[0]["cigen"] == 0.2


def test_observers_of_one_name_are_numbered(observers, volumeNode):
    nodes = [contoured(volumeNode, "x", heart) for heart in HEARTS[:2]]
    for node in nodes:
        node.SetName("Ann")
    assert observers.compare(nodes).names == ["Ann", "Ann (2)"]


def test_observers_can_be_given_names(observers, three):
    assert observers.compare(three, names=["1", "2", "3"]).rows[0]["observer_names"] == ["1", "2", "3"]
    for wrong in (["1", "2"], ["1", "1", "2"], ["1", " ", "2"]):
        with pytest.raises(OptionError, match="a name of its own for each of 3 observers"):
            observers.compare(three, names=wrong)


# Grids


def test_other_voxels_are_refused_or_resampled_and_said(observers, volumeNode, scene):
    moved = grid_of(volumeNode).world.copy()
    moved[0, 3] += 0.2
    other = contoured(makeVolume(scene, "moved", moved), "Ben", HEARTS[0])
    nodes = [contoured(volumeNode, "Ann", HEARTS[0]), other]
    with pytest.raises(InputError, match=r"Ben: expected the grid of mouse 7.*choose to resample"):
        observers.compare(nodes)
    agreement = observers.compare(nodes, resample=True)
    assert agreement.rows[0]["cigen"] == 1.0
    assert any("Ben" in note and "nearest neighbors" in note for note in agreement.notes)
    assert any(
        "belong to different volumes (Ann: mouse 7; Ben: moved)" in text for text in agreement.warnings
    )


def test_a_cropped_segmentation_of_the_same_voxels_fits_without_resampling(observers, volumeNode, three):
    segmentation = three[1].GetSegmentation()
    segmentation.CollapseBinaryLabelmaps(False)
    layer = segmentation.GetNthSegment(0).GetRepresentation("Binary labelmap")
    bounds = [4, 11, 2, 9, 1, 5]
    slicer.vtkOrientedImageDataResample.CopyImage(layer, layer, bounds)
    assert list(layer.GetExtent()) == bounds
    assert observers.compare(three).rows[0]["cigen"] == 0.2


def test_contours_beyond_the_volume_are_refused_or_cut_and_counted(observers, volumeNode, scene):
    larger = grid_of(volumeNode).world.copy()
    larger[:3, 3] -= larger[:3, :3] @ [0, 0, 2]
    labels = np.zeros((12, 12, 14), np.uint8)
    labels[0:6, 4:8, 4:8] = 1
    beyond = contoured(makeVolume(scene, "larger", larger, labels.shape), "Ben", labels)
    within = contoured(volumeNode, "Ann", box((0, 4, 4), (4, 4, 4)))
    with pytest.raises(InputError, match="32 voxels of 'Heart' outside it"):
        observers.compare([within, beyond])
    agreement = observers.compare([within, beyond], resample=True)
    assert agreement.rows[0]["cigen"] == 1.0
    assert any("96 labeled voxels became 64" in note for note in agreement.notes)


def test_segmentations_without_a_volume_are_compared_on_a_grid_of_their_own(observers, scene):
    grids = [OBLIQUE, OBLIQUE.copy()]
    grids[1][:3, 3] += OBLIQUE[:3, :3] @ [2, 0, 0]
    first = loneSegmentation(scene, "Ann", HEARTS[1], grids[0])
    second = loneSegmentation(scene, "Ben", HEARTS[0], grids[1])
    agreement = observers.compare([first, second])
    assert agreement.referenceVolume is None
    assert agreement.rows[0]["cigen"] == 1.0
    count = scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    consensus = observers.consensus(agreement)
    share = observers.disagreementVolume(agreement)
    assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == count + 1
    assert slicer.util.arrayFromVolume(share).max() == 0
    assert observers.compare([first, consensus]).rows[0]["cigen"] == 1.0
    assert observers.compare([second, first]).rows[0]["cigen"] == 1.0


def test_cropped_segmentations_without_a_volume_stay_where_they_are(observers, scene):
    nodes = [
        loneSegmentation(scene, name, heart, OBLIQUE)
        for name, heart in zip(("Ann", "Ben"), (HEARTS[2], HEARTS[1]), strict=True)
    ]
    for node, extent in zip(nodes, ([8, 13, 3, 9, 1, 5], [5, 9, 4, 10, 2, 6]), strict=True):
        node.GetSegmentation().SetConversionParameter("Reference image geometry", "")
        layer = node.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
        slicer.vtkOrientedImageDataResample.CopyImage(layer, layer, extent)
    agreement = observers.compare(nodes)
    assert agreement.rows[0]["cigen"] == 16 / 48
    consensus = observers.consensus(agreement)
    volume = makeVolume(scene, "where it was", OBLIQUE)
    assert np.array_equal(segmentation_from_node(consensus, volume).labels, HEARTS[1] & HEARTS[2])


def test_results_of_segmentations_without_a_volume_get_their_transform(observers, scene):
    nodes = [loneSegmentation(scene, name, HEARTS[0], OBLIQUE) for name in ("Ann", "Ben")]
    turned = placed(rotation((1, 0, 2), 70), spacing=(1, 1, 1))
    transform = put_under(turned, *nodes)
    agreement = observers.compare(nodes)
    consensus, share = observers.consensus(agreement), observers.disagreementVolume(agreement)
    assert consensus.GetParentTransformNode() is transform
    assert np.allclose(grid_of(share).world, turned @ OBLIQUE)
    assert observers.compare([nodes[0], consensus]).rows[0]["cigen"] == 1.0


def test_the_reference_that_is_given_is_the_grid(observers, three, scene, volumeNode):
    fine = grid_of(volumeNode).world.copy()
    fine[:3, :3] /= 2
    fine[:3, 3] -= fine[:3, :3] @ [0.5, 0.5, 0.5]
    reference = makeVolume(scene, "fine", fine, tuple(2 * n for n in SHAPE))
    with pytest.raises(InputError, match="expected the grid of fine"):
        observers.compare(three, reference=reference)
    agreement = observers.compare(three, reference=reference, resample=True)
    assert agreement.referenceVolume is reference
    assert agreement.rows[0]["cigen"] == pytest.approx(0.2)
    assert referenceVolume(observers.consensus(agreement)) is reference


def test_a_parent_transform_moves_nothing_against_the_volume(observers, three, volumeNode, scene):
    transform = put_under(placed(rotation((1, 0, 2), 70), spacing=(1, 1, 1)), volumeNode, *three)
    agreement = observers.compare(three)
    assert agreement.rows[0]["cigen"] == 0.2
    consensus, share = observers.consensus(agreement), observers.disagreementVolume(agreement)
    assert consensus.GetParentTransformNode() is transform
    assert share.GetParentTransformNode() is transform
    assert np.array_equal(slicer.util.arrayFromVolume(share) > 0, _differing())
    three[0].SetAndObserveTransformNodeID(None)
    with pytest.raises(InputError, match="Ann: expected the grid of mouse 7"):
        observers.compare(three)


def _differing():
    first, second, third = HEARTS
    return ~((first == second) & (second == third))


# Results


def test_the_consensus_holds_what_a_majority_or_all_marked(observers, three, volumeNode):
    agreement = observers.compare(three)
    majority, every = observers.consensus(agreement), observers.consensus(agreement, "all")
    assert majority.GetName() == "mouse 7 consensus (majority)"
    segment = majority.GetSegmentation().GetSegment("heart")
    assert segment.GetColor() == STRUCTURES["heart"].color
    assert "80891009" in _terminology(segment)
    assert referenceVolume(majority) is volumeNode
    assert np.array_equal(segmentation_from_node(majority, volumeNode).labels > 0, sum(HEARTS) >= 2)
    assert not segmentation_from_node(every, volumeNode).labels.any()
    with pytest.raises(OptionError, match="Expected a consensus of majority / all, got 'most'"):
        observers.consensus(agreement, "most")


def _terminology(segment):
    import vtk

    value = vtk.reference("")
    segment.GetTag(segment.GetTerminologyEntryTagName(), value)
    return str(value)


def test_a_structure_of_one_observer_is_in_no_consensus(observers, volumeNode):
    both = contoured(volumeNode, "Ann", HEARTS[0] + LUNG, "heart", "left_lung")
    other = contoured(volumeNode, "Ben", HEARTS[0])
    consensus = observers.consensus(observers.compare([both, other]))
    assert list(consensus.GetSegmentation().GetSegmentIDs()) == ["heart"]


def test_results_have_names_with_which_a_scene_can_be_loaded_again(observers, three, volumeNode):
    volumeNode.SetName("M & M")
    agreement = observers.compare(three)
    made = [observers.consensus(agreement), observers.disagreementVolume(agreement), agreement.cigenTable]
    assert [node.GetName() for node in made] == [
        "M + M consensus (majority)",
        "M + M disagreement",
        "M + M agreement",
    ]


def test_results_lie_beside_the_volume_in_the_hierarchy(observers, three, volumeNode, scene):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.CreateItem(study, volumeNode)
    agreement = observers.compare(three)
    made = [observers.consensus(agreement), observers.disagreementVolume(agreement)]
    for node in (*made, agreement.cigenTable, agreement.pairsTable):
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study
        assert node.GetNodeReference(VOLUME_ROLE) is volumeNode


def test_the_map_of_disagreement_shows_shares_of_pairs_and_hides_agreement(observers, three):
    node = observers.disagreementVolume(observers.compare(three))
    share = slicer.util.arrayFromVolume(node)
    assert sorted(set(share.ravel().tolist())) == pytest.approx([0, 2 / 3])
    display = node.GetDisplayNode()
    assert (display.GetWindow(), display.GetLevel()) == (1.0, 0.5)
    assert display.GetApplyThreshold()
    assert 0 < display.GetLowerThreshold() < 1 / 3
    assert display.GetColorNode() is not None


def test_comparing_again_fills_the_same_tables(observers, three):
    first = observers.compare(three)
    again = observers.compare(three)
    assert again.cigenTable is first.cigenTable
    assert again.pairsTable is first.pairsTable
    assert observers.compare(three[:2]).cigenTable is not first.cigenTable


def test_charts_show_the_tables(observers, three):
    agreement = observers.compare(three)
    bars, pairs = observers.plot(agreement), observers.plot(agreement, byPair=True)
    assert observers.plot(agreement) is bars
    series = bars.GetNthPlotSeriesNode(0)
    assert series.GetTableNode() is agreement.cigenTable
    assert series.GetYColumnName() == "cigen"
    series = pairs.GetNthPlotSeriesNode(0)
    assert series.GetTableNode() is agreement.pairsTable
    assert (series.GetYColumnName(), series.GetLabelColumnName()) == ("dsc", "pair")


def test_everything_is_saved_with_the_scene(observers, three, scene, tmp_path):
    agreement = observers.compare(three)
    observers.plot(agreement)
    observers.consensus(agreement)
    observers.disagreementVolume(agreement)
    csv = table_csv(agreement.cigenTable), table_csv(agreement.pairsTable)
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    scene.Clear()
    slicer.util.loadScene(path)
    tables = slicer.util.getNode("mouse 7 agreement"), slicer.util.getNode("mouse 7 agreement by pair")
    assert tuple(map(table_csv, tables)) == csv
    nodes = [slicer.util.getNode(name) for name in ("Ann", "Ben", "Chris")]
    again = observers.compare(nodes)
    assert again.rows[0]["cigen"] == 0.2
    assert again.cigenTable is tables[0]
    volume = slicer.util.getNode("mouse 7")
    consensus = slicer.util.getNode("mouse 7 consensus (majority)")
    assert np.array_equal(segmentation_from_node(consensus, volume).labels > 0, sum(HEARTS) >= 2)
    share = slicer.util.arrayFromVolume(slicer.util.getNode("mouse 7 disagreement"))
    assert np.array_equal(share > 0, _differing())


def test_tables_are_written_by_the_writer_of_measurements(thoraxLogic, three, tmp_path):
    agreement = thoraxLogic.observers.compare(three)
    path = tmp_path / "pairs.csv"
    thoraxLogic.observers.writeCsv(agreement.pairsTable, path)
    first = Path(path).read_text("utf-8").splitlines()[0]
    assert first.startswith("structure,a,b,dsc,iou,msd_mm,hd95_mm")
    assert thoraxLogic.observers.csvText(agreement.cigenTable) == table_csv(agreement.cigenTable)


def test_progress_is_told(observers, three):
    told = []
    observers.compare(three, progress=lambda fraction, message: told.append((fraction, message)))
    assert told[0] == (0.0, "Reading Ann")
    fractions = [fraction for fraction, _message in told]
    assert fractions == sorted(fractions)


# What cannot be compared


@pytest.mark.parametrize(
    ("choose", "expected"),
    [
        pytest.param(lambda nodes, scene: nodes[:1], "two observers or more, got 1", id="one node"),
        pytest.param(lambda nodes, scene: [], "two observers or more, got 0", id="no node"),
        pytest.param(lambda nodes, scene: [nodes[0], nodes[0]], "Ann is chosen twice", id="one node twice"),
        pytest.param(
            lambda nodes, scene: [nodes[0], None], "expected a segmentation, got nothing", id="nothing"
        ),
        pytest.param(
            lambda nodes, scene: [nodes[0], referenceVolume(nodes[0])],
            "mouse 7: expected a segmentation, got vtkMRMLScalarVolumeNode",
            id="a volume",
        ),
        pytest.param(
            lambda nodes, scene: [
                nodes[0],
                scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Dan"),
            ],
            "Dan: expected segments, got none",
            id="no segments",
        ),
    ],
)
def test_what_cannot_be_compared_is_told(observers, three, scene, choose, expected):
    tables = scene.GetNumberOfNodesByClass("vtkMRMLTableNode")
    with pytest.raises((InputError, OptionError), match=expected):
        observers.compare(choose(three, scene))
    assert scene.GetNumberOfNodesByClass("vtkMRMLTableNode") == tables


def test_a_node_that_was_deleted_is_told(observers, three, scene):
    scene.RemoveNode(three[2])
    with pytest.raises(InputError, match="Chris is not in the scene any more"):
        observers.compare(three)


def test_overlapping_segments_are_named(observers, three, volumeNode):
    source = contoured(volumeNode, "source", HEARTS[0], "left_lung").GetSegmentation()
    three[0].GetSegmentation().CopySegmentFromSegmentation(source, "left_lung")
    with pytest.raises(InputError, match=r"Ann.*'Heart' and 'Left lung' in 32 voxels"):
        observers.compare(three)


def test_a_volume_that_was_deleted_since_is_told(observers, three, volumeNode, scene):
    agreement = observers.compare(three)
    scene.RemoveNode(volumeNode)
    for make in (observers.consensus, observers.disagreementVolume):
        with pytest.raises(InputError, match=r"mouse 7 is not in the scene any more\. Compare again\."):
            make(agreement)


def test_a_volume_that_was_moved_since_is_told(observers, three, volumeNode):
    agreement = observers.compare(three)
    moved = grid_of(volumeNode).world.copy()
    moved[0, 3] += 5
    volumeNode.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(moved))
    for make in (observers.consensus, observers.disagreementVolume):
        with pytest.raises(InputError):
            make(agreement)


def test_the_nodes_that_are_compared_stay_as_they_were(observers, three, volumeNode):
    before = [segmentation_from_node(node, volumeNode).labels.copy() for node in three]
    times = [node.GetSegmentation().GetMTime() for node in three]
    agreement = observers.compare(three, resample=True)
    observers.consensus(agreement)
    assert [node.GetSegmentation().GetMTime() for node in three] == times
    for node, labels in zip(three, before, strict=True):
        assert np.array_equal(segmentation_from_node(node, volumeNode).labels, labels)
