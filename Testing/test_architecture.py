"""The rules of the design, checked: layers, light imports, the tree, one file a thing, registries as data."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import subprocess
import sys
from enum import Enum
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "thoraxseg"
MODULES = sorted(ENGINE.rglob("*.py"))
TOP_LEVEL = {
    *(".ci", ".github", ".gitignore", ".pre-commit-config.yaml"),
    *("CHANGELOG.md", "CMakeLists.txt", "CONTRIBUTING.md", "LICENSE", "README.md", "pyproject.toml"),
    *("LungTumorSeg", "MouseThoraxSeg", "ThoraxSegLib", "ThoraxSeg.json", "thoraxseg"),
    *("Resources", "Testing", "benchmarks", "docs", "examples"),
}
PACKAGES = {
    *(
        "agreement",
        "batch",
        "checkpoints",
        "cli",
        "contrast",
        "demo",
        "durations",
        "errors",
        "export",
        "files",
        "inference",
        "io",
        "job",
        "measure",
    ),
    *(
        "metrics",
        "models",
        "mrml",
        "options",
        "phantoms",
        "pipeline",
        "postprocess",
        "precheck",
        "preprocess",
    ),
    *(
        "progress",
        "report",
        "reproduce",
        "roads",
        "segmentation",
        "study",
        "sweep",
        "tables",
        "training",
        "volume",
        "web",
        "worker",
    ),
    *("__init__", "__main__"),
}
HEAVY = {
    *(
        "torch",
        "SimpleITK",
        "scipy",
        "skimage",
        "matplotlib",
        "mpl_toolkits",
        "nibabel",
        "pydicom",
        "tifffile",
    ),
    *(
        "nrrd",
        "slicerio",
        "safetensors",
        "jinja2",
        "rich",
        "PIL",
        "nnunetv2",
        "monai",
        "slicer",
        "vtk",
    ),
}
LIBRARY = ROOT / "ThoraxSegLib"
WIDGET_FILES = {"Widget.py", "Parameters.py"}
SLICER_MODULES = ("LungTumorSeg", "MouseThoraxSeg")
MAX_BUNDLED_FILE, MAX_BUNDLED_ALL = 8 << 20, 24 << 20


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: the list of the project's files is not known")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).exists()]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def top_level_imports(path: Path) -> set[str]:
    """Packages imported when the file is: not those inside functions or under TYPE_CHECKING."""
    found = set()
    for node in tree_of(path).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_the_import_contracts_hold():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    outcome = subprocess.run(
        [*command, "--no-cache"], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "0 broken" in outcome.stdout


def test_ruff_finds_nothing():
    outcome = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout


def test_ruff_would_format_nothing():
    outcome = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--no-cache", "--check", "."],
        cwd=ROOT, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stdout


@pytest.mark.parametrize(
    "module",
    [
        "thoraxseg",
        "thoraxseg.cli",
        "thoraxseg.io",
        "thoraxseg.job",
        "thoraxseg.mrml",
        "thoraxseg.report",
        "thoraxseg.worker",
    ],
)
def test_importing_is_light(module):
    code = f"import {module}, sys, json; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    outcome = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    )
    assert not HEAVY & set(json.loads(outcome.stdout))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ENGINE)))
def test_a_heavy_package_is_imported_inside_the_function_that_needs_it(path):
    # Files of modules of torch; what lies beside them imports them when they are needed.
    modules = path.parent.name in ("models", "losses") and path.name != "__init__.py"
    allowed = {"torch"} if modules else set()
    assert not (top_level_imports(path) & HEAVY) - allowed


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ENGINE)))
def test_a_module_opens_with_a_sentence_and_its_public_names_have_docstrings(path):
    tree = tree_of(path)
    assert ast.get_docstring(tree), f"{path.name} does not say what it is for"
    public = [
        node for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    ]  # fmt: skip
    assert not [node.name for node in public if not ast.get_docstring(node)]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ENGINE)))
def test_no_module_runs_code_from_data_or_hides_errors(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "print"}, f"line {node.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {
            "torch.load",
            "torch.hub.load",
            "pickle.load",
        }:
            safe = [
                k
                for k in node.keywords
                if k.arg == "weights_only" and getattr(k.value, "value", None) is True
            ]
            assert safe, f"line {node.lineno}: {ast.unparse(node.func)} without weights_only=True"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: bare except"
        if isinstance(node, ast.Raise) and node.exc is not None:
            assert not ast.unparse(node.exc).startswith(("Exception(", "BaseException(")), (
                f"line {node.lineno}"
            )
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: asserts vanish under python -O"


def test_the_tree_holds_only_what_the_design_names():
    files = tracked_files()
    assert {path.relative_to(ROOT).parts[0] for path in files} <= TOP_LEVEL
    engine = [path.relative_to(ENGINE) for path in files if ENGINE in path.parents]
    assert {path.parts[0].removesuffix(".py") for path in engine} <= PACKAGES


def test_no_folder_of_the_engine_holds_a_single_file():
    for folder in {path.parent for path in MODULES} - {ENGINE}:
        assert len(list(folder.glob("*.py"))) > 1, f"{folder.name} should be a file"


def test_no_engine_package_is_named_like_a_slicer_module():
    names = {path.name.lower() for path in ENGINE.iterdir()}
    assert not names & {"lungtumorseg", "mousethoraxseg", "thoraxseg"}


def test_tests_mirror_the_engine_and_have_no_packages():
    assert not list((ROOT / "Testing").rglob("__init__.py"))
    folders = {
        path.name for path in (ROOT / "Testing").iterdir() if path.is_dir() and path.name != "__pycache__"
    }
    beside = {"ThoraxSegLib", "desktop", "qt_stand_ins"}
    assert folders <= beside | {path.name for path in ENGINE.iterdir() if path.is_dir()}


def test_what_slicer_opens_at_its_start_imports_nothing_heavy():
    """At file scope Slicer's reviewers allow the standard library, Slicer, VTK, numpy; and our own light parts."""
    allowed = {*sys.stdlib_module_names, "slicer", "vtk", "qt", "ctk", "numpy", "thoraxseg", "ThoraxSegLib"}
    for path in (*LIBRARY.rglob("*.py"), *(ROOT / name / f"{name}.py" for name in SLICER_MODULES)):
        assert top_level_imports(path) <= allowed, path.name


def test_the_logic_of_the_modules_knows_no_qt():
    for path in LIBRARY.glob("*.py"):
        if path.name not in WIDGET_FILES:
            names = {alias.name.split(".")[0] for node in ast.walk(tree_of(path)) if isinstance(node, ast.Import)
                     for alias in node.names}  # fmt: skip
            names |= {(node.module or "").split(".")[0] for node in ast.walk(tree_of(path))
                      if isinstance(node, ast.ImportFrom)}  # fmt: skip
            assert not names & {"qt", "ctk", "PythonQt", "PySide6"}, path.name


@pytest.mark.parametrize("name", SLICER_MODULES)
def test_a_module_file_is_a_thin_shell_that_slicer_finds(name):
    folder = ROOT / name
    assert [path.name for path in folder.glob("*.py")] == [f"{name}.py"], (
        "each .py here is taken for a module"
    )
    text = (folder / f"{name}.py").read_text("ascii")
    assert len(text.splitlines()) <= 100
    bases = {node.name: [ast.unparse(base) for base in node.bases] for node in tree_of(folder / f"{name}.py").body
             if isinstance(node, ast.ClassDef)}  # fmt: skip
    assert bases[name] == ["ScriptedLoadableModule"], "Slicer looks for this very word"


def test_an_architecture_is_one_file_with_a_build_function():
    from thoraxseg.models import known_architectures

    files = {path.stem for path in (ENGINE / "models").glob("*.py")} - {"__init__"}
    assert files == set(known_architectures())
    for name in files:
        functions = {
            n.name for n in tree_of(ENGINE / "models" / f"{name}.py").body if isinstance(n, ast.FunctionDef)
        }
        assert "build" in functions, name


def test_every_card_is_named_like_its_file_and_names_only_what_exists():
    from thoraxseg.checkpoints import read_card
    from thoraxseg.models import known_architectures
    from thoraxseg.postprocess import RULES
    from thoraxseg.preprocess import STEPS

    paths = sorted((ENGINE / "checkpoints" / "cards").glob("*.json"))
    assert paths
    for path in paths:
        card = read_card(path)
        assert card.name == path.stem
        assert card.architecture.name in known_architectures()
        assert {step.name for step in card.preprocess} <= set(STEPS)
        assert {rule.name for rule in card.postprocess.rules} <= set(RULES)


def test_bundled_weights_are_small_and_belong_to_a_card():
    from thoraxseg.checkpoints import list_cards, open_checkpoint

    sizes = {
        path.name: path.stat().st_size for path in (ENGINE / "checkpoints" / "weights_bundled").iterdir()
    }
    assert max(sizes.values()) <= MAX_BUNDLED_FILE
    assert sum(sizes.values()) <= MAX_BUNDLED_ALL
    bundled = [card for card in list_cards().values() if card.source.kind == "bundled"]
    assert {path.name for card in bundled for path in open_checkpoint(card.name).weights} == set(sizes)


def test_options_are_frozen_and_closed_choices_are_enums():
    from thoraxseg import options

    for name in dir(options):
        cls = getattr(options, name)
        if isinstance(cls, type) and dataclasses.is_dataclass(cls):
            assert cls.__dataclass_params__.frozen
            for field in dataclasses.fields(cls):
                assert "Literal" not in str(field.type)
                assert field.metadata["help"].endswith(".")
                assert isinstance(field.default, (Enum, int, float, str, bool))


def test_every_option_is_a_flag_of_the_command_line():
    from thoraxseg.cli import app
    from thoraxseg.options import SegmentOptions

    for command in ("segment", "demo"):
        flags = {flag for parameter in app.commands[command].params for flag in parameter.opts}
        assert {"--" + field.name.replace("_", "-") for field in dataclasses.fields(SegmentOptions)} <= flags


def test_ci_runs_the_very_test_command_of_the_readme():
    command = 'python -m pip install ".[test]" && python -m pytest'
    for name in ("README.md", ".ci/run", ".github/workflows/tests.yml"):
        assert command in (ROOT / name).read_text("utf-8"), name


def test_the_readme_says_how_to_run_the_demo_and_that_it_is_for_research():
    text = (ROOT / "README.md").read_text("utf-8")
    assert "python -m pip install . && thoraxseg demo" in text
    assert "esearch use only" in text


def test_links_and_pictures_of_the_pages_exist():
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_no_file_names_the_machine_it_was_written_on():
    here = re.compile("|".join(("/" + "work/", "/" + "root/", "/" + "tmp/", "file" + "s.python" + "hosted")))
    for path in tracked_files():
        if (
            path.suffix in {".py", ".md", ".toml", ".json", ".yml", ".yaml", ".j2", ".ui", ".txt", ".cmake"}
            or path.parent.name == ".ci"
        ):
            assert not here.search(path.read_text("utf-8")), path.name


def test_every_example_is_run_by_a_test():
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "Testing").glob("test_examples.py"))
    assert 'glob("*.py")' in tests
    assert list((ROOT / "examples").glob("*.py"))
