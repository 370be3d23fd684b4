"""Trained models: their cards, the catalog that finds them, and safe readers of their weights.

A checkpoint is data. Opening one never runs code from it.
"""

from thoraxseg.checkpoints.card import Card, read_card
from thoraxseg.checkpoints.catalog import Checkpoint, home, list_cards, open_checkpoint
from thoraxseg.checkpoints.fetch import install, is_installed, sample_path

__all__ = [
    "Card",
    "Checkpoint",
    "home",
    "install",
    "is_installed",
    "list_cards",
    "open_checkpoint",
    "read_card",
    "sample_path",
]
