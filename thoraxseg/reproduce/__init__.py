"""The papers' tables again: each paper's protocol on its data set, and our numbers beside the printed ones."""

from __future__ import annotations

from thoraxseg.reproduce.harness import NAMES, Reproduction, Request, reproduce, write
from thoraxseg.reproduce.published import PAPERS, read_paper
from thoraxseg.reproduce.running import parse_checkpoint

__all__ = [
    "NAMES",
    "PAPERS",
    "Reproduction",
    "Request",
    "parse_checkpoint",
    "read_paper",
    "reproduce",
    "write",
]
