"""Which patches of which cases are shown when."""

from thoraxseg.training.sampling.options import SAMPLERS, SamplingOptions

__all__ = ["SAMPLERS", "SamplingOptions"]
