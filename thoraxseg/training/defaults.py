"""The checkpoints that come with ThoraxSeg: how they are trained, on phantoms alone.

`python -m thoraxseg.training.defaults NAME --output DIR` trains one and goes on where it was stopped; on a CPU it
takes hours, on a GPU minutes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thoraxseg.errors import OptionError
from thoraxseg.progress import Progress, silent
from thoraxseg.training.settings import Settings
from thoraxseg.training.synthetic import SyntheticOptions, SyntheticSource
from thoraxseg.training.trainer import LAST, Ended, Trainer, kept_weights, read_state

if TYPE_CHECKING:
    import torch

ARCHITECTURE = "plain_conv_unet"
VALIDATION_SEED = 900_000
"""Phantoms from here on are never trained on: training seeds are multiples of a large prime and what follows them."""
STEP = 0.5
_EPOCH = 200
PRIOR_IN_WORDS = {
    "mouse-ct": "Most of its phantoms have Hounsfield-like values of mouse micro-CT, with and without contrast agent; "
    "in the others every tissue is any gray.",
    "mouse-mri": "Most of its phantoms have gray values as measured in one real bSSFP mouse MRI (statistics alone: the "
    "image was not shown to the network); in the others every tissue is any gray.",
    "human-ct": "Most of its phantoms have ordinary Hounsfield units; in the others every tissue is any gray.",
}
"""What the images of a kind look like."""


@dataclass(frozen=True)
class Default:
    """One checkpoint: what it sees and finds."""

    name: str
    options: SyntheticOptions
    structures: tuple[str, ...]
    """Keys of the labels 1, 2 and so on."""
    features: tuple[int, ...] = (16, 32, 64, 128, 128)
    epochs: int = 18

    @property
    def arguments(self) -> dict[str, Any]:
        """What the network is built with."""
        stages = len(self.features)
        return {
            "in_channels": 1,
            "classes": 1 + len(self.structures),
            "dimensions": 3,
            "n_stages": stages,
            "features_per_stage": list(self.features),
            "kernel_sizes": 3,
            "strides": [1, *[2] * (stages - 1)],
            "n_conv_per_stage": 2,
            "n_conv_per_stage_decoder": 2,
            "conv_bias": True,
        }

    def settings(self, **changes: Any) -> Settings:
        """Return how it is trained."""
        return Settings(
            **{
                "epochs": self.epochs,
                "steps_per_epoch": _EPOCH,
                "loss": {"name": "cross-entropy-dice", "batch_dice": True},
                "optimizer": {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-4},
                "schedule": {"name": "cosine", "warm_up_epochs": 1},
                "precision": "bfloat16",
                "ema": 0.995,
                "clip_norm": 5.0,
                "validate_every": 3,
                **changes,
            }
        )


DEFAULTS: dict[str, Default] = {
    item.name: item
    for item in (
        Default(
            "mouse-ct-thorax-mini",
            SyntheticOptions("mouse-ct", 0.36, any_pose=0.8, mirrored=0.0, swap={3: 4}),
            ("heart", "spinal_cord", "right_lung", "left_lung"),
        ),
        Default(
            "mouse-mri-lung-tumor-mini",
            SyntheticOptions("mouse-mri", 0.25, rician=True, bias=0.4),
            ("lungs", "tumors"),
        ),
        Default(
            "human-ct-lung-tumor-mini",
            SyntheticOptions("human-ct", 3.5, any_pose=0.2),
            ("lungs", "tumors"),
        ),
    )
}


def build(default: Default) -> torch.nn.Module:
    """Return the network of a default checkpoint with random weights."""
    from thoraxseg.models import build_network

    return build_network(ARCHITECTURE, default.arguments)


def train_default(
    name: str,
    folder: Path,
    seed: int = 1,
    progress: Progress = silent,
    start: Path | None = None,
    **changes: Any,
) -> Ended:
    """Train one of `DEFAULTS` in a folder, from where an earlier run there stopped.

    `start` is the folder of another run of it, whose last weights are gone on with. `changes` are settings.
    Raises OptionError for another name, and what `Trainer.run` raises.
    """
    import torch

    from thoraxseg.training.losses import build_loss

    if name not in DEFAULTS:
        raise OptionError(f"expected one of {', '.join(DEFAULTS)}, got {name!r}.")
    default = DEFAULTS[name]
    settings = default.settings(seed=seed, **changes)
    torch.manual_seed(seed)
    network = build(default)
    if start is not None:
        network.load_state_dict(kept_weights(read_state(Path(start) / LAST)))
    parameters = {key: value for key, value in settings.loss.items() if key != "name"}
    loss = build_loss(settings.loss["name"], parameters, default.arguments["classes"])
    source = SyntheticSource(default.options, seed)
    return Trainer(network, loss, source, settings, folder, Validation(default), progress).run()


class Validation:
    """Mean Dice per structure on phantoms that are never trained on, scanned as the training ones are."""

    def __init__(self, default: Default, count: int = 4) -> None:
        from thoraxseg.phantoms.randomized import randomized

        self.default = default
        mild = replace(default.options, noise=default.options.noise / 2, coarse=2.0)
        self.cases = []
        for n in range(count):
            phantom = randomized(mild.kind, VALIDATION_SEED + n, mild.spacing_mm)
            image = np.asarray(phantom.volume.array, dtype=np.float32)
            rng = np.random.default_rng([VALIDATION_SEED, n])
            image = (image - image.mean()) / image.std()
            image += rng.normal(0, mild.noise * rng.random(), image.shape).astype(np.float32)
            self.cases.append((image, phantom.truth.labels))

    def __call__(self, network: torch.nn.Module, epoch: int) -> dict[str, float]:
        """Return `dice`, the mean over structures, and `dice_<structure>`."""
        import torch

        from thoraxseg.inference.sliding_window import predict_windows

        device = next(network.parameters()).device

        def scores(window: np.ndarray) -> np.ndarray:
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
                return network(torch.from_numpy(window).to(device)).float().cpu().numpy()

        keys, counts = self.default.structures, np.zeros((len(self.default.structures), 2))
        for image, truth in self.cases:
            found = predict_windows(scores, image[None], self.default.options.patch_size, STEP).argmax(axis=0)
            for n in range(len(keys)):
                mine, true = found == n + 1, truth == n + 1
                counts[n] += (
                    2 * np.count_nonzero(mine & true),
                    np.count_nonzero(mine) + np.count_nonzero(true),
                )
        dice = counts[:, 0] / np.maximum(counts[:, 1], 1)
        return {"dice": float(dice.mean())} | {
            f"dice_{key}": float(d) for key, d in zip(keys, dice, strict=True)
        }


def _main() -> None:
    import argparse
    import sys

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(DEFAULTS))
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--start", type=Path, help="folder of a run whose weights are gone on with")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--lr", type=float, help="learning rate instead of the recipe's")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    given = parser.parse_args()
    if given.threads:
        import torch

        torch.set_num_threads(given.threads)
    last = [""]

    def show(fraction: float, message: str) -> None:
        epoch = message.split(",")[0]
        if epoch != last[0]:
            last[0] = epoch
            sys.stderr.write(f"{fraction:5.1%} {message}\n")
            sys.stderr.flush()

    changes: dict[str, Any] = {} if given.epochs is None else {"epochs": given.epochs}
    if given.lr is not None:
        changes["optimizer"] = {**DEFAULTS[given.name].settings().optimizer, "lr": given.lr}
    ended = train_default(given.name, given.output, given.seed, show, given.start, **changes)
    sys.stderr.write(f"{ended}\n")


if __name__ == "__main__":
    _main()
