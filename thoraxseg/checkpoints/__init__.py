"""Trained models: their cards, the catalog that finds them, and safe readers of their weights.

A checkpoint is data. Opening one never runs code from it.
"""

from thoraxseg.checkpoints.card import Card, read_card
from thoraxseg.checkpoints.catalog import Checkpoint, home, list_cards, read_catalog
from thoraxseg.checkpoints.describe import About
from thoraxseg.checkpoints.fetch import is_installed, sample_path
from thoraxseg.checkpoints.keep import convert, install, remove, verify_installed
from thoraxseg.checkpoints.opening import Choice, open_checkpoint
from thoraxseg.checkpoints.published import list_published

__all__ = [
    "About",
    "Card",
    "Checkpoint",
    "Choice",
    "convert",
    "home",
    "install",
    "is_installed",
    "list_cards",
    "list_published",
    "open_checkpoint",
    "read_card",
    "read_catalog",
    "remove",
    "sample_path",
    "verify_installed",
]
