"""The two module files: found by Slicer, light to load, complete in what they say, thin."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

import numpy as np
import pytest
import slicer
from PIL import Image

from Testing import qt_app, slicer_app
from Testing.test_architecture import HEAVY

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("LungTumorSeg", "MouseThoraxSeg")
TASKS = {"LungTumorSeg": "lung-tumor", "MouseThoraxSeg": "mouse-thorax"}
LIBRARY = sorted((ROOT / "ThoraxSegLib").rglob("*.py"))
NOT_AT_FILE_SCOPE = HEAVY - {"slicer", "vtk"} | {"psutil", "pip", "SampleData", "PyTorchUtils", "packaging"}
START = f"""
import sys
sys.path.append({str(ROOT)!r})
from Testing import qt_app, slicer_app
slicer_app.start()
qt_app.start()
"""
needs_qt = pytest.mark.skipif(bool(qt_app.whyNot()), reason=qt_app.whyNot() or "Qt is here")


def file_of(name: str) -> Path:
    return ROOT / name / f"{name}.py"


def in_a_new_process(code: str, **options) -> str:
    done = subprocess.run(
        [sys.executable, "-c", START + code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(params=NAMES)
def module(request, app):
    """A registered module: its entry in `slicer.modules`."""
    if qt_app.whyNot():
        pytest.skip(qt_app.whyNot())
    qt_app.start()
    entry = slicer_app.load_module(file_of(request.param))
    yield entry
    slicer_app.forget_module(request.param)


def discovered(folder: Path) -> list[str]:
    """Names of the modules that Slicer's Extension Wizard finds when a folder is dropped on Slicer.

    Its rules: files in the folder and one level below; no folder with an `__init__.py`; a class named like the file
    with the literal base ScriptedLoadableModule; files that cannot be read or parsed are passed over in silence, and
    how they are read depends on the system: ASCII is what every system reads.
    """
    found = []
    for place in [folder, *sorted(one for one in folder.iterdir() if one.is_dir())]:
        files = sorted(place.glob("*.py"))
        if any(file.name.endswith("__init__.py") for file in files):
            continue
        for file in [one for one in files if one.read_bytes().isascii()]:
            classes = [
                one for one in ast.parse(file.read_text("ascii")).body if isinstance(one, ast.ClassDef)
            ]
            bases = {
                one.name: [base.id for base in one.bases if isinstance(base, ast.Name)] for one in classes
            }
            if "ScriptedLoadableModule" in bases.get(file.stem, ()):
                found.append(file.stem)
    return found


def test_dropping_the_repository_on_slicer_finds_both_modules():
    assert discovered(ROOT) == ["LungTumorSeg", "MouseThoraxSeg"]


@pytest.mark.parametrize("name", NAMES)
def test_a_module_folder_holds_the_module_alone(name):
    assert discovered(ROOT / name) == [name]
    assert [path.name for path in (ROOT / name).rglob("*.py")] == [f"{name}.py"]
    assert file_of(name).read_bytes().isascii()


@pytest.mark.parametrize("name", NAMES)
def test_a_module_file_is_a_thin_shell(name):
    tree = ast.parse(file_of(name).read_text("ascii"))
    assert 50 <= len(file_of(name).read_text("ascii").splitlines()) <= 100
    methods = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    names = [node.name for node in methods]
    assert sorted(names) == ["__init__", "_registerSampleData", "createLogic", "onReload"]
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.For, ast.While, ast.Try, ast.With))]


def test_the_two_files_differ_in_nothing_but_names():
    mouse, lung = (file_of(name).read_text("ascii").split('"""', 2)[2] for name in reversed(NAMES))
    assert mouse.replace("MouseThoraxSeg", "LungTumorSeg").replace("MOUSE_THORAX", "LUNG_TUMOR") == lung


@pytest.mark.parametrize("path", [*LIBRARY, *map(file_of, NAMES)], ids=lambda path: path.stem)
def test_nothing_heavy_is_imported_at_file_scope(path):
    for node in ast.parse(path.read_text("utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {name.split(".")[0] for name in names} & NOT_AT_FILE_SCOPE


@needs_qt
@pytest.mark.parametrize("name", NAMES)
def test_loading_a_module_loads_no_heavy_package(name):
    """Opening the application must stay instant: this is what Slicer does for every module when it starts."""
    code = f"""
before = set(sys.modules)
from pathlib import Path
slicer_app.load_module(Path({str(file_of(name))!r}))
import json
print(json.dumps(sorted({{one.split(".")[0] for one in set(sys.modules) - before}})))
"""
    loaded = set(json.loads(in_a_new_process(code)))
    assert {name, "ThoraxSegLib", "thoraxseg"} <= loaded
    assert not loaded & NOT_AT_FILE_SCOPE


@needs_qt
def test_a_module_file_finds_the_shared_packages_of_its_checkout(tmp_path):
    """Nobody puts the root of a checkout on sys.path, and an older installed copy must not take its place."""
    name, older = NAMES[0], tmp_path / "older"
    for package in ("thoraxseg", "ThoraxSegLib"):
        (older / package).mkdir(parents=True)
        (older / package / "__init__.py").write_text("raise ImportError('an older copy')", encoding="utf-8")
    code = f"""
sys.path = [{str(older)!r}, *(one for one in sys.path if one and one != {str(ROOT)!r})]
sys.meta_path = [one for one in sys.meta_path if "editable" not in repr(one)]
for one in [one for one in sys.modules if one.split(".")[0] in ("thoraxseg", "ThoraxSegLib")]:
    del sys.modules[one]
from pathlib import Path
slicer_app.load_module(Path({str(file_of(name))!r}))
print(sys.modules["ThoraxSegLib"].__file__, sys.modules["thoraxseg"].__file__)
"""
    shown = in_a_new_process(code, cwd=tmp_path)
    assert shown.split() == [
        str(ROOT / "ThoraxSegLib" / "__init__.py"),
        str(ROOT / "thoraxseg" / "__init__.py"),
    ]


def test_a_module_says_what_reviewers_and_generic_tests_ask_for(module):
    assert module.title.endswith("Segmentation") and " " in module.title
    assert module.categories == ["Segmentation"]
    assert module.contributors == ["ThoraxSeg developers"]
    assert {"Segmentations", "Volumes"} <= set(module.dependencies)
    assert "research only" in module.helpText and "Not a medical device" in module.helpText
    assert '<a href="https://' in module.helpText
    assert "Apache License 2.0" in module.acknowledgementText


def test_slicer_finds_every_class_of_a_module_by_name(module):
    from ThoraxSegLib.Logic import ThoraxSegLogic
    from ThoraxSegLib.SelfTest import SelfTest
    from ThoraxSegLib.Widget import ThoraxSegWidget

    found = sys.modules[module.name]
    for end, base in (("Widget", ThoraxSegWidget), ("Logic", ThoraxSegLogic), ("Test", SelfTest)):
        kind = getattr(found, module.name + end)
        assert issubclass(kind, base)
        assert kind.task.key == TASKS[module.name] and kind.task.moduleName == module.name
    assert getattr(slicer.modules, f"{module.name}Instance").moduleName == module.name


def test_what_ctest_runs_is_the_test_of_the_module_and_no_other(module):
    def kinds(suite):
        return {
            kind
            for one in suite
            for kind in (kinds(one) if hasattr(one, "__iter__") else {type(one).__name__})
        }

    assert kinds(unittest.TestLoader().loadTestsFromName(module.name)) == {f"{module.name}Test"}


def test_the_logic_of_a_module_has_the_parameter_node_of_that_module(module):
    logic = getattr(sys.modules[module.name], f"{module.name}Logic")()
    assert logic.getParameterNode().GetAttribute("ModuleName") == module.name
    assert logic.getParameterNode().GetSingletonTag() == module.name
    logic.close()


def test_a_module_offers_sample_data_once_slicer_has_started(module, app, monkeypatch):
    from ThoraxSegLib import SampleData

    called = []
    monkeypatch.setattr(SampleData, "registerSampleData", lambda: called.append(1))
    app.finish_startup()
    assert called == [1]


def test_the_structures_of_the_tasks_are_known_to_the_engine():
    from thoraxseg.segmentation import STRUCTURES
    from ThoraxSegLib.Tasks import TASKS as known

    assert set(known) == set(TASKS.values())
    for task in known.values():
        assert set(task.structureKeys) <= set(STRUCTURES)
        assert task.summary.endswith(".") and (ROOT / task.moduleName / f"{task.moduleName}.py").is_file()


@pytest.mark.parametrize(
    "path",
    [
        ROOT / "Resources" / "Icons" / "ThoraxSeg.png",
        *(ROOT / n / "Resources" / "Icons" / f"{n}.png" for n in NAMES),
    ],
    ids=lambda path: path.stem,
)
def test_an_icon_is_square_and_can_be_told_apart_at_24_pixels(path):
    with Image.open(path) as icon:
        assert icon.size == (128, 128) and icon.mode == "RGBA"
        small = np.asarray(icon.resize((24, 24)).convert("RGB"), float)
    # At least three colors far apart, each on more than a few pixels: shapes survive, not only a gray blur.
    strong = small[(small.max(2) - small.min(2)) > 80]
    hues = {int(np.argmax(pixel)) * 2 + int(pixel[1] > pixel.mean()) for pixel in strong}
    assert len(strong) > 40 and len(hues) >= 2


def test_the_icons_are_those_that_the_script_draws(tmp_path, monkeypatch):
    sys.path.insert(0, str(ROOT / "Resources" / "Icons"))
    try:
        import draw
    finally:
        sys.path.remove(str(ROOT / "Resources" / "Icons"))
    for name, function in draw.ICONS.items():
        drawn = function().resize((draw.SIZE_PX, draw.SIZE_PX), Image.Resampling.LANCZOS)
        kept = np.asarray(Image.open(ROOT / name).convert("RGBA"), int)
        assert np.abs(np.asarray(drawn, int) - kept).max() <= 8, name


@needs_qt
def test_reload_reads_the_shared_packages_anew(tmp_path):
    """Slicer's Reload executes the module file alone; what is changed beside it must come too."""
    ignore = shutil.ignore_patterns("__pycache__", "published_entries", "weights_bundled")
    for folder in ("MouseThoraxSeg", "ThoraxSegLib", "thoraxseg"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    tasks = tmp_path / "ThoraxSegLib" / "Tasks.py"
    code = f"""
from pathlib import Path
file = Path({str(tmp_path)!r}) / "MouseThoraxSeg" / "MouseThoraxSeg.py"
slicer_app.load_module(file)
import slicer
from ThoraxSegLib.Widget import ThoraxSegWidget
first = sys.modules["MouseThoraxSeg"].MouseThoraxSegWidget
tasks = Path({str(tasks)!r})
tasks.write_text(tasks.read_text("utf-8").replace("Mouse Thorax Segmentation", "Changed"), "utf-8")
slicer.util.reloadScriptedModule = lambda name: slicer_app.load_module(file)
widget = first.__new__(first)
widget.moduleName = "MouseThoraxSeg"
widget.onReload()
print(sys.modules["MouseThoraxSeg"].MouseThoraxSegWidget.task.title)
"""
    assert in_a_new_process(code, cwd=tmp_path).strip().endswith("Changed")


@needs_qt
def test_a_module_opens_before_anything_could_be_installed(tmp_path):
    """In a fresh Slicer none of our requirements is there: looking at checkpoints and images must not need them."""
    from ThoraxSegLib import Dependencies

    name, missing = NAMES[0], {"torch", "click", "rich"}
    for line in Dependencies.requirements():
        package = re.split("[<>=]", line)[0].lower()
        missing.add("skimage" if package == "scikit-image" else package)
    code = f"""
for one in {sorted(missing)!r}:
    sys.modules[one] = None
from pathlib import Path
slicer_app.load_module(Path({str(file_of(name))!r}))
import slicer
logic = getattr(sys.modules[{name!r}], {name!r} + "Logic")()
entries = logic.catalog.entries()
from ThoraxSegLib import Dependencies, SampleData
assert Dependencies.missing() or True
volume = SampleData.load(SampleData.SAMPLES[1], lambda *_: False)
print(len(entries), [light.key for light in logic.preflight.lights(volume, entries[0].name)])
"""
    shown = in_a_new_process(code, env={**os.environ, "THORAXSEG_HOME": str(tmp_path)})
    assert "'spacing'" in shown
