"""What tests of the Slicer side may use: an application with an empty scene, a painted mouse, a home with models."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from Testing import painted, slicer_app
from Testing.made_results import TURNED, volume_node

if find_spec("slicer") is not None:
    import slicer

    slicer_app.publish_base_classes()  # test files may import ThoraxSegLib at their top
else:

    def pytest_pycollect_makemodule(module_path, parent):
        """Skip the whole folder, whichever of its files is asked for."""
        pytest.skip("needs slicer-core or 3D Slicer", allow_module_level=True)


@pytest.fixture(autouse=True)
def vtkMessages():
    """What VTK complained about; the test fails for what it did not `expect(text)`."""
    messages = slicer_app.Messages()
    messages.expect(
        "FileGenericColors"
    )  # from arrays to segments Slicer asks for colors that the wheel lacks
    end = slicer_app.listen_to_vtk(messages)
    yield messages
    end()
    assert not messages.unexpected(), "VTK complained:\n" + "\n".join(messages.unexpected())


@pytest.fixture
def app(vtkMessages):
    """The application with an empty scene, as `slicer.app`."""
    application = slicer_app.start()
    slicer_app.clear_scene()
    yield application
    application.is_testing = True
    application.layout_manager = None
    application.forget_startup()
    slicer_app.clear_scene()


@pytest.fixture
def scene(app):
    """The empty scene of the application."""
    return slicer.mrmlScene


@pytest.fixture
def sliceViews(app):
    """The slice views Red, Green and Yellow, real but for a window: `{name: vtkMRMLSliceLogic}`."""
    logics = slicer_app.add_slice_views()
    yield logics
    slicer_app.remove_slice_views(logics)


@pytest.fixture(scope="session")
def paintedThorax():
    """A painted mouse thorax (a Phantom): heart 1, spinal cord 2, right lung 3, left lung 4."""
    return painted.painted_thorax()


@pytest.fixture(scope="session")
def paintedLungTumor():
    """A painted mouse with lung tumors (a Phantom): lungs 1, tumors 2."""
    return painted.painted_lung_tumor()


@pytest.fixture
def toNode(scene):
    """Put a `thoraxseg.volume.Volume` into the scene and return its volume node."""

    return lambda volume, name=None: volume_node(scene, volume, name or volume.name)


@pytest.fixture
def plain(scene, phantom):
    """The phantom of the test's file as a volume node, as it is."""
    return volume_node(scene, phantom.volume, "mouse 7")


PARENTS = {"no parent": None, "turned": TURNED, "mirrored": np.diag([-1.0, 1, 1, 1])}


@pytest.fixture(params=PARENTS.values(), ids=PARENTS)
def volumeNode(scene, phantom, request):
    """The phantom of the test's file, oblique, under each of some parent transforms."""
    return volume_node(scene, phantom.volume, "mouse ø 7", turned=True, parent=request.param)


@pytest.fixture
def mouse(toNode, paintedThorax):
    """The painted thorax as a volume node named "mouse"."""
    return toNode(paintedThorax.volume, "mouse")


@pytest.fixture
def tumorMouse(toNode, paintedLungTumor):
    """The painted mouse with lung tumors as a volume node named "tumor mouse"."""
    return toNode(paintedLungTumor.volume, "tumor mouse")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """THORAXSEG_HOME in a temporary folder, with "painted-thorax" and "painted-lung-tumor" installed."""
    folder = tmp_path / "thoraxseg-home"
    for task in painted.NAMES:
        painted.painted_checkpoint(folder / "checkpoints", task)
    monkeypatch.setenv("THORAXSEG_HOME", str(folder))
    return folder


@pytest.fixture
def thoraxLogic(app, home):
    """The logic of MouseThoraxSeg with the painted checkpoints at hand; its child process ends with the test."""
    from ThoraxSegLib.Logic import ThoraxSegLogic
    from ThoraxSegLib.Tasks import MOUSE_THORAX

    logic = ThoraxSegLogic(MOUSE_THORAX)
    yield logic
    logic.close()


@pytest.fixture
def tumorLogic(app, home):
    """The logic of LungTumorSeg with the painted checkpoints at hand; its child process ends with the test."""
    from ThoraxSegLib.Logic import ThoraxSegLogic
    from ThoraxSegLib.Tasks import LUNG_TUMOR

    logic = ThoraxSegLogic(LUNG_TUMOR)
    yield logic
    logic.close()
