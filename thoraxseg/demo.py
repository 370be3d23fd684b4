"""The demo: a real mouse chest MRI with published weights, or, without network and cache, a phantom."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from thoraxseg.checkpoints import install, is_installed, list_cards, open_checkpoint, sample_path
from thoraxseg.files import check_writable
from thoraxseg.io import read_volume
from thoraxseg.options import SegmentOptions
from thoraxseg.pipeline import segment, segment_file, stack_geometry, write_case
from thoraxseg.progress import Progress, part, silent
from thoraxseg.volume import Volume

REAL_CHECKPOINT, REAL_SAMPLE = "deepmeta-mouse-mri", "souris_8.tif"
PHANTOM_CHECKPOINT = "phantom-threshold"
PHANTOM_WARNING = (
    "PHANTOM: this is a computed drawing of a mouse, not a scan, and the stand-in network only tells dark "
    "from bright. Run 'thoraxseg demo' with a network connection for the real mouse."
)


def run_demo(
    folder: Path, options: SegmentOptions, offline: bool = False, progress: Progress = silent
) -> dict[str, Any]:
    """Run the whole road once into `folder` and return the record of the case.

    Fetches the published package of weights and mouse once; later runs need no network. `offline`
    fetches nothing: without the cached package a phantom and a stand-in network take their place, and
    the record's warnings say so. Raises DownloadError when something has to be fetched and cannot be.
    """
    check_writable(folder)
    card = list_cards()[REAL_CHECKPOINT]
    if offline and not is_installed(card):
        return _phantom_demo(folder, options, progress)
    install(REAL_CHECKPOINT, progress=part(progress, 0.0, 0.1))
    checkpoint = open_checkpoint(REAL_CHECKPOINT)
    sample = sample_path(card, REAL_SAMPLE)
    return segment_file(sample, checkpoint, folder, options, progress=part(progress, 0.1, 1.0))


def real_mouse() -> Volume:
    """Return the real mouse, once its package is installed, on the geometry of its card: the stack states none."""
    card = list_cards()[REAL_CHECKPOINT]
    return read_volume(sample_path(card, REAL_SAMPLE), stack_geometry(card))


def _phantom_demo(folder: Path, options: SegmentOptions, progress: Progress) -> dict[str, Any]:
    from thoraxseg.phantoms import mouse_mri

    progress(0.0, "Making a phantom")
    phantom = mouse_mri(seed=0)
    checkpoint = open_checkpoint(PHANTOM_CHECKPOINT)
    result = segment(phantom.volume, checkpoint, options, part(progress, 0.05, 0.8))
    result = replace(result, warnings=(PHANTOM_WARNING, *result.warnings))
    digest = hashlib.sha256(phantom.volume.array.tobytes()).hexdigest()
    return write_case(result, folder, "phantom_mouse_mri", digest, part(progress, 0.8, 1.0), with_image=True)
