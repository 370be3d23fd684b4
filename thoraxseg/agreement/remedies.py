"""What a person can do where masks do not fit: the same advice in the words of whatever shell asked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Remedies:
    """Ends of sentences, one for each thing that can be done; the defaults are those of the command line."""

    resample: str = "pass --resample to bring this one onto the other's grid (nearest neighbors)"
    """After: Take masks that were drawn on one image, or ..."""
    place: str = (
        "--resample puts it in its place, voxel for voxel; what lies outside that grid is lost, and counted"
    )
    """For masks that cover another part of the same grid."""
    absent: str = "--absent empty counts it as an empty mask"
    """For a structure that one of the observers does not have."""
    merge_lungs: str = "--merge 'lungs=right lung+left lung' takes them together"
    merge: str = "--merge "
    """Before the name of a merged structure, and what is said of it."""
    same: str = "--merge '{theirs}={theirs}+{mine}'"
    """For two structures that mean the same under different names; with these two names in braces."""


COMMAND_LINE = Remedies()
