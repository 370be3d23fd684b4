"""Review: what the views show, where doubt is, correcting beside locked neighbors, verdicts and what is out of date."""

from __future__ import annotations

import json

import numpy as np
import pytest
import slicer

from Testing.made_results import TURNED, edit, put_result, put_under, volume_node
from Testing.painted import painted_thorax
from thoraxseg.errors import InputError, OptionError
from thoraxseg.measure import doubt_profile, doubtful_slices, slice_positions
from thoraxseg.mrml import uncertainty_to_node, volume_from_node
from thoraxseg.mrml.tables import table_rows
from thoraxseg.mrml.views import nodes_of
from thoraxseg.mrml.volumes import array_of
from thoraxseg.segmentation import Segmentation
from ThoraxSegLib import Nodes
from ThoraxSegLib.Review import Verdict
from ThoraxSegLib.Runs import isWorkedOn

RECORD = {"uncertainty": {"kind": "entropy", "unit": "nat", "range": [0, 1.0]}}


@pytest.fixture(scope="module")
def phantom():
    """A thorax in voxels that are different along each axis."""
    return painted_thorax(spacing_mm=(1.0, 0.5, 0.75), axis_codes="ASR")


@pytest.fixture(scope="module")
def doubt(phantom):
    """A little doubt everywhere, much at three places of the right lung and one of the heart."""
    values = np.full(phantom.volume.shape, 0.02, np.float32)
    for key, share, amount in (("right_lung", 0.3, 0.9), ("right_lung", 0.7, 0.6), ("heart", 0.5, 0.4)):
        kji = np.argwhere(phantom.truth.mask(key))
        k = int(np.quantile(kji[:, 0], share))
        j, i = np.median(kji[kji[:, 0] == k][:, 1:], axis=0).astype(int)
        values[k, j - 1 : j + 2, i - 1 : i + 2] = amount
    return values


@pytest.fixture
def resultOf(phantom, doubt):
    """Put the true contours with doubt over a volume."""

    def make(node, withDoubt=True, labels=phantom.truth.labels):
        return put_result(
            node, labels, phantom.truth.structures, "mouse-thorax", doubt if withDoubt else None, RECORD
        )

    return make


@pytest.fixture
def result(plain, resultOf):
    return resultOf(plain)


def truth_on(volumeNode, phantom) -> Segmentation:
    return Segmentation(
        phantom.truth.labels, volume_from_node(volumeNode).ijk_to_ras, phantom.truth.structures
    )


def composites() -> list:
    return nodes_of(slicer.mrmlScene, "vtkMRMLSliceCompositeNode")


def toRas(sliceNode) -> np.ndarray:
    return slicer.util.arrayFromVTKMatrix(sliceNode.GetSliceToRAS())


def legendOf(node):
    return slicer.modules.colors.logic().GetColorLegendDisplayNode(node)


# Looking


def test_volume_and_doubt_are_shown_in_all_slice_views(thoraxLogic, sliceViews, plain, result):
    thoraxLogic.review.show(result)
    doubt = Nodes.uncertaintyOf(result)
    assert len(composites()) == 3
    for composite in composites():
        assert composite.GetBackgroundVolumeID() == plain.GetID()
        assert composite.GetForegroundVolumeID() == doubt.GetID()
        assert 0 < composite.GetForegroundOpacity() < 1
    assert result.GetDisplayNode().GetVisibility()
    legend = legendOf(doubt)
    assert legend.GetVisibility() and legend.GetTitleText() == "Doubt (nat)"
    assert legend.GetPrimaryDisplayNode() is doubt.GetDisplayNode()
    thoraxLogic.review.show(result)
    assert slicer.modules.colors.logic().GetNumberOfColorLegendDisplayNodes(doubt) == 1


def test_slice_views_turn_to_the_planes_of_the_volume_and_hold_all_of_it(
    thoraxLogic, sliceViews, volumeNode, resultOf
):
    thoraxLogic.review.show(resultOf(volumeNode))
    world = volume_from_node(volumeNode).ijk_to_ras
    axes = world[:3, :3] / np.linalg.norm(world[:3, :3], axis=0)
    ends = [n - 1 for n in volume_from_node(volumeNode).shape[::-1]]
    corners = [world @ [*(e * b for e, b in zip(ends, np.unravel_index(n, (2, 2, 2)), strict=True)), 1]
               for n in range(8)]  # fmt: skip
    for logic in sliceViews.values():
        node = logic.GetSliceNode()
        assert np.abs(axes.T @ toRas(node)[:3, 2]).max() == pytest.approx(1, abs=1e-6)
        width, height, _ = node.GetFieldOfView()
        assert min(width, height) < 1.1 * np.linalg.norm(corners[0] - corners[-1]), (
            "not a spot in the distance"
        )
        for corner in corners:
            x, y, _, _ = np.linalg.solve(toRas(node), corner)
            assert abs(x) <= width / 2 + 0.5 and abs(y) <= height / 2 + 0.5


def test_a_result_without_doubt_is_shown_without_overlay(thoraxLogic, sliceViews, plain, resultOf):
    node = resultOf(plain, withDoubt=False)
    thoraxLogic.review.show(node)
    assert [one.GetForegroundVolumeID() for one in composites()] == [None] * 3
    assert not thoraxLogic.review.isUncertaintyVisible(node)
    for use in (
        lambda: thoraxLogic.review.setUncertaintyVisible(node, True),
        lambda: thoraxLogic.review.setUncertaintyOpacity(node, 0.5),
        lambda: thoraxLogic.review.profile(node),
        lambda: thoraxLogic.review.plotProfile(node),
        lambda: thoraxLogic.review.nextDoubtfulSlice(node),
    ):
        with pytest.raises(InputError, match="there is no map of doubt"):
            use()


def test_showing_works_without_views_and_refuses_what_is_no_segmentation(thoraxLogic, scene, plain, result):
    thoraxLogic.review.show(result)
    for wrong in (None, plain):
        with pytest.raises(InputError, match="Choose a segmentation"):
            thoraxLogic.review.show(wrong)
    scene.RemoveNode(plain)
    with pytest.raises(InputError, match="the volume it was made from is not in the scene"):
        thoraxLogic.review.show(result)


def test_doubt_is_hidden_shown_and_made_opaque_with_its_legend(thoraxLogic, sliceViews, result):
    review, doubt = thoraxLogic.review, Nodes.uncertaintyOf(result)
    review.show(result)
    review.setUncertaintyOpacity(result, 0.25)
    assert {one.GetForegroundOpacity() for one in composites()} == {0.25}
    review.setUncertaintyVisible(result, False)
    assert not review.isUncertaintyVisible(result)
    assert {one.GetForegroundOpacity() for one in composites()} == {0.0} and not legendOf(
        doubt
    ).GetVisibility()
    review.setUncertaintyOpacity(result, 0.75)
    review.show(result)
    assert {one.GetForegroundOpacity() for one in composites()} == {0.0}, "hidden stays hidden"
    review.setUncertaintyVisible(result, True)
    assert {one.GetForegroundOpacity() for one in composites()} == {0.75} and legendOf(doubt).GetVisibility()
    assert review.uncertaintyOpacity(result) == 0.75
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(OptionError, match="opacity from 0 to 1"):
            review.setUncertaintyOpacity(result, wrong)


# Doubt along the slices


def test_the_profile_is_that_of_the_engine_along_the_slices_as_acquired(
    thoraxLogic, volumeNode, phantom, doubt, resultOf
):
    node = resultOf(volumeNode)
    found = thoraxLogic.review.profile(node)
    truth = truth_on(volumeNode, phantom)
    assert found.values == pytest.approx(doubt_profile(truth, doubt))
    assert thoraxLogic.review.profile(node, "heart").values == pytest.approx(
        doubt_profile(truth, doubt, "heart")
    )
    assert found.sliceAxisName == f"{slice_positions(truth.ijk_to_ras, 1)[0]} (mm)"
    assert np.abs(np.diff(found.positionsMm)) == pytest.approx([1.0] * (len(doubt) - 1))


def test_positions_of_a_straight_stack_are_those_of_the_patient(thoraxLogic, plain, result):
    world = volume_from_node(plain).ijk_to_ras
    found = thoraxLogic.review.profile(result)
    assert found.sliceAxisName == "right (mm)"
    assert found.positionsMm == pytest.approx([(world @ [0, 0, k, 1])[0] for k in range(len(found.values))])


def test_the_profile_follows_a_correction_by_hand(thoraxLogic, plain, result):
    before = thoraxLogic.review.profile(result, "heart").values.sum()
    edit(result, "heart", lambda mask: mask.__setitem__(slice(None), 0), plain)
    assert before > 0 == thoraxLogic.review.profile(result, "heart").values.sum()


def test_an_unknown_segment_is_refused(thoraxLogic, result):
    for use in (thoraxLogic.review.profile, thoraxLogic.review.nextDoubtfulSlice):
        with pytest.raises(InputError, match=r"no segment 'liver'\. Choose one of heart, spinal_cord"):
            use(result, "liver")


def test_doubt_of_another_grid_is_refused(thoraxLogic, result):
    matrix = slicer.util.vtkMatrixFromArray(TURNED)
    Nodes.uncertaintyOf(result).SetIJKToRASMatrix(matrix)
    with pytest.raises(InputError, match="expected voxels exactly on those of the volume"):
        thoraxLogic.review.profile(result)


def test_the_profile_is_plotted_from_a_table_one_line_a_structure(thoraxLogic, plain, result, doubt, phantom):
    chart = thoraxLogic.review.plotProfile(result)
    series = [chart.GetNthPlotSeriesNode(n) for n in range(chart.GetNumberOfPlotSeriesNodes())]
    assert [one.GetName() for one in series] == ["All", "Heart", "Spinal cord", "Right lung", "Left lung"]
    assert series[1].GetColor() == pytest.approx(result.GetSegmentation().GetSegment("heart").GetColor())
    rows = table_rows(series[0].GetTableNode())
    assert [row["all"] for row in rows] == pytest.approx(
        doubt_profile(truth_on(plain, phantom), doubt).tolist()
    )
    assert [row["position_mm"] for row in rows] == pytest.approx(
        thoraxLogic.review.profile(result).positionsMm
    )
    assert (chart.GetXAxisTitle(), chart.GetYAxisTitle()) == ("right (mm)", "Sum of doubt (nat)")
    edit(result, "heart", lambda mask: mask.__setitem__(slice(None), 0), plain)
    assert thoraxLogic.review.plotProfile(result) is chart
    assert sum(row["heart"] for row in table_rows(series[0].GetTableNode())) == 0
    assert len(nodes_of(slicer.mrmlScene, "vtkMRMLPlotSeriesNode")) == 5


# From doubt to doubt


def test_next_goes_from_the_most_doubtful_slice_on_and_round(
    thoraxLogic, sliceViews, volumeNode, phantom, doubt, resultOf
):
    node = resultOf(volumeNode)
    thoraxLogic.review.show(node)
    truth = truth_on(volumeNode, phantom)
    expected = doubtful_slices(truth, doubt)
    found = [thoraxLogic.review.nextDoubtfulSlice(node) for _ in range(len(expected) + 1)]
    assert [(one.k, one.key) for one in found[:-1]] == [(one.k, one.key) for one in expected]
    assert (found[0].key, found[0].number, found[0].count) == ("right_lung", 1, len(expected))
    assert found[0].doubt == pytest.approx(expected[0].doubt)
    assert found[1].number == 2 and found[-1] == found[0]


def test_all_slice_views_go_to_the_doubtful_place(thoraxLogic, sliceViews, volumeNode, doubt, resultOf):
    node = resultOf(volumeNode)
    thoraxLogic.review.show(node)
    found = thoraxLogic.review.nextDoubtfulSlice(node)
    world = volume_from_node(volumeNode).ijk_to_ras
    i, j, k, _ = np.linalg.solve(world, [*found.positionRas, 1])
    assert k == pytest.approx(found.k)
    assert doubt[round(k), round(j), round(i)] == pytest.approx(0.9)
    for logic in sliceViews.values():
        assert np.linalg.solve(toRas(logic.GetSliceNode()), [*found.positionRas, 1])[2] == pytest.approx(
            0, abs=1e-6
        )


def test_a_round_is_not_shuffled_by_edits_and_the_next_one_sees_them(thoraxLogic, plain, result):
    review = thoraxLogic.review
    first = review.nextDoubtfulSlice(result)
    edit(result, first.key, lambda mask: mask.__setitem__(slice(None), 0), plain)
    second = review.nextDoubtfulSlice(result)
    assert (second.number, second.count) == (2, first.count)
    while (one := review.nextDoubtfulSlice(result)).number > 1:
        pass
    assert one.key != first.key and one.count < first.count


def test_another_map_of_doubt_begins_a_new_round(thoraxLogic, plain, phantom, result):
    thoraxLogic.review.nextDoubtfulSlice(result)
    other = np.zeros(phantom.volume.shape, np.float32)
    k, j, i = np.argwhere(phantom.truth.mask("heart"))[0]
    other[k, j, i] = 1
    node = uncertainty_to_node(other, plain, 1.0)
    result.SetNodeReferenceID(Nodes.UNCERTAINTY_ROLE, node.GetID())
    found = thoraxLogic.review.nextDoubtfulSlice(result, None)
    assert (found.k, found.key, found.number) == (k, "heart", 1)


def test_a_scene_that_is_opened_later_begins_a_new_round(thoraxLogic, scene, phantom, resultOf):
    first = resultOf(volume_node(scene, phantom.volume, "mouse 7"))
    key, found = first.GetID(), thoraxLogic.review.nextDoubtfulSlice(first)
    scene.Clear(False)
    labels = np.where(phantom.truth.labels == 1, 1, 0)  # the heart alone
    second = resultOf(volume_node(scene, phantom.volume, "mouse 8"), labels=labels)
    assert second.GetID() == key, "or this tests nothing"
    other = thoraxLogic.review.nextDoubtfulSlice(second)
    assert found.key == "right_lung"
    assert (other.key, other.number) == ("heart", 1)


def test_one_segment_has_a_round_of_its_own(thoraxLogic, result):
    heart = thoraxLogic.review.nextDoubtfulSlice(result, "heart")
    assert heart.key == "heart" and heart.number == 1
    assert thoraxLogic.review.nextDoubtfulSlice(result).number == 1


def test_without_doubt_in_the_contours_there_is_nothing_to_go_to(thoraxLogic, plain, phantom, resultOf):
    node = resultOf(plain, labels=np.zeros_like(phantom.truth.labels))
    with pytest.raises(InputError, match="there is no slice to look at"):
        thoraxLogic.review.nextDoubtfulSlice(node)


# Correcting


@pytest.fixture
def editor(scene, plain, result):
    """Slicer's segment editor without its widget: `paint(segmentID, box)` paints a box of voxels."""
    logic, node = slicer.vtkSlicerSegmentEditorLogic(), scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    logic.SetMRMLScene(scene)
    logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
    logic.SetSegmentEditorNode(node)
    logic.SetSegmentationNode(result)
    logic.SetSourceVolumeNode(plain)
    logic.UpdateReferenceGeometryImage()

    def paint(segmentID, box, mode="Add"):
        node.SetSelectedSegmentID(segmentID)
        logic.SetCurrentSegmentID(segmentID)
        logic.UpdateMaskLabelmap()
        logic.ResetModifierLabelmapToDefault()
        modifier = logic.GetModifierLabelmap()
        array_of(modifier)[box] = 1
        modifier.Modified()
        modes = slicer.vtkSlicerSegmentEditorLogic
        mode = getattr(modes, f"ModificationMode{mode}")
        isPerSegment = bypassesMask = False
        logic.ModifySegmentByLabelmap(result, segmentID, modifier, mode, isPerSegment, bypassesMask)

    paint.node, paint.logic = node, logic
    yield paint
    logic.SetMRMLScene(None)


def voxels(result, plain) -> dict:
    keys = result.GetSegmentation().GetSegmentIDs()
    return {key: slicer.util.arrayFromSegmentBinaryLabelmap(result, key, plain) > 0 for key in keys}


def test_painting_over_locked_neighbors_takes_nothing_from_them_and_overlaps_nothing(
    thoraxLogic, editor, plain, result
):
    before = voxels(result, plain)
    thoraxLogic.review.lockNeighbors(editor.node)
    editor("heart", (slice(None), slice(None), slice(None)))
    after = voxels(result, plain)
    for key in ("spinal_cord", "right_lung", "left_lung"):
        np.testing.assert_array_equal(after[key], before[key])
    others = before["spinal_cord"] | before["right_lung"] | before["left_lung"]
    np.testing.assert_array_equal(after["heart"], ~others)


def test_the_chosen_segment_itself_can_be_erased_beside_locked_neighbors(thoraxLogic, editor, plain, result):
    thoraxLogic.review.lockNeighbors(editor.node)
    editor("heart", (slice(None), slice(None), slice(None)), "Remove")
    assert not voxels(result, plain)["heart"].any()


def test_unlocking_gives_back_what_was_set_and_twice_is_as_good_as_once(thoraxLogic, editor, plain, result):
    node, kind = editor.node, slicer.vtkMRMLSegmentationNode
    node.SetMaskMode(kind.EditAllowedInsideVisibleSegments)
    node.SetOverwriteMode(node.OverwriteVisibleSegments)
    thoraxLogic.review.lockNeighbors(node)
    thoraxLogic.review.lockNeighbors(node)
    assert (node.GetMaskMode(), node.GetOverwriteMode()) == (
        kind.EditAllowedOutsideAllSegments,
        node.OverwriteNone,
    )
    for _ in range(2):
        thoraxLogic.review.lockNeighbors(node, isLocked=False)
        assert (node.GetMaskMode(), node.GetOverwriteMode()) == (
            kind.EditAllowedInsideVisibleSegments,
            node.OverwriteVisibleSegments,
        )
    node.SetMaskMode(kind.EditAllowedEverywhere)
    node.SetOverwriteMode(node.OverwriteAllSegments)
    before = voxels(result, plain)
    editor("heart", (slice(None), slice(None), slice(None)))
    assert before["right_lung"].any() and not voxels(result, plain)["right_lung"].any(), "not locked any more"


# Judging


@pytest.mark.parametrize(
    ("verdict", "status"),
    [("ACCEPTED", "Completed"), ("NEEDS_WORK", "InProgress"), ("REJECTED", "Flagged")],
)
def test_a_verdict_is_noted_shows_as_segment_status_and_is_saved_with_the_scene(
    thoraxLogic, result, tmp_path, verdict, status
):
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert thoraxLogic.review.verdict(result) is Verdict.NONE
    thoraxLogic.review.setVerdict(result, Verdict[verdict])
    assert thoraxLogic.review.verdict(result) is Verdict[verdict] and isWorkedOn(result)
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(False)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    back = slicer.util.getNode("mouse 7 segmentation")
    assert thoraxLogic.review.verdict(back) is Verdict[verdict]
    segments = back.GetSegmentation()
    for n in range(segments.GetNumberOfSegments()):
        assert logic.GetSegmentStatus(segments.GetNthSegment(n)) == getattr(logic, status)
    assert thoraxLogic.review.staleness(back) == ""


def test_a_verdict_can_be_taken_back(thoraxLogic, result):
    thoraxLogic.review.setVerdict(result, Verdict.REJECTED)
    thoraxLogic.review.setVerdict(result, Verdict.NONE)
    assert thoraxLogic.review.verdict(result) is Verdict.NONE and not isWorkedOn(result)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.GetSegmentStatus(result.GetSegmentation().GetNthSegment(0)) == logic.NotStarted
    result.SetAttribute(Nodes.VERDICT_ATTRIBUTE, "SUPERB")
    assert thoraxLogic.review.verdict(result) is Verdict.NONE, "a word of another version is none of ours"


def test_every_verdict_has_a_word_for_people():
    assert [one.label() for one in Verdict] == ["Not judged", "Accepted", "Needs work", "Rejected"]


def test_the_open_ledger_is_told_of_the_verdict_and_none_is_made_for_it(thoraxLogic, result):
    thoraxLogic.review.setVerdict(result, Verdict.ACCEPTED)
    assert "time" not in thoraxLogic.__dict__
    told = []

    class Ledger:
        volumes = (Nodes.volumeOf(result),)

        def verdict(self, verdict, segmentationNode):
            told.append((verdict, segmentationNode))

        def isFor(self, volumeNode):
            return volumeNode in self.volumes

        def close(self):
            """Nothing is open."""

    thoraxLogic.__dict__["time"] = Ledger()
    thoraxLogic.review.setVerdict(result, Verdict.NEEDS_WORK)
    Ledger.volumes = ()  # none is open, or one for another animal
    thoraxLogic.review.setVerdict(result, Verdict.REJECTED)
    assert told == [(Verdict.NEEDS_WORK, result)]


def test_a_verdict_on_one_animal_is_none_on_the_animal_whose_clock_runs(
    thoraxLogic, toNode, paintedThorax, result
):
    thoraxLogic.time.open(toNode(paintedThorax.volume, "another mouse"), "Ann")
    thoraxLogic.review.setVerdict(result, Verdict.REJECTED)
    assert [row["verdict"] for row in thoraxLogic.time.rows()] != ["rejected"]
    thoraxLogic.time.open(result, "Ann")
    thoraxLogic.review.setVerdict(result, Verdict.REJECTED)
    verdicts = {row["scan"]: row["verdict"] for row in thoraxLogic.time.rows()}
    assert [scan for scan, verdict in verdicts.items() if verdict == "rejected"] == [
        Nodes.volumeOf(result).GetName()
    ]


def test_contours_changed_after_the_verdict_are_to_be_judged_again(thoraxLogic, plain, result):
    thoraxLogic.review.setVerdict(result, Verdict.ACCEPTED)
    assert thoraxLogic.review.staleness(result) == ""
    edit(result, "heart", lambda mask: mask.__setitem__((0, 0, 0), 1), plain)
    assert thoraxLogic.review.staleness(result) == (
        "The contours were changed after the verdict (accepted): judge them again."
    )
    thoraxLogic.review.setVerdict(result, Verdict.NONE)
    assert thoraxLogic.review.staleness(result) == ""


# What is out of date


def moved(volumeNode):
    volumeNode.SetOrigin(1, 2, 3)


def brighter(volumeNode):
    slicer.util.arrayFromVolume(volumeNode)[0, 0, 0] += 1
    slicer.util.arrayFromVolumeModified(volumeNode)


def transformed(volumeNode):
    put_under(TURNED, volumeNode)


@pytest.mark.parametrize("change", [moved, brighter, transformed])
def test_a_result_whose_volume_was_changed_is_stale(thoraxLogic, plain, result, change):
    assert thoraxLogic.review.staleness(result) == ""
    plain.SetName("renamed")
    plain.GetDisplayNode().SetWindow(5)
    assert thoraxLogic.review.staleness(result) == "", "neither name nor display make a result stale"
    change(plain)
    assert thoraxLogic.review.staleness(result).startswith("renamed was changed after it was contoured")


def test_a_result_whose_volume_is_gone_or_warped_is_stale(thoraxLogic, scene, plain, result):
    warp = scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "warp")
    plain.SetAndObserveTransformNodeID(warp.GetID())
    assert "linear" in thoraxLogic.review.staleness(result)
    scene.RemoveNode(plain)
    assert "not in the scene any more" in thoraxLogic.review.staleness(result)


def test_all_that_is_stale_is_said_together(thoraxLogic, plain, result):
    thoraxLogic.measurements.measure(result)
    thoraxLogic.review.setVerdict(result, Verdict.ACCEPTED)
    edit(result, "heart", lambda mask: mask.__setitem__((0, 0, 0), 1), plain)
    brighter(plain)
    said = thoraxLogic.review.staleness(result)
    assert [word in said for word in ("contour it again", "judge them again", "measure again")] == [True] * 3


def test_contours_drawn_by_hand_are_never_stale(thoraxLogic, scene, plain):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "by hand")
    node.SetReferenceImageGeometryParameterFromVolumeNode(plain)
    brighter(plain)
    assert thoraxLogic.review.staleness(node) == ""


def test_profile_and_opacity_are_saved_with_the_scene(thoraxLogic, sliceViews, result, tmp_path):
    review = thoraxLogic.review
    review.show(result)
    review.setUncertaintyOpacity(result, 0.3)
    review.plotProfile(result)
    values = review.profile(result).values
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(False)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    back = slicer.util.getNode("mouse 7 segmentation")
    assert review.profile(back).values == pytest.approx(values)
    assert review.uncertaintyOpacity(back) == 0.3
    review.plotProfile(back)
    assert len(nodes_of(slicer.mrmlScene, "vtkMRMLPlotChartNode")) == 1
    assert len(nodes_of(slicer.mrmlScene, "vtkMRMLPlotSeriesNode")) == 5
    assert len(nodes_of(slicer.mrmlScene, "vtkMRMLTableNode")) == 1
    assert json.loads(back.GetNodeReference(Nodes.RECORD_ROLE).GetText()) == RECORD
