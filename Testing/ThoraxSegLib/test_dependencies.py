"""Packages that Slicer lacks: seen without importing them, installed after one question, torch by its extension."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import types
from pathlib import Path

import pytest
import slicer
from packaging.requirements import Requirement

from thoraxseg.errors import DependencyError
from ThoraxSegLib import Dependencies

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
BUNDLED = {"numpy", "scipy", "simpleitk", "pillow", "pydicom"}
"""What 3D Slicer 5.10 and later bring (its SuperBuild); its DICOM reader replaces ours."""
COMMAND_LINE = {"click", "rich"}
"""What only the command line imports."""


class Asked:
    """A user who is asked; remembers what."""

    def __init__(self, says: bool) -> None:
        self.says, self.texts = says, []

    def __call__(self, title: str, text: str) -> bool:
        self.texts.append(text)
        return self.says


@pytest.fixture
def installed(monkeypatch):
    """What pretends to be installed: `{name: version}`, to be changed as pip would."""
    packages = {Requirement(line).name.lower(): "9999" for line in Dependencies.requirements()}
    packages["torch"] = "2.12.0+cpu"

    def version(name: str) -> str:
        if name.lower() not in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return packages[name.lower()]

    monkeypatch.setattr(Dependencies.importlib.metadata, "version", version)
    return packages


@pytest.fixture
def userApp(app):
    """The application as users have it: not in testing mode."""
    app.is_testing = False
    return app


@pytest.fixture
def pip510(monkeypatch, installed):
    """Slicer 5.10: only slicer.util.pip_install."""
    calls = []

    def pip_install(lines):
        calls.append(lines)
        installed.update({Requirement(line).name.lower(): "9999" for line in lines})

    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setattr(slicer.util, "pip_install", pip_install)
    return calls


@pytest.fixture
def pip512(monkeypatch, installed):
    """Slicer 5.12: slicer.packaging."""
    calls = []

    def pip_ensure(lines, prompt_install=True, requester=None):
        calls.append((lines, prompt_install, requester))
        installed.update({Requirement(line).name.lower(): "9999" for line in lines})

    module = types.ModuleType("slicer.packaging")
    module.pip_ensure = pip_ensure
    monkeypatch.setitem(sys.modules, "slicer.packaging", module)
    monkeypatch.setattr(slicer.util, "pip_install", lambda lines: pytest.fail("the older way was taken"))
    return calls


@pytest.fixture
def torchExtension(monkeypatch, installed):
    """The PyTorch extension; `made(installTorch)` says how it installs."""

    def made(installTorch):
        module = types.ModuleType("PyTorchUtils")
        module.PyTorchUtilsLogic = type("PyTorchUtilsLogic", (), {"installTorch": staticmethod(installTorch)})
        monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
        monkeypatch.setattr(Dependencies, "proveTorch", lambda: "2.12.0")

    return made


def in_pyproject() -> dict[str, str]:
    """Name -> requirement line of the project's dependencies (Python 3.10 has no tomllib)."""
    text = PYPROJECT.read_text(encoding="utf-8")
    block = text.split("\ndependencies = [\n", 1)[1].split("\n]", 1)[0]
    lines = [line.split("#")[0].strip().strip('",') for line in block.splitlines()]
    return {Requirement(line).name.lower(): line for line in lines if line}


def test_the_list_for_slicer_is_that_of_the_project():
    declared = in_pyproject()
    wanted = {n: line for n, line in declared.items() if n not in BUNDLED | COMMAND_LINE | {"torch"}}
    assert {Requirement(line).name.lower(): line for line in Dependencies.requirements()} == wanted
    assert declared["torch"] == Dependencies.TORCH
    assert set(declared) > BUNDLED | COMMAND_LINE


def test_what_only_the_command_line_needs_is_imported_by_it_alone():
    engine = PYPROJECT.parent / "thoraxseg"
    found = {
        path.relative_to(engine).parts[0]
        for path in engine.rglob("*.py")
        for name in COMMAND_LINE
        if f"import {name}" in path.read_text("utf-8") or f"from {name}" in path.read_text("utf-8")
    }
    assert found <= {"cli", "__main__.py"}


def test_in_a_whole_environment_nothing_is_missing_and_nothing_is_asked(userApp):
    assert Dependencies.missing() == []
    Dependencies.ensure(lambda *_: pytest.fail("asked for nothing"))


def test_what_is_missing_or_too_old_is_named_with_torch_last(installed):
    del installed["jinja2"]
    installed["safetensors"] = "0.3.0"
    del installed["torch"]
    assert Dependencies.missing() == ["Jinja2>=3.1", "safetensors>=0.4.3", Dependencies.TORCH]


@pytest.mark.parametrize(
    ("version", "good"), [("2.10.0", True), ("2.12.1+cu128", True), ("2.9.1", False), ("2.14.0", False)]
)
def test_torch_is_judged_by_its_version_whatever_it_was_built_for(installed, version, good):
    installed["torch"] = version
    assert (Dependencies.TORCH not in Dependencies.missing()) is good


def test_looking_imports_none_of_the_packages():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from Testing import slicer_app as app;"
        "app.publish_base_classes();"
        "from ThoraxSegLib import Dependencies; Dependencies.missing();"
        "print([n for n in ('torch', 'skimage', 'matplotlib', 'tifffile', 'jinja2', 'pip') if n in sys.modules])"
    )
    root = str(PYPROJECT.parent)
    done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_while_slicer_tests_nothing_is_asked_or_installed(app, installed, pip512):
    del installed["jinja2"]
    Dependencies.ensure(lambda *_: pytest.fail("asked"))
    assert pip512 == [] and "jinja2" not in installed


def test_nothing_is_installed_when_the_user_declines(userApp, installed, pip512):
    del installed["jinja2"]
    asked = Asked(False)
    with pytest.raises(DependencyError, match=r"not installed: Jinja2>=3\.1\."):
        Dependencies.ensure(asked)
    assert pip512 == [] and len(asked.texts) == 1


def test_one_question_names_everything_and_slicer_does_not_ask_again(userApp, installed, pip512):
    del installed["jinja2"], installed["tifffile"]
    asked = Asked(True)
    Dependencies.ensure(asked)
    assert pip512 == [(["Jinja2>=3.1", "tifffile>=2024.1.30"], False, "ThoraxSeg")]
    assert len(asked.texts) == 1 and "- Jinja2>=3.1\n- tifffile>=2024.1.30" in asked.texts[0]
    assert "torch" not in asked.texts[0]


def test_slicer_5_10_installs_with_its_own_pip(userApp, installed, pip510):
    del installed["jinja2"]
    Dependencies.ensure(Asked(True))
    assert pip510 == [["Jinja2>=3.1"]]


def test_torch_comes_from_its_extension_and_never_from_pip(userApp, installed, pip512, torchExtension):
    del installed["torch"], installed["jinja2"]
    said = []

    def installTorch(askConfirmation=False, forceComputationBackend=None, torchVersionRequirement=None):
        said.append((askConfirmation, forceComputationBackend, torchVersionRequirement))
        installed["torch"] = "2.12.0"
        return object()

    torchExtension(installTorch)
    asked = Asked(True)
    Dependencies.ensure(asked)
    assert said == [(False, None, ">=2.10,<2.14")]
    assert [lines for lines, *_ in pip512] == [["Jinja2>=3.1"]]
    assert "PyTorch extension" in asked.texts[0]


def test_an_older_pytorch_extension_is_told_only_what_it_understands(
    userApp, installed, pip512, torchExtension
):
    del installed["torch"]

    def installTorch(askConfirmation=False):
        installed["torch"] = "2.12.0"
        return object()

    torchExtension(installTorch)
    Dependencies.ensure(Asked(True))


def test_without_the_pytorch_extension_the_user_reads_how_to_get_it(userApp, installed, pip512, monkeypatch):
    del installed["torch"]
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(DependencyError, match="Extensions Manager, search for PyTorch"):
        Dependencies.ensure(lambda *_: pytest.fail("asked before it was known whether it can be done"))
    assert pip512 == []


def test_a_torch_that_was_not_installed_after_all_is_an_error(userApp, installed, pip512, torchExtension):
    del installed["torch"]
    torchExtension(lambda askConfirmation: None)
    with pytest.raises(DependencyError, match="did not install"):
        Dependencies.ensure(Asked(True))
    torchExtension(lambda askConfirmation: 1 / 0)
    with pytest.raises(DependencyError, match="division by zero"):
        Dependencies.ensure(Asked(True))
    torchExtension(lambda askConfirmation: "says it did")
    with pytest.raises(DependencyError, match=r"still missing.*torch"):
        Dependencies.ensure(Asked(True))


def test_a_failing_pip_is_one_sentence(userApp, installed, pip512, monkeypatch):
    del installed["jinja2"]

    def fails(*args, **kwargs):
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(sys.modules["slicer.packaging"], "pip_ensure", fails)
    with pytest.raises(DependencyError, match="network connection"):
        Dependencies.ensure(Asked(True))


def test_torch_is_proven_in_a_child_process():
    assert Dependencies.proveTorch().split(".")[0].isdigit()


def test_a_torch_that_cannot_be_imported_is_an_error_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('half installed')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(DependencyError, match=r"half installed.*Uninstall PyTorch"):
        Dependencies.proveTorch()


def test_a_python_that_does_not_start_is_an_error_with_the_reason(tmp_path):
    with pytest.raises(DependencyError, match="cannot be imported"):
        Dependencies.proveTorch(str(tmp_path / "no-python"))
