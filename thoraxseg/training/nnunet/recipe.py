"""What is asked of nnU-Net: how long and how it learns, and the papers' own numbers by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from thoraxseg.errors import OptionError

CONFIGURATIONS = ("2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres")
"""In the order in which they can be trained: a cascade needs the two before it."""
LOWRES, FULLRES, CASCADE = CONFIGURATIONS[1:]
PLANNERS = {
    "standard": "ExperimentPlanner",
    "residual-m": "nnUNetPlannerResEncM",
    "residual-l": "nnUNetPlannerResEncL",
    "residual-xl": "nnUNetPlannerResEncXL",
}
"""Our names for nnU-Net's planners: the network of its paper, and its residual encoders for GPUs of three sizes."""


def _check_name(what: str, value: Any, known: Any) -> None:
    if value not in known:
        raise OptionError(f"nnU-Net: unknown {what} {value!r:.60}; known are {', '.join(known)}.")


def _check(name: str, value: Any, good: bool, expected: str) -> None:
    if not good:
        raise OptionError(f"nnU-Net: {name}: expected {expected}, got {value!r:.80}.")


def _is_size(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Recipe:
    """How one configuration learns; the defaults are nnU-Net's own. None: as nnU-Net plans it from the data.

    Raises OptionError for a value that cannot be used, naming it.
    """

    epochs: int = 1000
    iterations: int = 250
    """Batches in one epoch."""
    validation_iterations: int = 50
    """Batches on which an epoch's loss and Dice are estimated."""
    initial_lr: float = 0.01
    """It falls to 0 as (1 - epoch / epochs) to the power of 0.9."""
    weight_decay: float = 3e-5
    batch_size: int | None = None
    patch_size: tuple[int, ...] | None = None
    """Along nnU-Net's own axes, which its plans order by spacing; two numbers in 2-D."""
    base_features: int | None = None
    """Feature maps of the first level; each level has twice as many."""
    max_features: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "iterations", "validation_iterations"):
            _check(name, getattr(self, name), _is_size(getattr(self, name)), "a whole number of 1 or more")
        for name in ("batch_size", "base_features", "max_features"):
            value = getattr(self, name)
            _check(name, value, value is None or _is_size(value), "a whole number of 1 or more, or nothing")
        _check(
            "initial_lr",
            self.initial_lr,
            _is_number(self.initial_lr) and self.initial_lr > 0,
            "a number above 0",
        )
        _check(
            "weight_decay",
            self.weight_decay,
            _is_number(self.weight_decay) and self.weight_decay >= 0,
            "0 or more",
        )
        patch = self.patch_size
        if patch is not None:
            good = isinstance(patch, (list, tuple)) and len(patch) in (2, 3) and all(map(_is_size, patch))
            _check("patch_size", patch, good, "two or three whole numbers")
            object.__setattr__(self, "patch_size", tuple(patch))  # JSON gives lists

    @property
    def plan_changes(self) -> dict[str, Any]:
        """What nnU-Net's plans have to be changed for."""
        names = ("batch_size", "patch_size", "base_features", "max_features")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def to_record(self) -> dict[str, Any]:
        """Return all values as plain data, as they come back from JSON."""
        return asdict(self) | {"patch_size": self.patch_size and list(self.patch_size)}


OWN = Recipe()
RECIPES: dict[str, Mapping[str, Recipe]] = {
    "nnunet": dict.fromkeys(CONFIGURATIONS, OWN),
    # Malimban et al. 2022 (DEFINITIONS 5.5): nnU-Net v1 as it is; its 2-D network has at most 480 feature maps.
    "malimban": {**dict.fromkeys(CONFIGURATIONS, OWN), "2d": Recipe(max_features=480)},
    # Kaniewski et al. 2023 (DEFINITIONS 3.3), the numbers that the paper prints.
    "kaniewski": {
        "2d": Recipe(epochs=250, initial_lr=0.01, batch_size=199, patch_size=(128, 128)),
        "3d_fullres": Recipe(epochs=500, initial_lr=0.001, batch_size=2, patch_size=(128, 128, 128)),
    },
}
"""What the papers say they did, by paper and configuration."""


@dataclass(frozen=True)
class NnunetOptions:
    """Everything that a training of nnU-Net needs besides data, configurations, folds and device.

    Raises OptionError for a value that cannot be used, naming it.
    """

    recipe: str = "nnunet"
    """A name in `RECIPES`."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Recipe` that are to differ from it, for every configuration that is trained."""
    planner: str = "standard"
    """A name in `PLANNERS`."""
    gpu_memory_gb: float | None = None
    """What nnU-Net sizes its networks for; None: what the planner is made for (standard: 8)."""
    lowres_factor: float | None = None
    """Makes a 3d_lowres, and with it a cascade, of so much coarser voxels where nnU-Net plans none, since its patch
    covers much of an image already. Malimban's was 1.36 (0.19 for 0.14 mm)."""
    number_of_folds: int = 5
    """Less where there are fewer animals."""
    seed: int = 0
    processes: int | None = None
    """For preprocessing and validation; None: by the machine's cores, one on small ones."""
    augmenters: int | None = None
    """Processes that make batches. None: on a CPU none, and a run that was killed and goes on ends with the same
    weights as an uninterrupted one; on a GPU by the machine's cores, and it does not."""
    mirror_sides: bool = True
    """Whether images are also shown with left and right exchanged, as nnU-Net does: a right lung is then known by its
    shape alone. Without, where it lies counts too."""
    compile_network: bool = False
    """`torch.compile`, on a GPU only; needs a C compiler there."""
    save_seconds: float = 300.0
    """How much of the work a kill may cost, to the next whole epoch."""
    clean_up: bool = False
    """Whether nnU-Net looks in its validation which components are better left out."""

    def __post_init__(self) -> None:
        _check_name("recipe", self.recipe, RECIPES)
        _check_name("planner", self.planner, PLANNERS)
        known = [item.name for item in fields(Recipe)]
        if unknown := sorted(set(self.changes) - set(known)):
            raise OptionError(f"nnU-Net: unknown {', '.join(unknown)}; known are {', '.join(known)}.")
        factor, memory = self.lowres_factor, self.gpu_memory_gb
        good = factor is None or (_is_number(factor) and 1.1 <= factor <= 8)
        _check("lowres_factor", factor, good, "1.1 to 8, or nothing")
        _check(
            "gpu_memory_gb", memory, memory is None or (_is_number(memory) and memory > 0), "a number above 0"
        )
        _check("number_of_folds", self.number_of_folds, _is_size(self.number_of_folds, 2), "2 or more")
        _check("seed", self.seed, _is_size(self.seed, 0), "a whole number of 0 or more")
        _check(
            "processes",
            self.processes,
            self.processes is None or _is_size(self.processes),
            "1 or more, or nothing",
        )
        _check(
            "augmenters",
            self.augmenters,
            self.augmenters is None or _is_size(self.augmenters, 0),
            "0 or more, or nothing",
        )
        seconds = self.save_seconds
        _check("save_seconds", seconds, _is_number(seconds) and seconds >= 0, "a number of 0 or more")

    def recipe_for(self, configuration: str, epochs: int | None = None) -> Recipe:
        """Return how a configuration is trained; raises OptionError where the paper did not train it."""
        known = RECIPES[self.recipe]
        if configuration not in known:
            raise OptionError(
                f"nnU-Net: the recipe {self.recipe!r} is for {' and '.join(known)}, not for {configuration}. Choose "
                "one of these, or the recipe 'nnunet'."
            )
        changes = dict(self.changes) | ({} if epochs is None else {"epochs": epochs})
        recipe = replace(known[configuration], **changes)
        dimensions = 2 if configuration == "2d" else 3
        if recipe.patch_size is not None and len(recipe.patch_size) != dimensions:
            raise OptionError(
                f"nnU-Net: patch_size has {len(recipe.patch_size)} numbers, and {configuration} takes {dimensions}. "
                "Train 2-D and 3-D configurations apart to give them patches."
            )
        return recipe


def check_configurations(configurations: tuple[str, ...]) -> tuple[str, ...]:
    """Return the configurations in the order of their training; raises OptionError for others and for v1."""
    for name in configurations:
        if "v1" in str(name).lower() or str(name).startswith("nnUNetTrainerV2"):
            raise OptionError(
                f"nnU-Net: {name!r} asks for version 1, whose models ThoraxSeg runs but cannot train: the package "
                f"nnunetv2 does not. Train version 2: {', '.join(CONFIGURATIONS)}."
            )
        _check_name("configuration", name, CONFIGURATIONS)
    if not configurations or len(set(configurations)) < len(configurations):
        raise OptionError(
            f"nnU-Net: expected one configuration or more, all different, got {list(configurations)}."
        )
    return tuple(name for name in CONFIGURATIONS if name in configurations)
