"""How patches are chosen, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thoraxseg.errors import OptionError

SAMPLERS = ("uniform", "balanced", "isample", "slices", "whole")
ERRORS = ("absolute", "squared")
SLICES = ("all", "foreground")


@dataclass(frozen=True)
class SamplingOptions:
    """What one batch holds: `batch_size` cases with `patches_per_case` patches each.

    A patch of `(1, h, w)` voxels is a slice, and its batch `(N, C, h, w)`. Where an image is smaller than the patch, it
    lies in the middle, its edge values are repeated as in inference, and labels there are `IGNORE`.
    Raises OptionError for values that cannot be used.
    """

    sampler: str
    """`uniform`: anywhere in the image. `balanced`: a share is centered on voxels of the classes in turn. `isample`:
    where the network is wrong (Berger et al. 2017). `slices`: every slice of every case once, then again; cropped
    anywhere where larger than the patch. `whole`: all of each image in 3-D; its size is that of preprocessing,
    and `patch_size` is not looked at."""
    patch_size: tuple[int, int, int] | None
    batch_size: int
    patches_per_case: int = 1
    foreground_share: float = 1 / 3
    """Of `balanced`."""
    slices: str = "all"
    """Of `slices`: `all`, or those with `foreground` only."""
    refresh_epochs: int = 3
    """Of `isample`: epochs between two error maps."""
    floor: float = 0.01
    """Of `isample`: the share of patches that is drawn anywhere whatever the error."""
    error: str = "absolute"
    """Of `isample`: what an error is. `absolute`: half the sum over classes of |y - p|, which is 1 - p of the true
    class; `squared`: half the sum of (y - p)². Both are |y - p| and its square for a single structure."""
    map_step: float = 0.5
    """Of `isample`: distance of the windows of a prediction as a fraction of the patch."""
    answer_size: tuple[int, int, int] | None = None
    """For networks that answer for the center of a patch only, such as DeepMedic: how much. Labels are of this size,
    and the whole image is answered for: patches reach beyond its edge, as in inference."""
    border_weights: Mapping[str, Any] | None = None
    """Parameters of `losses.border_weights` (class_weights, sigma, w0): batches then have weights, of each patch."""

    def __post_init__(self) -> None:
        _choice("sampler", self.sampler, SAMPLERS)
        _choice("slices", self.slices, SLICES)
        _choice("error", self.error, ERRORS)
        for name in ("patch_size", "answer_size"):
            object.__setattr__(self, name, _checked_size(name, getattr(self, name)))
        for name in ("batch_size", "patches_per_case", "refresh_epochs"):
            if not _is_count(getattr(self, name)):
                raise OptionError(
                    f"sampling: {name}: expected a whole number from 1, got {getattr(self, name)!r}."
                )
        for name, low in (("foreground_share", 0.0), ("floor", 0.0), ("map_step", 1e-3)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= 1:
                raise OptionError(f"sampling: {name}: expected a number from {low:g} to 1, got {value!r}.")
        if self.patch_size is None and self.sampler != "whole":
            raise OptionError(
                f"sampling: {self.sampler}: expected a patch_size (k, j, i) in voxels, got none."
            )
        if self.sampler == "slices" and self.patch_size[0] != 1:
            raise OptionError(f"sampling: slices: expected a patch_size (1, h, w), got {self.patch_size}.")
        if self.sampler in ("slices", "whole") and self.patches_per_case != 1:
            raise OptionError(
                f"sampling: {self.sampler}: expected patches_per_case 1, since nothing is cut out of a case; use "
                f"batch_size. Got {self.patches_per_case}."
            )
        if self.answer_size is not None:
            self._check_answer()

    def _check_answer(self) -> None:
        if self.sampler == "whole":
            raise OptionError("sampling: whole: expected no answer_size, since it is that of a patch.")
        lost = [have - want for have, want in zip(self.patch_size, self.answer_size, strict=True)]
        if any(one < 0 or one % 2 for one in lost):
            raise OptionError(
                f"sampling: answer_size: expected the center of a patch of {self.patch_size} voxels, got "
                f"{self.answer_size}."
            )

    @property
    def box(self) -> tuple[int, int, int] | None:
        """The part of a patch that the network answers for; None: the whole image."""
        return None if self.sampler == "whole" else self.answer_size or self.patch_size

    @property
    def margins(self) -> tuple[int, int, int]:
        """Voxels of a patch on each side that are only looked at."""
        if self.answer_size is None:
            return (0, 0, 0)
        return tuple((a - b) // 2 for a, b in zip(self.patch_size, self.answer_size, strict=True))

    @property
    def dimensions(self) -> int:
        """3, or 2 for slices."""
        return 2 if self.sampler != "whole" and self.patch_size[0] == 1 else 3


def _checked_size(name: str, size: Any) -> tuple[int, int, int] | None:
    if size is None:
        return None
    if not isinstance(size, Sequence) or len(size) != 3 or not all(map(_is_count, size)):
        raise OptionError(f"sampling: {name}: expected three numbers of voxels (k, j, i), got {size!r}.")
    return tuple(size)


def _choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise OptionError(f"sampling: {name}: expected one of {', '.join(known)}, got {value!r}.")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
