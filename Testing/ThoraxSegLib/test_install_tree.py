"""The CMake files: what they ship is whole, works alone, and holds nothing that is not to be shipped.

Slicer's own CMake files are not here. The stand-ins below, own text, do what slicerMacroBuildScriptedModule does: they
refuse a listed file that does not exist, and copy every script and resource with its relative path into one folder.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from Testing import qt_app

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("thoraxseg", "ThoraxSegLib")
MODULES = ("LungTumorSeg", "MouseThoraxSeg")
DESTINATION = "lib/Slicer-5.12/qt-scripted-modules"
SHIPPED_ENDINGS = {".py", ".ui", ".json", ".safetensors", ".j2", ".png", ".txt"}
CONFIG = """
set(Slicer_FOUND TRUE)
set(Slicer_USE_FILE "${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${CMAKE_CURRENT_LIST_DIR}/GenerateConfig.cmake")
set(Slicer_EXTENSION_CPACK "${CMAKE_CURRENT_LIST_DIR}/CPack.cmake")
"""
USE_FILE = """
macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(ARG "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(ARG_UNPARSED_ARGUMENTS OR NOT ARG_NAME)
    message(FATAL_ERROR "not understood: ${ARG_UNPARSED_ARGUMENTS} (NAME ${ARG_NAME})")
  endif()
  add_custom_target(${ARG_NAME})
  foreach(listed IN LISTS ARG_SCRIPTS ARG_RESOURCES)
    if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${listed}" AND NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${listed}.py")
      message(FATAL_ERROR "${ARG_NAME} lists '${listed}', which does not exist")
    endif()
    get_property(owned GLOBAL PROPERTY OWNED_PATHS)
    if("${listed}" IN_LIST owned)
      message(FATAL_ERROR "two modules own '${listed}'")
    endif()
    set_property(GLOBAL APPEND PROPERTY OWNED_PATHS "${listed}")
    get_filename_component(folder "${listed}" DIRECTORY)
    install(FILES "${listed}" DESTINATION "@DESTINATION@/${folder}")
  endforeach()
  if(ARG_WITH_GENERIC_TESTS)
    set_property(GLOBAL APPEND PROPERTY TESTED "generic:${ARG_NAME}")
  endif()
endmacro()
macro(slicer_add_python_unittest)
  cmake_parse_arguments(ARG "" "SCRIPT" "" ${ARGN})
  set_property(GLOBAL APPEND PROPERTY TESTED "unit:${ARG_SCRIPT}")
endmacro()
"""
GENERATE_CONFIG = """
foreach(name HOMEPAGE CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS)
  if(NOT EXTENSION_${name})
    message(FATAL_ERROR "EXTENSION_${name} is empty")
  endif()
  file(APPEND "${CMAKE_BINARY_DIR}/extension.txt" "${name}=${EXTENSION_${name}}\\n")
endforeach()
get_property(tested GLOBAL PROPERTY TESTED)
file(APPEND "${CMAKE_BINARY_DIR}/extension.txt" "PROJECT=${PROJECT_NAME}\\nTESTED=${tested}\\n")
"""


def cmake() -> str:
    """The cmake of the system or of pip."""
    beside = Path(sys.executable).parent / ("cmake.exe" if sys.platform == "win32" else "cmake")
    found = shutil.which("cmake") or (str(beside) if beside.exists() else None)
    if found is None:
        pytest.skip("no cmake here: 'pip install cmake' brings one")
    return found


def configure(source: Path, place: Path) -> subprocess.CompletedProcess:
    """Run cmake on a source tree with the stand-ins for Slicer's files; without a compiler: nothing is compiled."""
    stand_in = place / "slicer"
    stand_in.mkdir(parents=True)
    for name, text in {
        "SlicerConfig.cmake": CONFIG,
        "UseSlicer.cmake": USE_FILE.replace("@DESTINATION@", DESTINATION),
        "GenerateConfig.cmake": GENERATE_CONFIG,
        "CPack.cmake": "",
    }.items():
        (stand_in / name).write_text(text, encoding="utf-8")
    quiet = [
        f"-DCMAKE_{language}_COMPILER{end}"
        for language in ("C", "CXX")
        for end in (f"={Path(sys.executable).as_posix()}", "_FORCED=TRUE", "_ID_RUN=TRUE", "_ID=GNU")
    ]
    command = [
        cmake(),
        "-S",
        source,
        "-B",
        place / "build",
        "-G",
        "Unix Makefiles",
        f"-DSlicer_DIR={stand_in}",
    ]
    command += [f"-DCMAKE_MAKE_PROGRAM={Path(sys.executable).as_posix()}", "-DBUILD_TESTING=ON", *quiet]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder of the build of this very tree."""
    place = tmp_path_factory.mktemp("extension")
    done = configure(ROOT, place)
    assert done.returncode == 0, done.stderr
    return place / "build"


@pytest.fixture(scope="module")
def installed(built) -> Path:
    """The folder that an installed extension puts on `sys.path`, and nothing else."""
    place = built.parent / "installed"
    command = [cmake(), "--install", str(built), "--prefix", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return place / DESTINATION


def told(built: Path) -> dict[str, str]:
    lines = (built / "extension.txt").read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines)


def files_of(*folders: str) -> set[str]:
    """Files of the project in these folders that are to be shipped: tracked ones and new ones."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", *folders],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout: the list of the project's files is not known")
    names = [name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).exists()]
    return {name for name in names if name != f"{folders[0]}/CMakeLists.txt"}


def test_nothing_is_missing_from_an_installed_extension(installed):
    expected = {name for package in PACKAGES for name in files_of(package)}
    strange = {name for name in expected if Path(name).suffix not in SHIPPED_ENDINGS}
    assert not strange, f"files of a kind that CMakeLists.txt does not ship: {sorted(strange)}"
    for module in MODULES:
        expected |= {name.removeprefix(f"{module}/") for name in files_of(module)}
    found = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    assert expected - found == set()
    assert found - expected == set()


def test_what_is_installed_is_what_was_written(installed):
    for name in files_of("thoraxseg"):
        assert (installed / name).read_bytes() == (ROOT / name).read_bytes(), name


def test_neither_tests_nor_documents_are_shipped(installed):
    assert {path.name for path in installed.iterdir()} == {
        *PACKAGES,
        *(f"{module}.py" for module in MODULES),
        "Resources",
    }


@pytest.mark.parametrize("module", MODULES)
def test_a_module_works_from_the_installed_extension_alone(installed, module, tmp_path):
    if qt_app.whyNot():
        pytest.skip(qt_app.whyNot())
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from Testing import qt_app, slicer_app
slicer_app.start()
qt_app.start()
sys.path = [place for place in sys.path if place and Path(place).resolve() != Path({str(ROOT)!r})]
sys.meta_path = [one for one in sys.meta_path if "editable" not in repr(one)]
for name in [name for name in sys.modules if name.split(".")[0] in {PACKAGES!r}]:
    del sys.modules[name]
entry = slicer_app.load_module(Path({str(installed)!r}) / "{module}.py")
import slicer, thoraxseg, ThoraxSegLib
for package in (thoraxseg, ThoraxSegLib, sys.modules["{module}"]):
    assert Path(package.__file__).is_relative_to({str(installed)!r}), package.__file__
assert Path(slicer.modules.{module}Instance.resourcePath("Icons/{module}.png")).is_file()
from ThoraxSegLib import Dependencies, SampleData
assert Dependencies.requirements()
assert all(sample.thumbnail.is_file() for sample in SampleData.SAMPLES)
from thoraxseg.checkpoints import list_cards, open_checkpoint
assert {{"deepmeta-mouse-mri", "phantom-threshold"}} <= set(list_cards())
assert open_checkpoint("phantom-threshold").weights[0].is_relative_to({str(installed)!r})
getattr(sys.modules["{module}"], "{module}Logic")().close()
print("whole")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout.strip().endswith("whole"), done.stdout + done.stderr


def test_the_metadata_agree_with_the_entry_in_the_index(built):
    entry, extension = json.loads((ROOT / "ThoraxSeg.json").read_text("utf-8")), told(built)
    assert extension["PROJECT"] == "ThoraxSeg" == (ROOT / "ThoraxSeg.json").stem
    assert entry["build_dependencies"] == extension["DEPENDS"].split(";") == ["PyTorch"]
    assert entry["scm_url"] == extension["HOMEPAGE"] + ".git"
    assert set(entry) == {
        "$schema",
        "build_dependencies",
        "build_subdirectory",
        "category",
        "scm_revision",
        "scm_url",
        "tier",
    }
    assert b"\r" not in (ROOT / "ThoraxSeg.json").read_bytes()
    from ThoraxSegLib import Module

    assert extension["HOMEPAGE"] == Module.HOMEPAGE


def test_every_picture_the_metadata_point_to_is_in_the_repository(built):
    extension = told(built)
    for url in [extension["ICONURL"], *extension["SCREENSHOTURLS"].split(" ")]:
        path = ROOT / re.fullmatch(r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/main/(.+)", url)[1]
        assert path.is_file() and path.suffix in {".png", ".jpg"}, url


def test_both_modules_run_generic_tests_and_their_own(built):
    assert set(told(built)["TESTED"].split(";")) == {
        *(f"generic:{module}" for module in MODULES),
        *(f"unit:{module}.py" for module in MODULES),
    }


def test_the_root_file_has_the_order_that_slicers_tools_expect():
    text = (ROOT / "CMakeLists.txt").read_text("utf-8")
    marks = [
        *("cmake_minimum_required(", "project(ThoraxSeg)", "set(EXTENSION_HOMEPAGE", "set(EXTENSION_DEPENDS"),
        *("find_package(Slicer REQUIRED)", "include(${Slicer_USE_FILE})", "add_subdirectory(LungTumorSeg)"),
        *(
            "add_subdirectory(MouseThoraxSeg)",
            "## NEXT_MODULE",
            "include(${Slicer_EXTENSION_GENERATE_CONFIG})",
        ),
        "include(${Slicer_EXTENSION_CPACK})",
    ]
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)
    assert not re.search(r'" \)', text)


def test_a_listed_file_that_does_not_exist_is_refused(tmp_path):
    copy = tmp_path / "source"
    (copy / "thoraxseg").mkdir(parents=True)
    (copy / "ThoraxSegLib").mkdir()
    for package in PACKAGES:
        (copy / package / "__init__.py").touch()
    for module in MODULES:
        shutil.copytree(ROOT / module, copy / module, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "CMakeLists.txt", copy)
    (copy / "LungTumorSeg" / "Resources" / "Icons" / "LungTumorSeg.png").unlink()
    done = configure(copy, tmp_path / "place")
    assert done.returncode != 0 and "LungTumorSeg.png', which does not exist" in " ".join(done.stderr.split())


def test_the_workflow_in_desktop_slicer_is_pinned_and_blocks():
    """It has not run here; what can be known without running it."""
    text = (ROOT / ".github" / "workflows" / "slicer.yml").read_text("utf-8")
    assert 'SLICER_VERSION: "5.12.4"' in text and "continue-on-error" not in text
    scripts = set(re.findall(r"--python-script (\S+)", text))
    assert scripts == {f"Testing/desktop/{path.name}" for path in (ROOT / "Testing" / "desktop").glob("*.py")}
    for script in scripts:
        code = (ROOT / script).read_text("utf-8")
        assert code.rstrip().splitlines()[-1].startswith("slicer.util.exit("), f"{script} leaves Slicer open"
        compile(code, script, "exec")
    paths = text.split("--additional-module-paths")[1].split("--python-script")[0]
    assert all(f'"$PWD/{module}"' in paths for module in MODULES)
