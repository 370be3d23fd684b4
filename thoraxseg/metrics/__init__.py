"""How well two segmentations agree."""

from thoraxseg.metrics.overlap import dice

__all__ = ["dice"]
