"""Accepted contours -> data sets to train on, for nnU-Net and for ourselves."""

from thoraxseg.export.manifest import About, Line, write_manifest
from thoraxseg.export.nnunet_dataset import Exported, ExportOptions, export_dataset
from thoraxseg.export.reading import check_pair, read_accepted, reviewed_structures

__all__ = [
    "About",
    "ExportOptions",
    "Exported",
    "Line",
    "check_pair",
    "export_dataset",
    "read_accepted",
    "reviewed_structures",
    "write_manifest",
]
