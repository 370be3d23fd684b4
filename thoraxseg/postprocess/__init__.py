"""Clean-up of a label map by small named rules, in the order a card gives them."""

from thoraxseg.postprocess.rules import RULES, check_plan, clean_up

__all__ = ["RULES", "check_plan", "clean_up"]
