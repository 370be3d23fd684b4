"""Intensities: what the card expects of them, else what any image of the card's modality has.

Sources of the general limits: the project's definitions, section 11.2 (620 mouse CTs and one real mouse MRI), and the
Hounsfield scale itself: air is -1000, water 0. Every chest holds air in its lungs.
"""

from __future__ import annotations

import numpy as np

from thoraxseg.checkpoints.card import Card, Expectation
from thoraxseg.precheck.findings import Finding, Level
from thoraxseg.volume import Volume

DARK_MEAN = 0.15
"""Mean, as a fraction of the maximum, below which a mouse MRI is dark: as on the card of DeepMeta. The one real dark
stack at hand has 0.07, contrast-enhanced 0.29."""
AIR_BELOW_HU = -400.0
"""The darkest 0.5 % of a chest in Hounsfield units are darker than this; lungs of mice have -600 to -350 at rest."""
TISSUE_ABOVE_HU = -300.0
"""The brightest 0.5 % of a body in Hounsfield units are brighter than this; fat has -150 to -80."""
BRIGHTEST_HU = 4500.0
"""And not brighter than this: bone ends at 2500, scanners at 3071; a few voxels of metal do not count."""
CT_LIKE_SHARE = 0.05
"""Share of voxels below `AIR_BELOW_HU` in an MRI above which it is taken for a CT."""
TRAINED_SHARE = 0.01
"""Share of voxels that must lie between the training's percentiles, those of the structures themselves."""
MAX_LOOKED_AT = 2_000_000
"""Voxels that percentiles are taken from: every n-th of a larger image."""


def expectations(image: np.ndarray, card: Card, stage: str) -> list[Finding]:
    """Return a finding for each statistic of `image` that lies outside the card's range for `stage`."""
    subject = {"input": "The image", "prepared": "What the network sees"}[stage]
    found = []
    for expectation in card.input.intensity:
        if expectation.stage != stage:
            continue
        value = _statistic(image, expectation)
        if not expectation.low <= value <= expectation.high:
            dark = value < expectation.low and _is_mouse_mri(card)
            found.append(
                Finding(
                    Level.YELLOW,
                    f"{subject} does not look like the training images: {expectation.statistic} {value:.3g}, expected "
                    f"{expectation.low:g} to {expectation.high:g}. {expectation.remedy}",
                    ("enhance_contrast",) if dark else (),
                )
            )
    return found


def flaws(volume: Volume) -> list[Finding]:
    """Return what no checkpoint can use, whatever it expects: voxels without a number, an image without contrast."""
    array = volume.array
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        return [
            Finding(
                Level.RED,
                f"expected numbers in every voxel, got NaN or infinity in {bad} of {array.size}. Repair the image or "
                "export it again.",
            )
        ]
    if array.min() == array.max():
        return [
            Finding(
                Level.RED,
                f"expected an image with contrast, all voxels are {float(array.min()):g}. Load the image again.",
            )
        ]
    return []


def plausible_intensities(volume: Volume, card: Card) -> list[Finding]:
    """Return what is implausible in the intensities of an image without NaN for the modality of a card.

    Where the card itself says what it expects of the image, that alone counts, and nothing is found here.
    """
    if any(expectation.stage == "input" for expectation in card.input.intensity):
        return []
    seen = _Seen.of(volume.array)
    if seen.low == seen.high:
        return []  # no contrast at all is another matter
    if takes_hounsfield_units(card):
        return _not_hounsfield(seen) or _outside_the_training(seen, card)
    if card.modality == "MRI":
        return _not_magnetic_resonance(seen, card)
    return []


def looked_at(volume: Volume, card: Card) -> Finding:
    """Return what can be said of intensities in which nothing was found wrong."""
    array = volume.array
    span = f"from {float(array.min()):.4g} to {float(array.max()):.4g}"
    if any(expectation.stage == "input" for expectation in card.input.intensity):
        return Finding(Level.GREEN, f"Intensities {span}, as {card.name} expects them.")
    if takes_hounsfield_units(card):
        return Finding(Level.GREEN, f"Intensities {span}: plausible Hounsfield units.")
    if card.modality == "not stated":
        return Finding(
            Level.UNKNOWN, f"{card.name} does not state its modality or range; intensities are {span}."
        )
    if _is_dark(_Seen.of(array)) and _enhances_itself(card):
        return Finding(
            Level.GREEN,
            f"The image is dark ({span}); {card.name} has its contrast enhanced (CLAHE) by itself.",
        )
    relative = (
        "which the checkpoint scales by itself" if card.modality != "MRI" else "which have no unit in MRI"
    )
    return Finding(Level.GREEN, f"Intensities {span}, {relative}; nothing speaks against {card.modality}.")


def takes_hounsfield_units(card: Card) -> bool:
    """Return whether the network needs calibrated intensities: those that are clipped or scaled by fixed numbers."""
    if card.nnunet is not None:
        return card.modality != "MRI" and card.nnunet.channels[0].normalization in ("ct", "ct2")
    return card.modality in ("CT", "micro-CT") and any(
        step.name in ("clip", "rescale") for step in card.preprocess
    )


class _Seen:
    """A sample of the voxels and a few numbers about them."""

    def __init__(self, sample: np.ndarray, low: float, high: float, is_8_bit: bool) -> None:
        self.sample, self.low, self.high, self.is_8_bit = sample, low, high, is_8_bit
        self.darkest, self.median, self.brightest = map(float, np.percentile(sample, [0.5, 50, 99.5]))

    @classmethod
    def of(cls, array: np.ndarray) -> _Seen:
        sample = array.ravel()[:: max(1, array.size // MAX_LOOKED_AT)]
        sample = sample[np.isfinite(sample)] if array.dtype.kind == "f" else sample
        low, high = (float(sample.min()), float(sample.max())) if sample.size else (0.0, 0.0)
        sample = sample if sample.size else np.zeros(1)
        return cls(sample, low, high, array.dtype == np.uint8)

    def share_below(self, value: float) -> float:
        return float(np.mean(self.sample < value))

    def share_between(self, low: float, high: float) -> float:
        return float(np.mean((self.sample >= low) & (self.sample <= high)))


def _statistic(image: np.ndarray, expectation: Expectation) -> float:
    if expectation.statistic == "mean":
        return float(np.mean(image, dtype=np.float64))
    return float(np.percentile(image, float(expectation.statistic[1:])))


def _not_hounsfield(seen: _Seen) -> list[Finding]:
    remedy = (
        "Export the calibrated scan from the scanner's software, or choose a checkpoint that needs no units."
    )
    wanted = "expected Hounsfield units (air -1000, water 0)"
    if seen.is_8_bit or (seen.low >= 0 and seen.high <= 255):
        said = f"{wanted}, got gray values from {seen.low:g} to {seen.high:g}, as pictures of 8 bits have."
    elif seen.brightest < TISSUE_ABOVE_HU:
        said = f"{wanted}, got hardly anything but air: 99.5 % of the voxels are below {seen.brightest:.0f}."
        remedy = "Choose the image of the animal, or another field of view."
    elif seen.darkest > AIR_BELOW_HU:
        offset = " They seem to begin at 0: is the offset of the scanner missing?" if seen.low >= -1 else ""
        said = f"{wanted}, got no air, not even in the lungs: only 0.5 % of the voxels are below {seen.darkest:.0f}."
        said += offset
    elif seen.brightest > BRIGHTEST_HU:
        said = f"{wanted}, got values far above bone: 0.5 % of the voxels are above {seen.brightest:.0f}."
    else:
        return []
    return [Finding(Level.RED, f"{said[0].upper()}{said[1:]} {remedy}")]


def _outside_the_training(seen: _Seen, card: Card) -> list[Finding]:
    told = card.nnunet.channels[0].statistics if card.nnunet is not None else {}
    if not {"percentile_00_5", "percentile_99_5"} <= set(told):
        return []
    low, high = told["percentile_00_5"], told["percentile_99_5"]
    share = seen.share_between(low, high)
    if share >= TRAINED_SHARE:
        return []
    return [
        Finding(
            Level.YELLOW,
            f"Only {share:.1%} of the voxels lie between {low:.0f} and {high:.0f}, where the structures of the "
            f"training images of {card.name} lay: check that image and checkpoint belong together.",
        )
    ]


def _not_magnetic_resonance(seen: _Seen, card: Card) -> list[Finding]:
    share = seen.share_below(AIR_BELOW_HU)
    if share > CT_LIKE_SHARE:
        return [
            Finding(
                Level.RED,
                f"Expected an MRI, got {share:.0%} of the voxels below {AIR_BELOW_HU:g}, which looks like a CT in "
                "Hounsfield units. Choose a checkpoint for CT, or the MRI.",
            )
        ]
    if seen.low < 0 and any(step.name == "divide_by_maximum" for step in card.preprocess):
        return [
            Finding(
                Level.RED,
                f"Expected MRI intensities of 0 and more, got values down to {seen.low:g}. Choose the image as the "
                "scanner wrote it, before any subtraction or normalization.",
            )
        ]
    if _is_mouse_mri(card) and _is_dark(seen) and not _enhances_itself(card):
        return [
            Finding(
                Level.YELLOW,
                f"The image is dark: its mean is {_brightness(seen):.2f} of its maximum, below {DARK_MEAN:g}. Enhance "
                "its contrast if the training images were enhanced, or if contours are missing.",
                ("enhance_contrast",),
            )
        ]
    return []


def _is_mouse_mri(card: Card) -> bool:
    return card.species == "mouse" and card.modality == "MRI"


def _enhances_itself(card: Card) -> bool:
    return any(step.name == "enhance_contrast" for step in card.preprocess)


def _brightness(seen: _Seen) -> float:
    return float(np.mean(seen.sample, dtype=np.float64)) / seen.high


def _is_dark(seen: _Seen) -> bool:
    return seen.low >= 0 and _brightness(seen) < DARK_MEAN
