"""Clean-up of a label map by small named rules, in the order a card gives them."""

from thoraxseg.postprocess.rules import RULES, clean_up

__all__ = ["RULES", "clean_up"]
