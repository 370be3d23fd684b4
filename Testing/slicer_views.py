"""Slice and 3-D views of slicer-core without a display: what desktop Slicer's views draw, as PNG files.

Real: slice logic, displayable managers of segments, color legend, 3-D surfaces. It needs a bootstrapped `slicer.app`
(`Testing.slicer_app`) and a system library for OpenGL; `available()` says in words what is missing.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from Testing import slicer_app

SLICE_MANAGERS = (
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLColorLegendDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
)
VIEW_MANAGERS = ("vtkMRMLCameraDisplayableManager", "vtkMRMLViewDisplayableManager",
                 "vtkMRMLSegmentationsDisplayableManager3D", "vtkMRMLOrientationMarkerDisplayableManager")  # fmt: skip


def prepare() -> None:
    """Make VTK draw without a screen; to be called before the first window."""
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
    import vtkmodules.vtkInteractionStyle
    import vtkmodules.vtkRenderingFreeType
    import vtkmodules.vtkRenderingOpenGL2
    import vtkmodules.vtkRenderingVolumeOpenGL2  # noqa: F401


class View:
    """A window that nobody sees, with one renderer and the displayable managers of Slicer.

    Used in a `with` block: afterwards the application and the scene do not know it any more.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        import vtk

        prepare()
        self.size = size
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.ShowWindowOff()
        self.window.SetMultiSamples(0)
        self.window.SetSize(*size)
        self.renderer = vtk.vtkRenderer()
        self.window.AddRenderer(self.renderer)
        self.interactor = vtk.vtkRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.interactor.Initialize()
        self.group = None

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.group.SetMRMLDisplayableNode(None)
        self.window.Finalize()
        self._leave()

    def _leave(self) -> None:
        """Take logic and nodes of the view out of the application and the scene."""
        raise NotImplementedError

    def manage(self, factory, names: tuple[str, ...], node) -> None:
        """Let the displayable managers draw what the view node shows."""
        import slicer

        for name in names:
            if hasattr(slicer, name) and not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self.group = slicer.vtkMRMLDisplayableManagerGroup()
        self.group.SetRenderer(self.renderer)
        self.group.Initialize(factory, self.renderer)
        self.group.SetMRMLDisplayableNode(node)

    def close(self) -> None:
        """Take the view out of the application and its nodes out of the scene."""
        import slicer

        application = slicer.app.applicationLogic()
        nodes = [self.node]
        if hasattr(self.logic, "GetSliceCompositeNode"):
            nodes.append(self.logic.GetSliceCompositeNode())
            application.GetSliceLogics().RemoveItem(self.logic)
        else:
            application.GetViewLogics().RemoveItem(self.logic)
        self.group.SetMRMLDisplayableNode(None)
        self.logic.SetMRMLScene(None)  # before its nodes go: a logic without a node aborts the process
        for node in nodes:
            slicer.mrmlScene.RemoveNode(node)

    def array(self) -> np.ndarray:
        """Return what is seen, `(height, width, 3)` uint8, first row on top."""
        import vtk
        from vtk.util.numpy_support import vtk_to_numpy

        self.window.Render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self.window)
        grabber.SetInputBufferTypeToRGB()
        grabber.ReadFrontBufferOff()
        grabber.Update()
        image = grabber.GetOutput()
        width, height, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1].copy()

    def save(self, path: Path) -> None:
        """Write what is seen as PNG."""
        from PIL import Image

        Image.fromarray(self.array()).save(path)


class SliceView(View):
    """One slice of the scene, as Slicer's Red, Yellow or Green view shows it: the patient's right on the left."""

    def __init__(self, name: str, orientation: str, size: tuple[int, int] = (500, 500)) -> None:
        import slicer
        import vtk

        super().__init__(size)
        scene, app = slicer.mrmlScene, slicer.app.applicationLogic()
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(app)
        self.logic.SetMRMLScene(scene)
        app.GetSliceLogics().AddItem(self.logic)
        self.node = self.logic.AddSliceNode(name)
        self.node.SetOrientation(orientation)
        self.renderer.GetActiveCamera().ParallelProjectionOn()
        mapper = vtk.vtkImageMapper()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        mapper.SetInputConnection(self.logic.GetImageDataConnection())
        actor = vtk.vtkActor2D()
        actor.SetMapper(mapper)
        actor.GetProperty().SetDisplayLocationToBackground()
        self.renderer.AddViewProp(actor)
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        self.manage(factory, SLICE_MANAGERS, self.node)
        self.mapper = mapper
        self.name = name

    def _leave(self) -> None:
        slicer_app.remove_slice_views({self.name: self.logic})

    def fit(self, zoom: float = 1.0) -> None:
        """Show all of the background volume, larger by `zoom`."""
        self.logic.ResizeSliceNode(*self.size)
        self.node.RotateToVolumePlane(self.logic.GetBackgroundLayer().GetVolumeNode())
        self.logic.FitSliceToBackground(*self.size)
        width, height, depth = self.node.GetFieldOfView()
        self.node.SetFieldOfView(width / zoom, height / zoom, depth)
        self.logic.SnapSliceOffsetToIJK()
        self.node.UpdateMatrices()

    def array(self) -> np.ndarray:
        """Return what is seen, `(height, width, 3)` uint8, first row on top."""
        self.logic.UpdatePipeline()
        self.mapper.SetInputConnection(self.logic.GetImageDataConnection())
        return super().array()


class ThreeDView(View):
    """The surfaces of the scene's segmentations."""

    def __init__(self, name: str = "1", size: tuple[int, int] = (500, 500)) -> None:
        import slicer

        super().__init__(size)
        scene, app = slicer.mrmlScene, slicer.app.applicationLogic()
        self.logic = slicer.vtkMRMLViewLogic()
        self.logic.SetMRMLApplicationLogic(app)
        self.logic.SetMRMLScene(scene)
        app.GetViewLogics().AddItem(self.logic)
        self.node = self.logic.AddViewNode(name)
        self.node.SetBackgroundColor(1, 1, 1)
        self.node.SetBackgroundColor2(0.85, 0.88, 0.92)
        self.node.SetBoxVisible(False)
        self.node.SetAxisLabelsVisible(False)
        factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
        self.manage(factory, VIEW_MANAGERS, self.node)

    def _leave(self) -> None:
        import slicer

        slicer.app.applicationLogic().GetViewLogics().RemoveItem(self.logic)
        slicer.mrmlScene.RemoveNode(self.node)
        self.logic.SetMRMLScene(None)

    def look_from(self, direction: tuple[float, float, float], up=(0.0, 0.0, 1.0), zoom: float = 1.3) -> None:
        """Put the camera so that it looks at everything from a direction in patient coordinates (RAS)."""
        self.window.Render()
        bounds = self.renderer.ComputeVisiblePropBounds()
        center = [(bounds[n] + bounds[n + 1]) / 2 for n in (0, 2, 4)]
        camera = self.renderer.GetActiveCamera()
        camera.SetFocalPoint(center)
        camera.SetPosition([c + 100 * d for c, d in zip(center, direction, strict=True)])
        camera.SetViewUp(up)
        self.renderer.ResetCamera()
        camera.Zoom(zoom)
        self.renderer.ResetCameraClippingRange()
