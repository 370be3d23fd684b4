"""The weights that training begins with: drawn anew, or those of a checkpoint that is gone on from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from thoraxseg.checkpoints import Card, Checkpoint
from thoraxseg.checkpoints.weights import read_weights
from thoraxseg.errors import CheckpointError, InputError, OptionError
from thoraxseg.models import build_network, load_weights

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def new_network(card: Card, initialization: str, seed: int) -> torch.nn.Module:
    """Return the card's network with weights drawn from `seed`.

    `he-normal`: convolutions N(0, 2 / fan-in), scales of batch normalization N(1, 0.02), all biases 0 (DEFINITIONS,
    section 3.2); `torch`: what torch itself draws. Raises CheckpointError for arguments the network does not take.
    """
    import torch
    from torch import nn

    torch.manual_seed(seed)
    network = build_network(card.architecture.name, card.architecture.parameters)
    if initialization == "he-normal":
        for layer in network.modules():
            if isinstance(layer, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            elif isinstance(layer, (nn.BatchNorm2d, nn.BatchNorm3d)):
                nn.init.normal_(layer.weight, 1.0, 0.02)
            if isinstance(getattr(layer, "bias", None), nn.Parameter):
                nn.init.zeros_(layer.bias)
    return network


def check_size(network: torch.nn.Module, channels: int, size: Sequence[int], where: str) -> None:
    """Raise OptionError naming `where` when a network cannot take images of `size`; nothing is computed.

    Its weights are lost: torch's meta device knows sizes alone.
    """
    import torch

    try:
        with torch.inference_mode():
            network.to("meta").eval()(torch.empty((1, channels, *size), device="meta"))
    except (RuntimeError, ValueError, IndexError, InputError) as error:
        told = " x ".join(map(str, size))
        raise OptionError(
            f"{where}: the network cannot take {told} voxels. Sizes that it halves several times are multiples of 16 "
            f"or 32, as in the recipe. It says: {str(error)[:200]}"
        ) from error


def check_start(card: Card, start: Card, reset_head: bool) -> None:
    """Raise CheckpointError, saying in what, where a run's `card` cannot go on from the weights of `start`.

    With `reset_head` the structures may be others: the layers whose size depends on their number begin anew.
    """
    if start.nnunet is not None:
        raise CheckpointError(
            f"--from {start.name}: expected weights of {card.architecture.name}, got a model of nnU-Net, whose plan "
            "trains it. Choose a checkpoint of the same system."
        )
    if start.architecture.name != card.architecture.name:
        raise CheckpointError(
            f"--from {start.name}: is a {start.architecture.name}, this run trains a {card.architecture.name}. Choose "
            "a checkpoint of the same system, or leave --system away to go on with that network."
        )
    mine, theirs = (_arguments(one) for one in (card, start))
    different = [key for key in sorted(mine.keys() | theirs.keys()) if mine.get(key) != theirs.get(key)]
    sizes = [key for key in different if key not in ("classes", "in_channels")]
    if sizes:
        told = "; ".join(f"{key} is {theirs.get(key)!r} there, {mine.get(key)!r} here" for key in sizes)
        raise CheckpointError(
            f"--from {start.name}: a {start.architecture.name} built otherwise: {told}. Set them alike (--set "
            f"network.{sizes[0]}=...), or leave --system away to go on with that network."
        )
    if "in_channels" in different or len(start.channels) != len(card.channels):
        raise CheckpointError(
            f"--from {start.name}: takes {len(start.channels)} channel(s) "
            f"({', '.join(channel.name for channel in start.channels)}), the data set gives {len(card.channels)} "
            f"({', '.join(channel.name for channel in card.channels)})."
        )
    ours, known = ({label: structure.key for label, structure in one.labels.items()} for one in (card, start))
    if ours != known and not reset_head:
        raise CheckpointError(
            f"--from {start.name}: finds {_words(known)}; the data set has {_words(ours)}. Give --reset-head to keep "
            "all layers but the last and learn these structures anew."
        )


def started_from(
    network: torch.nn.Module, card: Card, start: Checkpoint, fold: int, reset_head: bool
) -> tuple[str, ...]:
    """Put the weights of a checkpoint into the network of a run's `card`; returns the tensors that stay as drawn.

    Of a checkpoint with several folds the one with the same number is taken, else its first. Raises CheckpointError
    as `check_start`, and for weights that do not fit.
    """
    check_start(card, start.card, reset_head)
    path = start.weights[fold if fold < len(start.weights) else 0]
    theirs = build_network(start.card.architecture.name, start.card.architecture.parameters)
    try:
        load_weights(theirs, start.card.architecture.name, read_weights(path))
    except CheckpointError as error:
        raise CheckpointError(f"--from {start.card.name}, {path.name}: {error}") from error
    mine, given = network.state_dict(), theirs.state_dict()
    fits = {key: tensor for key, tensor in given.items() if key in mine and mine[key].shape == tensor.shape}
    anew = _head(network, mine, given) if _keys(card) != _keys(start.card) else ()
    network.load_state_dict({**mine, **{key: value for key, value in fits.items() if key not in anew}})
    if anew:
        logger.info("%s: the layers that begin anew: %s", card.name, ", ".join(anew))
    return anew


def _head(network: torch.nn.Module, mine: dict[str, Any], given: dict[str, Any]) -> tuple[str, ...]:
    """Return the tensors that depend on the number of structures, or, where that is the same, the last layer's."""
    import torch

    other = [key for key in mine if key not in given or mine[key].shape != given[key].shape]
    if other:
        return tuple(other)
    layers = [
        (name, layer)
        for name, layer in network.named_modules()
        if isinstance(
            layer, (torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)
        )
    ]
    name, layer = layers[-1]
    return tuple(f"{name}.{key}" for key in layer.state_dict())


def _arguments(card: Card) -> dict[str, Any]:
    """Return the arguments of a card's network as plain data, without those of its default."""
    import inspect
    from importlib import import_module

    from thoraxseg import models

    module = import_module(f"{models.__name__}.{card.architecture.name}")
    defaults = {
        key: item.default
        for key, item in inspect.signature(module.build).parameters.items()
        if item.default is not inspect.Parameter.empty
    }
    given = {**defaults, **card.architecture.parameters}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}


def _keys(card: Card) -> dict[int, str]:
    return {label: structure.key for label, structure in card.labels.items()}


def _words(keys: dict[int, str]) -> str:
    return ", ".join(f"{label} = {key}" for label, key in keys.items())
