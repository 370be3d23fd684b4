"""Python packages that 3D Slicer does not bring: what is missing, and installing it once the user has agreed.

Looking costs nothing: versions are read from the metadata of what is installed, no package is imported. Packages come
from pip through Slicer's own functions; torch comes from the PyTorch extension, which knows the graphics card.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from thoraxseg.errors import DependencyError

Ask = Callable[[str, str], bool]
"""`ask(title, text)`: a question to the user, True for yes."""

REQUIREMENTS = Path(__file__).parent / "Resources" / "ThoraxSegRequirements.txt"
TORCH = "torch>=2.10,<2.14"
"""As in pyproject.toml; a test keeps both in step."""
REQUESTER = "ThoraxSeg"
PROOF_SECONDS = 180


def requirements() -> list[str]:
    """Return the requirement lines of what comes from pip, torch not among them."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def missing() -> list[str]:
    """Return the requirement lines that the installed packages do not meet, torch's as the last."""
    return [line for line in (*requirements(), TORCH) if not _isMet(line)]


def ensure(ask: Ask) -> None:
    """Install what is missing, if anything is, after one question that names it all.

    Nothing is asked or installed while Slicer runs tests. Raises DependencyError when the user declines, when torch is
    missing and the PyTorch extension is not there, or when something could not be installed or does not work.
    """
    lines = missing()
    if not lines:
        return
    if slicer.app.testingEnabled():
        logging.info("Slicer is testing: not installed: %s", ", ".join(lines))
        return
    torchLogic = _pyTorchLogic() if TORCH in lines else None
    if not ask(_("Install Python packages"), _question(lines)):
        raise DependencyError(
            _(
                "These Python packages are missing and were not installed: {packages}. Run again to be asked again."
            ).format(packages=", ".join(lines))
        )
    _pipInstall([line for line in lines if line != TORCH])
    if torchLogic is not None:
        _installTorch(torchLogic)
        proveTorch()
    importlib.invalidate_caches()
    left = missing()
    if left:
        raise DependencyError(
            _(
                "Installing has ended, but these Python packages are still missing or of another version: {packages}. "
                "Restart Slicer and try again; the Python console shows what pip said."
            ).format(packages=", ".join(left))
        )


def proveTorch(python: str | None = None) -> str:
    """Import torch in a child process, where the work is done, and return its version.

    A torch that was installed half has metadata but cannot be imported, and once imported here its files could not be
    replaced. Raises DependencyError, with the last line of what Python said, when it cannot be imported.
    """
    from thoraxseg.job import default_python

    command = [python or default_python(), "-c", "import torch; print(torch.__version__)"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROOF_SECONDS,
            check=False,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        said, good = (done.stdout if done.returncode == 0 else done.stderr), done.returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        said, good = str(error), False
    last = (said.strip().splitlines() or [""])[-1]
    if not good:
        raise DependencyError(
            _(
                "PyTorch is installed but cannot be imported ({reason}). Open the module PyTorch Utils, choose "
                "Uninstall PyTorch, restart Slicer and run again."
            ).format(reason=last)
        )
    return last


def _isMet(line: str) -> bool:
    """Whether an installed package meets a requirement line; `packaging` comes with Slicer 5.10 and later."""
    from packaging.requirements import Requirement

    requirement = Requirement(line)
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


def _question(lines: list[str]) -> str:
    text = _(
        "ThoraxSeg needs Python packages that Slicer does not have yet. They are downloaded from the Python Package "
        "Index and installed into Slicer's Python:\n\n{packages}"
    ).format(packages="\n".join(f"- {line}" for line in lines))
    if TORCH in lines:
        text += "\n\n" + _(
            "torch, which runs the models, is installed by the PyTorch extension in the build for this computer's "
            "graphics card. It is large (0.2 to 3 GB) and takes minutes."
        )
    return text + "\n\n" + _("Install them now?")


def _pipInstall(lines: list[str]) -> None:
    """Install requirement lines with slicer.packaging (5.12) or slicer.util (5.10); the question was asked before."""
    if not lines:
        return
    try:
        try:
            from slicer.packaging import pip_ensure
        except ImportError:
            slicer.util.pip_install(lines)
        else:
            pip_ensure(lines, prompt_install=False, requester=REQUESTER)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        raise DependencyError(
            _(
                "These Python packages could not be installed: {packages} ({reason}). Check the network connection; "
                "the Python console shows what pip said."
            ).format(packages=", ".join(lines), reason=error)
        ) from error


def _pyTorchLogic():
    """Return the logic of the PyTorch extension. Raises DependencyError, saying how to install it, without one."""
    try:
        import PyTorchUtils
    except ImportError as error:
        raise DependencyError(
            _(
                "PyTorch, which runs the models, comes from the Slicer extension PyTorch, which is not installed. Open "
                "View > Extensions Manager, search for PyTorch, click Install, restart Slicer and run again."
            )
        ) from error
    return PyTorchUtils.PyTorchUtilsLogic()


def _installTorch(logic) -> None:
    """Let the PyTorch extension install torch; releases of it differ in what they let be said."""
    wanted = {"askConfirmation": False, "torchVersionRequirement": TORCH.removeprefix("torch")}
    known = inspect.signature(logic.installTorch).parameters
    try:
        installed = logic.installTorch(**{name: value for name, value in wanted.items() if name in known})
    except Exception as error:  # whatever another extension raises, the user reads one sentence
        raise DependencyError(
            _(
                "The PyTorch extension could not install PyTorch ({reason}). Open its module PyTorch Utils to see more."
            ).format(reason=error)
        ) from error
    if installed is None:
        raise DependencyError(
            _("The PyTorch extension did not install PyTorch. Run again to be asked again.")
        )
