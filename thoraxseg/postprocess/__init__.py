"""Clean-up of a label map by small named rules: in the order a card gives them, or as a user chooses."""

from thoraxseg.postprocess.cleaning import Cleaning, Unit, clean, words_of, words_of_card
from thoraxseg.postprocess.rules import RULES, check_plan, clean_up

__all__ = [
    "RULES",
    "Cleaning",
    "Unit",
    "check_plan",
    "clean",
    "clean_up",
    "words_of",
    "words_of_card",
]
