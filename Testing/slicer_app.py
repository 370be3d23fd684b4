"""A 3D Slicer to test with: the real MRML scene, module logics and storage of slicer-core, without Qt.

Real: the scene, the application logic, the module logics, the storage nodes, `slicer.util`.
Stand-ins, named so: `slicer.app`, `slicer.modules.X`, `coreIOManager`, the base classes of scripted modules,
`slicer.i18n`, and the terminologies, which the wheel lacks: they hold the codes of our structures only.
Nothing here knows Qt; `Testing/qt_app.py` adds it. In desktop Slicer `start` does nothing.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import shutil
import sys
import tempfile
import types
import unittest
from pathlib import Path

MODULE_LOGICS = {
    "Colors": "vtkSlicerColorLogic",
    "Units": "vtkSlicerUnitsLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
    "Models": "vtkSlicerModelsLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Texts": "vtkSlicerTextsLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "Data": "vtkSlicerDataModuleLogic",
}
"""Module name -> class of its real logic."""
SLICE_VIEWS = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}
_KNOWN_EXTENSIONS = (
    *(".seg.nrrd", ".seg.nhdr", ".nii.gz", ".nrrd", ".nhdr", ".nii", ".mha", ".mhd", ".mrk.json", ".mrb"),
    *(
        ".mrml",
        ".csv",
        ".tsv",
        ".vtk",
        ".vtp",
        ".stl",
        ".ply",
        ".obj",
        ".txt",
        ".json",
        ".ctbl",
        ".h5",
        ".tfm",
    ),
)
_WRITERS = {
    "vtkMRMLSegmentationNode": ("Segmentation (.seg.nrrd)", "Segmentation (.nrrd)"),
    "vtkMRMLVolumeNode": ("NRRD (.nrrd)", "NIfTI (.nii.gz)", "MetaImage (.mha)"),
    "vtkMRMLTableNode": ("Comma-separated values (.csv)", "Tab-separated values (.tsv)"),
    "vtkMRMLTextNode": ("Text (.txt)", "JSON (.json)"),
    "vtkMRMLModelNode": ("Model (.vtk)", "Model (.stl)"),
    "vtkMRMLMarkupsNode": ("Markups (.mrk.json)",),
}
_FILE_TYPES = {
    ".seg.nrrd": "SegmentationFile",
    ".mrb": "SceneFile",
    ".mrml": "SceneFile",
    ".csv": "TableFile",
    ".tsv": "TableFile",
    ".txt": "TextFile",
    ".json": "TextFile",
    ".mrk.json": "MarkupsFile",
    **dict.fromkeys((".vtk", ".vtp", ".stl", ".ply", ".obj"), "ModelFile"),
    **dict.fromkeys((".ctbl",), "ColorTableFile"),
    **dict.fromkeys((".h5", ".tfm"), "TransformFile"),
}


class ApplicationStandIn:
    """Stand-in for `slicer.app`: the parts of qSlicerApplication that logic code and `slicer.util` ask for."""

    majorVersion, minorVersion = 5, 12
    applicationName = "Slicer"
    documentationBaseUrl = "https://slicer.readthedocs.io/en/latest/"

    def __init__(self, scene, application_logic, folder: Path) -> None:
        self.mrmlScene = scene
        self.temporaryPath = str(folder)
        self.cachePath = str(folder / "cache")
        self.is_testing = True
        """What `testingEnabled` says; a test of what users see sets it to False for itself."""
        self.layout_manager = None
        """None as in a Slicer without main window; a test with views sets its own."""
        self._application_logic = application_logic
        self._io = CoreIOManagerStandIn(scene)
        self._modules = ModuleManagerStandIn()
        self._started: list = []

    def applicationLogic(self):
        return self._application_logic

    def coreIOManager(self):
        return self._io

    ioManager = coreIOManager

    def layoutManager(self):
        return self.layout_manager

    def moduleManager(self):
        return self._modules

    def testingEnabled(self) -> bool:
        return self.is_testing

    def connect(self, signal: str, function) -> None:
        """Keep what is to be called once the application has started: see `finish_startup`."""
        if signal != "startupCompleted()":
            raise ValueError(f"The stand-in for slicer.app knows no signal {signal!r}.")
        self._started.append(function)

    def finish_startup(self) -> None:
        """Emit startupCompleted(), once for each connection."""
        started, self._started = self._started, []
        for function in started:
            function()

    def forget_startup(self) -> None:
        """Forget what waits for startupCompleted()."""
        self._started.clear()

    def translate(self, context: str, text: str) -> str:
        return text

    def moduleDocumentationUrl(self, name: str) -> str:
        return f"{self.documentationBaseUrl}user_guide/modules/{name.lower()}.html"

    def startupEnvironment(self) -> dict:
        import os

        return dict(os.environ)

    def processEvents(self) -> None: ...

    def pauseRender(self) -> None: ...

    def resumeRender(self) -> None: ...

    def setOverrideCursor(self, cursor) -> None: ...

    def restoreOverrideCursor(self) -> None: ...


class ModuleManagerStandIn:
    """Stand-in for qSlicerModuleManager: knows which modules are there; nothing is ever unloaded."""

    def connect(self, signal: str, function) -> None: ...

    def disconnect(self, signal: str, function) -> None: ...

    def modulesNames(self) -> list[str]:
        import slicer

        return [name for name in vars(slicer.moduleNames) if not name.startswith("_")]

    def module(self, name: str):
        import slicer

        return getattr(slicer.modules, name.lower(), None)


class ModuleStandIn:
    """Stand-in for an entry of `slicer.modules`, around a real logic or a scripted module."""

    def __init__(self, name: str, path: str = "", logic=None) -> None:
        self.name, self.path = name, path
        self.title, self.icon = "", None
        self.categories, self.dependencies, self.contributors = [], [], []
        self.helpText = self.acknowledgementText = ""
        self._logic = logic
        self.widget_representation = None

    def logic(self):
        return self._logic

    def widgetRepresentation(self):
        return self.widget_representation


class CoreIOManagerStandIn:
    """Stand-in for qSlicerCoreIOManager: thin calls to the real readers and storage nodes."""

    def __init__(self, scene) -> None:
        self._scene = scene

    def extractKnownExtension(self, name: str, node=None) -> str:
        return next((end for end in _KNOWN_EXTENSIONS if str(name).lower().endswith(end)), Path(name).suffix)

    def fileType(self, name: str) -> str:
        return _FILE_TYPES.get(self.extractKnownExtension(str(name)), "VolumeFile")

    def fileWriterFileType(self, node, file_format: str = "") -> str:
        return node.GetClassName()

    def fileWriterExtensions(self, node) -> tuple[str, ...]:
        return next((formats for kind, formats in _WRITERS.items() if node.IsA(kind)), ())

    def loadNodes(self, kind: str, properties: dict, loaded=None, messages=None) -> bool:
        """Read a file into the scene with the logic of its module; False where that says no."""
        import slicer

        path = str(Path(properties["fileName"]).absolute())
        name = properties.get("name") or Path(path).name.removesuffix(self.extractKnownExtension(path))
        logics = slicer.modules
        if kind == "SceneFile":
            return self._load_scene(path, bool(properties.get("clear")), messages)
        if kind == "VolumeFile":
            options = 1 * bool(properties.get("labelmap")) | 2 * bool(properties.get("center"))
            options |= 4 * bool(properties.get("singleFile"))
            node = logics.volumes.logic().AddArchetypeVolume(path, name, options, None, messages)
        elif kind == "SegmentationFile":
            node = logics.segmentations.logic().LoadSegmentationFromFile(path, True, name, None, messages)
        elif kind == "TableFile":
            node = logics.tables.logic().AddTable(path, name, True, "", messages)
        elif kind == "ModelFile":
            node = logics.models.logic().AddModel(path, 0, messages)
        elif kind == "ColorTableFile":
            node = logics.colors.logic().LoadColorFile(path, name, messages)
        elif kind == "TransformFile":
            node = logics.transforms.logic().AddTransform(path, self._scene, messages)
        elif kind in ("TextFile", "MarkupsFile"):
            node = self._load_by_storage(kind, path, name)
        else:
            raise ValueError(f"The stand-in for coreIOManager reads no {kind!r}.")
        if node is not None and loaded is not None:
            loaded.AddItem(node)
        return node is not None

    def _load_scene(self, path: str, clear: bool, messages) -> bool:
        if path.endswith(".mrb"):
            return bool(self._scene.ReadFromMRB(path, clear, messages))
        self._scene.SetURL(path)
        return bool(self._scene.Connect(messages) if clear else self._scene.Import(messages))

    def _load_by_storage(self, kind: str, path: str, name: str):
        import slicer

        if kind == "MarkupsFile":
            return self._scene.GetNodeByID(slicer.modules.markups.logic().LoadMarkups(path, name))
        node = self._scene.AddNewNodeByClass("vtkMRMLTextNode", name)
        node.AddDefaultStorageNode(path)
        if node.GetStorageNode().ReadData(node):
            return node
        self._scene.RemoveNode(node)
        return None

    def saveNodes(self, kind: str, properties: dict, messages=None) -> bool:
        """Write a node with its own storage node, or the scene."""
        path = str(Path(properties["fileName"]).absolute())
        if kind == "SceneFile":
            if path.endswith(".mrb"):
                return bool(self._scene.WriteToMRB(path, None, messages))
            self._scene.SetRootDirectory(str(Path(path).parent))
            self._scene.SetURL(path)
            return bool(self._scene.Commit(path, messages))
        node = self._scene.GetNodeByID(properties["nodeID"])
        node.AddDefaultStorageNode(path)
        storage = node.GetStorageNode()
        storage.SetFileName(path)
        storage.SetUseCompression(int(properties.get("useCompression", 1)))
        return bool(storage.WriteData(node))

    def exportNodes(self, identifiers, names, properties: dict, harden: bool = False, messages=None) -> bool:
        """Write nodes with storage nodes of their own that are gone afterwards; transforms stay as they are."""
        if harden:
            raise ValueError("The stand-in for coreIOManager exports local coordinates only (world=False).")
        good = True
        for identifier, name in zip(identifiers, names, strict=True):
            node = self._scene.GetNodeByID(identifier)
            storage = node.CreateDefaultStorageNode()
            storage.UnRegister(None)
            storage.SetScene(self._scene)
            storage.SetFileName(str(Path(name).absolute()))
            storage.SetUseCompression(int(properties.get("useCompression", 1)))
            good = bool(storage.WriteData(node)) and good
        return good


class ScriptedLoadableModule:
    """Stand-in for the base class of a scripted module."""

    def __init__(self, parent) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__

    def resourcePath(self, name: str) -> str:
        return str(Path(self.parent.path).parent / "Resources" / name)

    def getDefaultModuleDocumentationLink(self, docPage=None) -> str:
        import slicer

        return f'<p><a href="{slicer.app.moduleDocumentationUrl(self.moduleName)}">documentation</a></p>'

    def runTest(self, msec: int = 100, **kwargs) -> None:
        module = sys.modules[type(self).__module__]
        getattr(module, self.moduleName + "Test")().runTest(**kwargs)


class ScriptedLoadableModuleLogic:
    """Stand-in for the base class of a module's logic; its parameter node is a real singleton node."""

    def __init__(self, parent=None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self):
        import slicer

        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
            node.UnRegister(None)
            node.SetSingletonTag(self.moduleName)
            node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
            node = slicer.mrmlScene.AddNode(node)
        node.SetAttribute("ModuleName", self.moduleName)
        return node


class ScriptedLoadableModuleWidget:
    """Stand-in for the base class of a module's widget; `parent` comes from whoever shows it."""

    def __init__(self, parent=None) -> None:
        super().__init__()
        import slicer

        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        self.parent = parent
        self.layout = parent.layout() if parent is not None else None
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self.cleanup)

    def resourcePath(self, name: str) -> str:
        import slicer

        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / name)

    def setup(self) -> None: ...

    def cleanup(self) -> None: ...

    def onReload(self) -> None:
        import slicer

        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleTest(unittest.TestCase):
    """Stand-in for the base class of a module's test: `runTest` calls every method named test... after setUp."""

    def delayDisplay(self, message: str, requestedDelay=None, msec=None) -> None: ...

    def runTest(self) -> None:
        type(self).setUpClass()
        for name in [name for name in dir(self) if "test" in name and callable(getattr(self, name))]:
            self.setUp()
            getattr(self, name)()
            self.tearDown()
        type(self).tearDownClass()


def start():
    """Make `slicer` an application, once in a process, and return `slicer.app`; do nothing where it is one."""
    import slicer
    import slicer.util
    import vtk

    if getattr(slicer, "mrmlScene", None) is not None:
        return slicer.app
    folder = Path(tempfile.mkdtemp(prefix="slicer-app-")).resolve()
    atexit.register(shutil.rmtree, folder, True)
    (folder / "home" / "share" / "ColorFiles").mkdir(parents=True)
    (folder / "cache").mkdir()

    scene, application = slicer.vtkMRMLScene(), slicer.vtkSlicerApplicationLogic()
    application.SetHomeDirectory(str(folder / "home"))
    application.SetShareDirectory("share")
    application.SetTemporaryPath(str(folder))
    crosshair = slicer.vtkMRMLCrosshairNode()
    crosshair.SetCrosshairName("default")
    scene.AddNode(crosshair)
    application.SetMRMLScene(scene)
    application.SetSliceLogics(vtk.vtkCollection())
    application.SetViewLogics(vtk.vtkCollection())
    for factory in (
        slicer.vtkMRMLSliceViewDisplayableManagerFactory,
        slicer.vtkMRMLThreeDViewDisplayableManagerFactory,
    ):
        factory.GetInstance().SetMRMLApplicationLogic(application)

    slicer.mrmlScene = scene
    slicer.app = ApplicationStandIn(scene, application, folder)
    slicer.modules = _new_module("slicer.modules")
    slicer.moduleNames = _new_module("slicer.moduleNames")
    publish_base_classes()
    for name, kind in MODULE_LOGICS.items():
        logic = getattr(slicer, kind)()
        if name == "Terminologies":
            write_terminologies(folder / "home" / "share")
            logic.SetModuleShareDirectory(str(folder / "home" / "share"))
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        application.SetModuleLogic(name, logic)
        _publish_module(ModuleStandIn(name, logic=logic))
    colors = slicer.modules.colors.logic()
    application.SetColorLogic(colors)
    colors.AddDefaultColorNodes()
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)

    remote, data = slicer.vtkMRMLRemoteIOLogic(), slicer.vtkDataIOManagerLogic()
    for logic in (remote, data):
        logic.SetMRMLScene(scene)
        logic.SetMRMLApplicationLogic(application)
    remote.GetCacheManager().SetRemoteCacheDirectory(str(folder / "cache"))
    data.SetAndObserveDataIOManager(remote.GetDataIOManager())
    remote.AddDataIOToScene()
    slicer.app.kept = (remote, data)
    return slicer.app


def write_terminologies(folder: Path) -> None:
    """Write stand-ins for Slicer's three default terminology files, with the codes of our structures."""
    from thoraxseg.segmentation import ANATOMY_CONTEXT, REGION_CONTEXT, STRUCTURES

    def coded(code) -> dict[str, str]:
        return {"CodingSchemeDesignator": code.scheme, "CodeValue": code.value, "CodeMeaning": code.meaning}

    categories: dict = {}
    for structure in STRUCTURES.values():
        terms, color = structure.terminology, [round(255 * part) for part in structure.color]
        category = categories.setdefault(terms.category, {**coded(terms.category), "Type": {}})
        kind = category["Type"].setdefault(
            terms.type, {**coded(terms.type), "recommendedDisplayRGBValue": color, "Modifier": []}
        )
        if terms.type_modifier.value:
            modifier = {**coded(terms.type_modifier), "recommendedDisplayRGBValue": color}
            kind["Modifier"].append(modifier)
    listed = [
        {**one, "showAnatomy": "true", "Type": list(one["Type"].values())} for one in categories.values()
    ]
    regions = [coded(one.terminology.region) for one in STRUCTURES.values() if one.terminology.region.value]
    schema = "https://raw.githubusercontent.com/qiicr/dcmqi/master/doc/schemas"
    segments = {
        "@schema": f"{schema}/segment-context-schema.json#",
        "SegmentationCodes": {"Category": listed},
    }
    anatomy = {"@schema": f"{schema}/anatomic-context-schema.json#"}
    written = {
        "SegmentationCategoryTypeModifier-SlicerGeneralAnatomy": segments
        | {"SegmentationCategoryTypeContextName": ANATOMY_CONTEXT},
        "SegmentationCategoryTypeModifier-DICOM-Master": segments
        | {"SegmentationCategoryTypeContextName": "Segmentation category and type - DICOM master list"},
        "AnatomicRegionAndModifier-DICOM-Master": anatomy
        | {"AnatomicContextName": REGION_CONTEXT, "AnatomicCodes": {"AnatomicRegion": regions}},
    }
    for name, content in written.items():
        (folder / f"{name}.term.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def clear_scene() -> None:
    """Empty the scene as *File > Close scene* does, parameter nodes and undo steps too."""
    import slicer

    scene = slicer.mrmlScene
    scene.Clear(False)
    for node in slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode"):
        scene.RemoveNode(node)
    scene.SetUndoOff()
    scene.ClearUndoStack()
    scene.ClearRedoStack()


def add_slice_views() -> dict:
    """Return `{"Red": vtkMRMLSliceLogic, ...}`: slice views that only lack a window, added to the application."""
    import slicer

    application, logics = slicer.app.applicationLogic(), {}
    for name, orientation in SLICE_VIEWS.items():
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(slicer.mrmlScene)
        application.GetSliceLogics().AddItem(logic)
        logic.AddSliceNode(name).SetOrientation(orientation)
        logic.ResizeSliceNode(300, 300)
        logics[name] = logic
    return logics


def remove_slice_views(logics: dict) -> None:
    """Take the slice views of `add_slice_views` out of the application and the scene."""
    import slicer

    for logic in logics.values():
        slicer.app.applicationLogic().GetSliceLogics().RemoveItem(logic)
        nodes = [logic.GetSliceCompositeNode(), logic.GetSliceNode()]
        logic.SetMRMLScene(None)  # before its nodes go: a logic without a node aborts the process
        for node in filter(None, nodes):
            slicer.mrmlScene.RemoveNode(node)


def load_module(path: Path):
    """Register a scripted module as Slicer does and return its entry in `slicer.modules`.

    Its own folder goes on `sys.path`, the file becomes `sys.modules[name]`, and the class named like the file is
    constructed (qSlicerScriptedLoadableModule::setPythonSource). Raises AttributeError where that class is missing.
    """
    import slicer

    path = Path(path).resolve()
    name = path.stem
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    entry = ModuleStandIn(name, str(path))
    instance = getattr(module, name)(entry)
    setattr(slicer.modules, name + "Instance", instance)
    _publish_module(entry)
    return entry


def forget_module(name: str) -> None:
    """Undo `load_module`."""
    import slicer

    module = sys.modules.pop(name, None)
    if module is not None:
        folder = str(Path(module.__file__).parent)
        sys.path[:] = [one for one in sys.path if one != folder]
    for attribute in (name.lower(), name + "Instance", name + "Widget"):
        vars(slicer.modules).pop(attribute, None)
    vars(slicer.moduleNames).pop(name, None)


class Messages:
    """Errors and warnings of VTK while a test runs; those that hold an expected text are forgiven."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._expected: list[str] = []

    def expect(self, text: str) -> None:
        """Say that VTK may complain with a message that holds this text."""
        self._expected.append(text)

    def unexpected(self) -> list[str]:
        return [one for one in self.texts if not any(text in one for text in self._expected)]


def listen_to_vtk(messages: Messages):
    """Send errors and warnings of VTK to `messages` instead of the screen; return a function that ends it."""
    import vtk

    before, window = vtk.vtkOutputWindow.GetInstance(), vtk.vtkStringOutputWindow()

    @vtk.calldata_type(vtk.VTK_STRING)
    def heard(caller, event, text) -> None:
        messages.texts.append(text)

    for event in ("ErrorEvent", "WarningEvent"):
        window.AddObserver(event, heard)
    vtk.vtkOutputWindow.SetInstance(window)

    def end() -> None:
        vtk.vtkOutputWindow.SetInstance(before)

    return end


def _new_module(name: str) -> types.ModuleType:
    sys.modules[name] = types.ModuleType(name)
    return sys.modules[name]


def _publish_module(entry: ModuleStandIn) -> None:
    import slicer

    setattr(slicer.modules, entry.name.lower(), entry)
    setattr(slicer.moduleNames, entry.name, entry.name)


def publish_base_classes() -> None:
    """Publish the stand-ins where module files look for them: slicer.ScriptedLoadableModule and slicer.i18n.

    `start` does it too; alone it lets files be imported that need no application yet.
    """
    import slicer

    if hasattr(slicer, "ScriptedLoadableModule"):
        return
    classes = (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    )
    base = slicer.ScriptedLoadableModule = _new_module("slicer.ScriptedLoadableModule")
    base.__all__ = [one.__name__ for one in classes]
    for one in classes:
        setattr(base, one.__name__, one)
    slicer.i18n = _new_module("slicer.i18n")
    slicer.i18n.tr = lambda text: text
    slicer.i18n.translate = lambda context, text: text
