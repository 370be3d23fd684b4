"""Optimizers and schedules of learning rates by name, whose state a resumed run takes up exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from thoraxseg.errors import OptionError
from thoraxseg.training.losses.values import call_with, flag, number, one_of, positive, whole

if TYPE_CHECKING:
    import torch

OPTIMIZER_NAMES = ("adam", "adamw", "sgd")
"""Every optimizer that `build_optimizer` knows."""

SCHEDULE_NAMES = ("constant", "cosine", "cosine-restarts", "poly", "plateau")
"""Every schedule that `build_schedule` knows."""


def build_optimizer(network: torch.nn.Module, options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Return the optimizer `options["name"]` over the parameters of `network` that learn.

    Options: `lr` (needed) and `weight_decay` of all; `betas`, `eps` of adam (decay as in the gradient) and adamw
    (decoupled); `momentum` 0.99 and `nesterov` of sgd, which default to nnU-Net's.
    Raises OptionError for an unknown name or option, a value that cannot be used, or a network that cannot learn.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not parameters:
        raise OptionError("The network has no parameters that learn; unfreeze some.")
    build, named = _named("optimizer", options, {"adam": _adam, "adamw": _adamw, "sgd": _sgd})
    return call_with(partial(build, parameters), f"optimizer {options['name']}", named)


def _adam(
    parameters: list,
    lr: float,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    import torch

    return torch.optim.Adam(parameters, **_adam_numbers(lr, betas, eps, weight_decay))


def _adamw(
    parameters: list,
    lr: float,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> torch.optim.Optimizer:
    import torch

    return torch.optim.AdamW(parameters, **_adam_numbers(lr, betas, eps, weight_decay))


def _adam_numbers(lr: float, betas: Sequence[float], eps: float, weight_decay: float) -> dict[str, Any]:
    if isinstance(betas, str) or not isinstance(betas, Sequence) or len(betas) != 2:
        raise OptionError(f"betas: expected two numbers, got {betas!r}.")
    return {
        "lr": positive("lr", lr),
        "betas": tuple(number("betas", beta, low=0, high=1 - 1e-9) for beta in betas),
        "eps": positive("eps", eps),
        "weight_decay": number("weight_decay", weight_decay, low=0),
    }


def _sgd(
    parameters: list, lr: float, momentum: float = 0.99, nesterov: bool = True, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    import torch

    momentum = number("momentum", momentum, low=0, high=1 - 1e-9)
    if flag("nesterov", nesterov) and momentum == 0:
        raise OptionError("nesterov: needs a momentum above 0; set nesterov to false for plain descent.")
    return torch.optim.SGD(
        parameters,
        lr=positive("lr", lr),
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=number("weight_decay", weight_decay, low=0),
    )


class Schedule:
    """Learning rate = the optimizer's own x a factor of how many steps were counted.

    Restored by `load_state_dict` in any order with the optimizer's state: the rate follows from the count alone.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, factor: Callable[[int], float], step_after: str = "epoch"
    ) -> None:
        self.optimizer = optimizer
        self.step_after = step_after
        """Whether `step` is to be called after each "step" of the optimizer or after each "epoch"."""
        self.count = 0
        self._factor = factor
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self._apply()

    def step(self, score: float | None = None) -> None:
        """Count one more; `score`, the validation loss, matters to "plateau" only."""
        self.count += 1
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, plain numbers."""
        return {"count": self.count, "rates": list(self._rates)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called, and set the optimizer's rates to it."""
        self.count, self._rates = state["count"], list(state["rates"])
        self._apply()

    def _apply(self) -> None:
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self._factor(self.count)


class PlateauSchedule(Schedule):
    """The factor shrinks after more than `patience` epochs without a better score (torch's ReduceLROnPlateau).

    A better score is one that is lower (`mode` "min") or higher ("max") than the best by more than 1e-4 of it.
    """

    _WATCHED = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")

    def __init__(
        self, optimizer: torch.optim.Optimizer, patience: int, shrink: float, minimum: float, mode: str
    ) -> None:
        import torch

        super().__init__(optimizer, factor=lambda count: 1.0)
        self._torch = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode=mode, factor=shrink, patience=patience, min_lr=minimum
        )

    def step(self, score: float | None = None) -> None:
        """Count one more epoch; one without a score (no validation in it) changes nothing."""
        self.count += 1
        if score is not None:
            self._torch.step(score)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, plain numbers."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        watched = {name: getattr(self._torch, name) for name in self._WATCHED}
        return {"count": self.count, "rates": rates, **watched}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where `state_dict` was called, and set the optimizer's rates to it."""
        super().load_state_dict(state)
        self._torch.load_state_dict({name: state[name] for name in self._WATCHED})


def build_schedule(
    optimizer: torch.optim.Optimizer, options: Mapping[str, Any], epochs: int, steps_per_epoch: int
) -> Schedule:
    """Return the schedule `options["name"]` of a run of `epochs` with `steps_per_epoch` steps of the optimizer each.

    - "constant": the optimizer's rate throughout.
    - "cosine": rises in a line over `warm_up_epochs` (0), then falls along half a cosine to `minimum` (0, a share of
      the rate) at the end of the run; steps after each step.
    - "cosine-restarts": falls to `minimum` within `first_epochs` (5) and starts again, each time `multiplier` (1)
      times as long (Loshchilov 2017).
    - "poly": (1 - epoch / epochs)^`exponent` (0.9), as in nnU-Net.
    - "plateau": x `factor` (0.1) after more than `patience` (10) epochs without a better score, down to `minimum`
      (a rate); `mode` "min" where lower scores are better, else "max".

    Raises OptionError for an unknown name or option, or a value that cannot be used.
    """
    whole("epochs", epochs, low=1)
    whole("steps_per_epoch", steps_per_epoch, low=1)

    def constant() -> Schedule:
        return Schedule(optimizer, lambda count: 1.0)

    def cosine(warm_up_epochs: float = 0, minimum: float = 0) -> Schedule:
        number("minimum", minimum, low=0, high=1)
        steps = epochs * steps_per_epoch
        rising = round(number("warm_up_epochs", warm_up_epochs, low=0, high=epochs) * steps_per_epoch)

        def factor(count: int) -> float:
            if count < rising:
                return (count + 1) / (rising + 1)
            return _half_cosine(min(1, (count - rising) / max(1, steps - rising)), minimum)

        return Schedule(optimizer, factor, step_after="step")

    def cosine_restarts(first_epochs: int = 5, multiplier: int = 1, minimum: float = 0) -> Schedule:
        whole("first_epochs", first_epochs, low=1)
        whole("multiplier", multiplier, low=1)
        number("minimum", minimum, low=0, high=1)

        def factor(count: int) -> float:
            length = first_epochs
            while count >= length:
                count -= length
                length *= multiplier
            return _half_cosine(count / length, minimum)

        return Schedule(optimizer, factor)

    def poly(exponent: float = 0.9) -> Schedule:
        number("exponent", exponent, low=0)
        return Schedule(optimizer, lambda count: max(0.0, 1 - count / epochs) ** exponent)

    def plateau(
        patience: int = 10, factor: float = 0.1, minimum: float = 0, mode: str = "min"
    ) -> PlateauSchedule:
        return PlateauSchedule(
            optimizer,
            patience=whole("patience", patience, low=0),
            shrink=number("factor", factor, low=0.001, high=0.999),
            minimum=number("minimum", minimum, low=0),
            mode=one_of("mode", mode, ("min", "max")),
        )

    builders = {
        "constant": constant,
        "cosine": cosine,
        "cosine-restarts": cosine_restarts,
        "poly": poly,
        "plateau": plateau,
    }
    build, named = _named("schedule", options, builders)
    return call_with(build, f"schedule {options['name']}", named)


def _half_cosine(share: float, minimum: float) -> float:
    """Return 1 at share 0, `minimum` at share 1."""
    return minimum + (1 - minimum) * (1 + math.cos(math.pi * share)) / 2


def _named(
    what: str, options: Mapping[str, Any], builders: Mapping[str, Callable]
) -> tuple[Callable, dict[str, Any]]:
    """Return the builder that `options` names, and the other options."""
    name = options.get("name")
    if name not in builders:
        raise OptionError(f"{what}: expected a name among {', '.join(builders)}, got {name!r}.")
    return builders[name], {key: value for key, value in options.items() if key != "name"}
