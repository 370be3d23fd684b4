"""Sample data: registered once, phantoms drawn into the cache, the real mouse only when the user agrees."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import slicer
import vtk
from PIL import Image

from Testing import slicer_app
from thoraxseg.io import read_volume
from thoraxseg.mrml import volume_from_node
from ThoraxSegLib import SampleData as ours

BY_KEY = {sample.key: sample for sample in ours.SAMPLES}
PHANTOMS = [sample for sample in ours.SAMPLES if sample.key != "real-mouse-mri"]


class SourceStandIn:
    """Stand-in for SampleData.SampleDataSource: as strict about lengths."""

    def __init__(self, sampleName, uris, fileNames, nodeNames, thumbnailFileName, customDownloader) -> None:
        assert isinstance(uris, list) and len(uris) == len(fileNames) == len(nodeNames)
        self.sampleName, self.thumbnailFileName = sampleName, thumbnailFileName
        self.customDownloader = customDownloader


class LogicStandIn:
    """Stand-in for SampleData.SampleDataLogic of Slicer 5.10: it has no categories with titles."""

    @staticmethod
    def registerCustomSampleDataSource(category="Custom", **about):
        sources = slicer.modules.__dict__.setdefault("sampleDataSources", {})
        sources.setdefault(category, []).append(SourceStandIn(**about))


class LogicStandIn512(LogicStandIn):
    """The same of Slicer 5.12."""

    @staticmethod
    def registerCustomSampleDataCategory(category, title):
        slicer.modules.__dict__.setdefault("sampleDataSourceCategories", {})[category] = {"title": title}


@pytest.fixture(params=[LogicStandIn, LogicStandIn512], ids=["5.10", "5.12"])
def sampleModule(app, request, monkeypatch):
    module = types.ModuleType("SampleData")
    module.SampleDataLogic = request.param
    monkeypatch.setitem(sys.modules, "SampleData", module)
    yield request.param
    for name in ("sampleDataSources", "sampleDataSourceCategories"):
        vars(slicer.modules).pop(name, None)


@pytest.fixture
def cache(app, tmp_path):
    """An empty cache of remote files."""
    manager = slicer.mrmlScene.GetCacheManager()
    before = manager.GetRemoteCacheDirectory()
    manager.SetRemoteCacheDirectory(str(tmp_path / "cache"))
    yield tmp_path / "cache"
    manager.SetRemoteCacheDirectory(before)


def never(*_):
    pytest.fail("a phantom asks for nothing")


def test_both_modules_register_the_same_samples_once(sampleModule):
    ours.registerSampleData()
    ours.registerSampleData()
    sources = slicer.modules.sampleDataSources["ThoraxSeg"]
    assert [source.sampleName for source in sources] == [sample.name for sample in ours.SAMPLES]
    if sampleModule is LogicStandIn512:
        assert slicer.modules.sampleDataSourceCategories == {"ThoraxSeg": {"title": "ThoraxSeg"}}


def test_a_button_loads_its_sample(sampleModule, cache):
    ours.registerSampleData()
    source = next(s for s in slicer.modules.sampleDataSources["ThoraxSeg"] if "Human" in s.sampleName)
    source.customDownloader(source)
    assert slicer.util.getNode("HumanCTPhantom").GetImageData().GetDimensions() == (152, 116, 132)


@pytest.mark.parametrize("sample", PHANTOMS, ids=lambda sample: sample.key)
def test_a_phantom_is_drawn_into_the_cache_and_loaded(scene, cache, sliceViews, sample):
    node = ours.load(sample, never)
    drawn = sample.make(never)
    assert node.GetName() == sample.nodeName
    assert np.array_equal(slicer.util.arrayFromVolume(node), drawn.array)
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    assert np.allclose(slicer.util.arrayFromVTKMatrix(matrix), drawn.ijk_to_ras, atol=1e-9)
    assert [path.name for path in cache.glob("*.nrrd")] == [sample.file.name]
    assert sliceViews["Red"].GetBackgroundLayer().GetVolumeNode() is node


def test_a_phantom_is_drawn_once(scene, cache, monkeypatch):
    sample = BY_KEY["human-ct"]
    ours.load(sample, never)
    before = sample.file.stat().st_mtime_ns
    slicer_app.clear_scene()
    assert ours.load(sample, never) is not None
    assert sample.file.stat().st_mtime_ns == before


@pytest.fixture
def published(monkeypatch, tmp_path):
    """The published package, pretended: `installed` says whether it is here, `fetched` how often it was."""
    import tifffile

    from thoraxseg import checkpoints, demo

    state = types.SimpleNamespace(installed=False, fetched=0)
    stack = np.random.default_rng(0).integers(0, 255, (128, 128, 128), dtype=np.uint8)
    tifffile.imwrite(tmp_path / demo.REAL_SAMPLE, stack)
    state.stack = stack

    def install(name):
        assert name == "deepmeta-mouse-mri"
        state.fetched += 1
        state.installed = True

    monkeypatch.setattr(checkpoints, "install", install)
    monkeypatch.setattr(checkpoints, "is_installed", lambda card: state.installed)
    monkeypatch.setattr(demo, "sample_path", lambda card, name: tmp_path / name)
    return state


def test_the_real_mouse_is_not_fetched_when_the_user_declines(scene, cache, published):
    asked = []
    assert ours.load(BY_KEY["real-mouse-mri"], lambda title, text: asked.append(text)) is None
    assert published.fetched == 0 and not list(cache.glob("*.nrrd"))
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []
    assert len(asked) == 1
    for word in ("napari-deepmeta==2.1", "MIT", "6 MB", "Nothing is uploaded"):
        assert word in asked[0]


def test_the_real_mouse_is_fetched_once_and_lies_where_its_card_says(scene, cache, published):
    asked = []

    def agrees(title, text):
        asked.append(text)
        return True

    sample = BY_KEY["real-mouse-mri"]
    node = ours.load(sample, agrees)
    assert published.fetched == 1 and len(asked) == 1
    assert np.array_equal(slicer.util.arrayFromVolume(node), published.stack)
    kept = read_volume(sample.file)
    assert kept.axis_codes == "RIA" and np.allclose(kept.spacing_mm, (0.15625, 0.1953125, 0.15625))
    slicer_app.clear_scene()
    assert ours.load(sample, never) is not None
    assert published.fetched == 1


def test_the_real_mouse_says_that_its_geometry_was_assumed_and_a_phantom_does_not(scene, cache, published):
    published.installed = True
    for _time in ("written", "from the cache"):
        mouse = volume_from_node(ours.load(BY_KEY["real-mouse-mri"], never))
        assert mouse.geometry_assumed and "assumed" in mouse.notes[0]
    phantom = volume_from_node(ours.load(BY_KEY["mouse-mri"], never))
    assert not phantom.geometry_assumed and phantom.notes == ()


def test_an_installed_mouse_is_loaded_without_a_question(scene, cache, published):
    published.installed = True
    assert ours.load(BY_KEY["real-mouse-mri"], never) is not None
    assert published.fetched == 0


def test_in_testing_mode_the_button_of_the_real_mouse_fetches_nothing(
    sampleModule, cache, published, monkeypatch
):
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, windowTitle: False)
    ours.registerSampleData()
    source = slicer.modules.sampleDataSources["ThoraxSeg"][-1]
    source.customDownloader(source)
    assert published.fetched == 0


@pytest.mark.parametrize("sample", ours.SAMPLES, ids=lambda sample: sample.key)
def test_every_sample_has_a_picture_of_its_own(sample):
    with Image.open(sample.thumbnail) as picture:
        assert picture.size == (260, 280) and picture.format == "PNG"
        assert np.asarray(picture.convert("L")).std() > 20
    assert len({one.thumbnail.read_bytes() for one in ours.SAMPLES}) == len(ours.SAMPLES)
