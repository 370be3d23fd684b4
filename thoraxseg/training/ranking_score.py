"""How useful a correction of each scan is, by itself; the formula stands in `ranking`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from thoraxseg.training.ranked_results import Contoured, FoundStructure

WEIGHTS = {"doubt": 0.4, "volume": 0.2, "physiology": 0.1, "anatomy": 0.15, "missing": 0.15}
DOUBT_FLOOR, VOLUME_FLOOR, GRAY_FLOOR = 0.01, 0.05, 1e-6
"""Spreads below a hundredth of the largest doubt, 5 % of volume, or rounding are no differences."""
NORMAL_Z = 2.0
"""Volumes within two robust standard deviations say nothing."""
MOUSE_MM3 = {"heart": (223.0, 264.0), "lungs": (417.0, 504.0)}
"""Measured volumes of the heart with blood and of both lungs, DEFINITIONS 11.1; half to twice that is plausible."""
SLACK = 2.0
FARTHEST = 5.0
LUNGS = ("lungs", "right_lung", "left_lung")


@dataclass(eq=False)
class Judged:
    """A scan with all that its place depends on."""

    of: Contoured
    case: str
    animal: str
    parts: dict[str, float | None] = field(default_factory=dict)
    said: list[tuple[float, str]] = field(default_factory=list)
    """Sentences without a full stop, each with what it counts for in the score."""
    score: float = 0.0
    features: np.ndarray = field(default_factory=lambda: np.zeros(0))
    doubt_z: dict[str, float] = field(default_factory=dict)
    volume_z: dict[str, float] = field(default_factory=dict)


def judge(cohort: Sequence[Judged]) -> None:
    """Fill in parts, score, sentences and features of all scans."""
    doubts: dict[tuple[str, ...], dict[int, float]] = defaultdict(dict)
    volumes: dict[str, dict[int, float]] = defaultdict(dict)
    for n, one in enumerate(cohort):
        for structure in one.of.structures:
            if structure.volume_mm3:
                volumes[structure.key][n] = math.log(structure.volume_mm3)
            if structure.doubt is not None and one.of.measure is not None:
                doubts[one.of.checkpoint, one.of.measure.key, structure.key][n] = structure.doubt
    middles = {}
    for (checkpoint, kind, key), values in doubts.items():
        middles[checkpoint, kind, key] = float(np.median([*values.values()]))
        for n, z in _robust_z(values, DOUBT_FLOOR).items():
            cohort[n].doubt_z[key] = z
    usual = {key: math.exp(float(np.median([*values.values()]))) for key, values in volumes.items()}
    for key, values in volumes.items():
        for n, z in _robust_z(values, VOLUME_FLOOR).items():
            cohort[n].volume_z[key] = z
    for one in cohort:
        _judge_doubt(one, middles)
        _judge_volumes(one, usual)
        known = one.parts["entropy"] if one.parts["entropy"] is not None else one.parts["fold_disagreement"]
        one.score = WEIGHTS["doubt"] * (0.5 if known is None else known)
        one.score += sum(WEIGHTS[name] * (one.parts[name] or 0.0) for name in WEIGHTS if name != "doubt")
    _fill_features(cohort, [*volumes])


def _judge_doubt(one: Judged, middles: Mapping[tuple[str, ...], float]) -> None:
    one.parts |= {"entropy": None, "fold_disagreement": None}
    measure = one.of.measure
    if measure is None:
        one.said.append((0.0, "it has no map of doubt"))
        return
    name = "entropy" if measure.key == "entropy_nat" else "fold_disagreement"
    if _missing(one.of):
        one.parts[name] = 1.0
    elif one.doubt_z:
        z = sum(one.doubt_z.values()) / len(one.doubt_z)
        one.parts[name] = (1 + z / (1 + abs(z))) / 2
    words = "mean entropy" if name == "entropy" else "disagreement of the folds"
    for structure in one.of.structures:
        z = one.doubt_z.get(structure.key, 0.0)
        if z > 1 and structure.doubt is not None:
            middle = middles[one.of.checkpoint, measure.key, structure.key] * measure.maximum
            unit = "" if measure.unit in ("", "1") else f" {measure.unit}"
            one.said.append(
                (
                    WEIGHTS["doubt"] * (1 + z / (1 + z)) / 2,
                    f"{words} of {structure.name.lower()} is {structure.doubt * measure.maximum:.3g}{unit}, usual is "
                    f"{middle:.3g}",
                )
            )


def _judge_volumes(one: Judged, usual: Mapping[str, float]) -> None:
    """Judge volumes against the cohort and against mice, the place of the organs, and what is missing."""
    excess = {key: max(0.0, abs(z) - NORMAL_Z) for key, z in one.volume_z.items()}
    one.parts["volume"] = squashed(max(excess.values(), default=0.0))
    for structure in one.of.structures:
        if structure.volume_mm3 and excess[structure.key] > 0:
            size = "large" if one.volume_z[structure.key] > 0 else "small"
            one.said.append(
                (
                    WEIGHTS["volume"] * squashed(excess[structure.key]),
                    f"{structure.name.lower()} is unusually {size}: {structure.volume_mm3:.4g} mm3, usual are "
                    f"{usual[structure.key]:.4g}",
                )
            )
    beyond, sentence = _beyond_mice(one.of)
    one.parts["physiology"] = squashed(beyond) if one.of.species == "mouse" else None
    if beyond > 0:
        one.said.append((WEIGHTS["physiology"] * squashed(beyond), sentence))
    one.parts["anatomy"] = squashed(len(one.of.implausible))
    if one.of.implausible:
        first = one.of.implausible[0].rstrip(".")
        one.said.append((WEIGHTS["anatomy"] * one.parts["anatomy"], first[:1].lower() + first[1:]))
    missing, organs = _missing(one.of), [s for s in one.of.structures if s.key != "tumors"]
    one.parts["missing"] = len(missing) / len(organs) if organs else 0.0
    if missing:
        names = ", ".join(structure.name.lower() for structure in missing)
        one.said.append((WEIGHTS["missing"] + WEIGHTS["doubt"], f"not found: {names}"))


def _missing(of: Contoured) -> list[FoundStructure]:
    return [one for one in of.structures if one.key != "tumors" and not one.volume_mm3]


def _beyond_mice(of: Contoured) -> tuple[float, str]:
    """Return by how many doublings a volume lies outside of what is plausible in a mouse, and the sentence."""
    if of.species != "mouse":
        return 0.0, ""
    volumes = {one.key: one.volume_mm3 for one in of.structures if one.volume_mm3}
    # Tumors lie in the lungs; a lung alone is not both.
    has_both = "lungs" in volumes or {"right_lung", "left_lung"} <= {*volumes}
    lungs = sum(volumes.get(key, 0.0) for key in (*LUNGS, "tumors")) if has_both else None
    worst, sentence = 0.0, ""
    for name, volume in (("heart", volumes.get("heart")), ("lungs", lungs)):
        if volume is None:
            continue
        low, high = MOUSE_MM3[name][0] / SLACK, MOUSE_MM3[name][1] * SLACK
        beyond = max(math.log2(low / volume), math.log2(volume / high))
        if beyond > worst:
            verb = "is" if name == "heart" else "are"
            plausible = f"{low:.0f} to {high:.0f} mm3 are plausible"
            worst, sentence = beyond, f"{name} of {volume:.4g} mm3 {verb} not of a mouse ({plausible})"
    return worst, sentence


def _fill_features(cohort: Sequence[Judged], keys: Sequence[str]) -> None:
    columns: list[list[float]] = []
    for key in sorted(keys):
        columns.append([one.volume_z.get(key, -FARTHEST) for one in cohort])
        columns.append([one.doubt_z.get(key, 0.0) for one in cohort])
    size = {n: float(np.mean(np.log(one.of.spacing_mm))) for n, one in enumerate(cohort)}
    grays = [n for n, one in enumerate(cohort) if one.of.gray is not None]
    measured = [(size, VOLUME_FLOOR)]
    measured += [({n: cohort[n].of.gray[m] for n in grays}, GRAY_FLOOR) for m in range(5) if grays]  # type: ignore[index]
    for values, floor in measured:
        z = _robust_z(values, floor)
        columns.append([z.get(n, 0.0) for n in range(len(cohort))])
    table = np.clip(np.array(columns).T, -FARTHEST, FARTHEST)
    for one, row in zip(cohort, table, strict=True):
        one.features = row


def _robust_z(values: Mapping[int, float], floor: float) -> dict[int, float]:
    """Return the robust z of each value: away from the median, in 1.4826 median absolute deviations, at least floor."""
    array = np.array([*values.values()])
    middle = float(np.median(array))
    spread = max(1.4826 * float(np.median(np.abs(array - middle))), floor)
    return {n: (value - middle) / spread for n, value in values.items()}


def squashed(value: float) -> float:
    """Return s(x) = x / (1 + x) of a number of 0 or more: below 1, and 0.5 at 1."""
    return value / (1 + value)
