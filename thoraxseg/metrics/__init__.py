"""How well segmentations agree: with a reference, with one another, and over many cases."""

from thoraxseg.metrics.conformity import Conformity, cigen, cigen_from_pairs, conformity_of_labels
from thoraxseg.metrics.consensus import (
    Staple,
    consensus_labels,
    disagreement,
    leave_one_out,
    majority,
    staple,
    unanimous,
)
from thoraxseg.metrics.lesions import Lesions, match_lesions
from thoraxseg.metrics.overlap import (
    Counts,
    SliceScores,
    count,
    count_labels,
    dice,
    iou,
    precision,
    recall,
    slice_scores,
)
from thoraxseg.metrics.pair import DEFINITIONS, compare_labels
from thoraxseg.metrics.statistics import (
    Interval,
    Wilcoxon,
    benjamini_hochberg,
    bland_altman,
    compare_paired,
    hodges_lehmann,
    holm,
    rank_biserial,
    summary,
    wilcoxon,
)
from thoraxseg.metrics.surface import SurfaceDistances, surface_distances

__all__ = [
    "DEFINITIONS",
    "Conformity",
    "Counts",
    "Interval",
    "Lesions",
    "SliceScores",
    "Staple",
    "SurfaceDistances",
    "Wilcoxon",
    "benjamini_hochberg",
    "bland_altman",
    "cigen",
    "cigen_from_pairs",
    "compare_labels",
    "compare_paired",
    "conformity_of_labels",
    "consensus_labels",
    "count",
    "count_labels",
    "dice",
    "disagreement",
    "hodges_lehmann",
    "holm",
    "iou",
    "leave_one_out",
    "majority",
    "match_lesions",
    "precision",
    "rank_biserial",
    "recall",
    "slice_scores",
    "staple",
    "summary",
    "surface_distances",
    "unanimous",
    "wilcoxon",
]
