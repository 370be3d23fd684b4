"""The stand-in application: what it claims to be real is, and the scene of one test never reaches another."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk

from Testing import slicer_app
from thoraxseg.mrml import segmentation_to_node


def test_an_application_is_made_once_in_a_process(app):
    assert slicer_app.start() is app
    assert app.mrmlScene is slicer.mrmlScene
    assert app.applicationLogic().GetMRMLScene() is slicer.mrmlScene


@pytest.mark.parametrize("name", slicer_app.MODULE_LOGICS)
def test_every_module_logic_is_the_real_one_and_knows_the_scene(app, name):
    logic = getattr(slicer.modules, name.lower()).logic()
    assert logic.GetClassName() == slicer_app.MODULE_LOGICS[name]
    assert logic.GetMRMLScene() is slicer.mrmlScene
    assert app.applicationLogic().GetModuleLogic(name) is logic


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz", ".mha"])
def test_an_image_comes_back_from_a_file_as_it_was(scene, mouse, tmp_path, paintedThorax, ending):
    path = tmp_path / f"mouse{ending}"
    assert slicer.util.exportNode(mouse, str(path))
    back = slicer.util.loadVolume(str(path))
    assert np.array_equal(slicer.util.arrayFromVolume(back), paintedThorax.volume.array)
    matrices = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    back.GetIJKToRASMatrix(matrices[0])
    mouse.GetIJKToRASMatrix(matrices[1])
    assert np.allclose(*map(slicer.util.arrayFromVTKMatrix, matrices), atol=1e-6)


def test_segments_come_back_from_a_file_with_color_and_code(scene, mouse, tmp_path, paintedThorax):
    node = segmentation_to_node(paintedThorax.truth, mouse, scene)
    path = tmp_path / "organs.seg.nrrd"
    assert slicer.util.saveNode(node, str(path))
    back = slicer.util.loadSegmentation(str(path))
    for n in range(node.GetSegmentation().GetNumberOfSegments()):
        segment = node.GetSegmentation().GetNthSegment(n)
        again = back.GetSegmentation().GetNthSegment(n)
        assert (again.GetName(), again.GetColor()) == (segment.GetName(), segment.GetColor())
        assert again.GetTerminology() == segment.GetTerminology() != ""


@pytest.mark.parametrize("name", ["scene.mrb", "scene.mrml"])
def test_a_scene_comes_back_from_a_file(scene, mouse, tmp_path, name, paintedThorax):
    segmentation_to_node(paintedThorax.truth, mouse, scene).SetName("organs")
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", "volumes")
    slicer.util.updateTableFromArray(table, np.arange(4.0), "mm3")
    if name == "scene.mrml":  # a scene file refers to data files, which have to be there
        for node, ending in ((mouse, ".nrrd"), (slicer.util.getNode("organs"), ".seg.nrrd"), (table, ".tsv")):
            assert slicer.util.saveNode(node, str(tmp_path / (node.GetName() + ending)))
    assert slicer.util.saveScene(str(tmp_path / name))
    slicer_app.clear_scene()
    assert scene.GetNodesByName("mouse").GetNumberOfItems() == 0
    slicer.util.loadScene(str(tmp_path / name))
    assert np.array_equal(
        slicer.util.arrayFromVolume(slicer.util.getNode("mouse")), paintedThorax.volume.array
    )
    heart = slicer.util.arrayFromSegmentBinaryLabelmap(
        slicer.util.getNode("organs"), "heart", slicer.util.getNode("mouse")
    )
    assert heart.sum() == (paintedThorax.truth.labels == 1).sum()
    assert slicer.util.arrayFromTableColumn(slicer.util.getNode("volumes"), "mm3").tolist() == [0, 1, 2, 3]


def test_a_file_that_cannot_be_read_is_refused(scene, tmp_path, vtkMessages):
    vtkMessages.expect("")
    (tmp_path / "broken.nrrd").write_text("not an image", encoding="utf-8")
    with pytest.raises(RuntimeError, match="broken"):
        slicer.util.loadVolume(str(tmp_path / "broken.nrrd"))


def test_the_codes_of_our_structures_are_known_to_the_terminologies(app):
    logic = slicer.modules.terminologies.logic()
    names = vtk.vtkStringArray()
    logic.GetLoadedTerminologyNames(names)
    loaded = {names.GetValue(n) for n in range(names.GetNumberOfValues())}
    assert "Segmentation category and type - 3D Slicer General Anatomy list" in loaded
    entry = slicer.vtkSlicerTerminologyEntry()
    text = (
        "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure~"
    )
    text += "SCT^80891009^Heart~^^~Anatomic codes - DICOM master list~^^~^^"
    assert logic.DeserializeTerminologyEntry(text, entry)
    assert entry.GetTypeObject().GetCodeMeaning() == "Heart"


def test_a_scene_is_filled(scene, mouse):
    from Testing.slicer_app import ScriptedLoadableModuleLogic

    ScriptedLoadableModuleLogic().getParameterNode().SetParameter("left", "over")
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")


def test_and_the_next_test_finds_it_empty(scene):
    for kind in ("vtkMRMLDisplayableNode", "vtkMRMLScriptedModuleNode", "vtkMRMLTableNode"):
        assert [n.GetName() for n in slicer.util.getNodesByClass(kind) if not n.GetSingletonTag()] == []
    assert scene.GetNumberOfUndoLevels() == 0


def test_slice_views_show_a_volume_and_go_with_the_test(scene, mouse, sliceViews):
    slicer.util.setSliceViewerLayers(background=mouse)
    for name, logic in sliceViews.items():
        assert logic.GetBackgroundLayer().GetVolumeNode() is mouse, name
    slicer.modules.markups.logic().JumpSlicesToLocation(1.0, -2.0, 3.0, True)
    assert sliceViews["Red"].GetSliceNode().GetSliceOffset() == pytest.approx(3.0)


def test_what_is_connected_to_the_start_is_called_once(app):
    called = []
    app.connect("startupCompleted()", lambda: called.append(1))
    app.finish_startup()
    app.finish_startup()
    assert called == [1]


def test_a_complaint_of_vtk_is_heard(app, vtkMessages):
    vtk.vtkOutputWindow.GetInstance().DisplayErrorText("made up for a test")
    assert vtkMessages.unexpected() == ["made up for a test"]
    vtkMessages.expect("made up")
