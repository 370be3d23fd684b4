"""What the observers of a scan agree on -> masks and maps in files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from thoraxseg.agreement.scan import Drawn
from thoraxseg.agreement.scan_scores import OBSERVER_DEFINITIONS
from thoraxseg.io import ASSUMED_KEY, write_scalar_nrrd, write_segmentation
from thoraxseg.metrics import consensus_labels, disagreement
from thoraxseg.segmentation import Segmentation


def rules_of(staple: bool) -> tuple[str, ...]:
    """Return the rules by which a consensus is written."""
    return ("majority", "all", "staple") if staple else ("majority", "all")


def make_consensus(drawn: Drawn, rule: str) -> tuple[np.ndarray, list[str]]:
    """Return the label map `(K, J, I)` that a rule makes of the observers', and what had to be decided for it.

    A structure that fewer than two observers contoured has no consensus, and takes no voxel from the others.
    """
    agreed = [label for label in drawn.matched.structures if len(drawn.who(label)) >= 2]
    labels, notes = consensus_labels(drawn.maps, agreed, drawn.contoured, rule)
    return labels, [f"Consensus ({rule}): {note}." for note in notes]


def write_consensus(
    drawn: Drawn, consensus: Mapping[str, np.ndarray], folder: Path, prefix: str = ""
) -> None:
    """Write the label maps of `make_consensus` by rule as .seg.nrrd, and the disagreement as .nrrd."""
    matched = drawn.matched
    for rule, labels in consensus.items():
        segmentation = Segmentation(labels, matched.ijk_to_ras, dict(matched.structures), rule)
        write_segmentation(folder / f"{prefix}consensus_{rule}.seg.nrrd", segmentation)
    share = disagreement(drawn.maps, drawn.contoured)
    keys = {
        "thoraxseg_quantity": OBSERVER_DEFINITIONS["disagreement"],
        ASSUMED_KEY: "assumed" if matched.is_assumed else "stated",
    }
    write_scalar_nrrd(folder / f"{prefix}disagreement.nrrd", share, matched.ijk_to_ras, keys)
