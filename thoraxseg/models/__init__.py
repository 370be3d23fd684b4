"""Networks, one architecture a file; the file name is the name.

Each file has `build(**arguments) -> torch.nn.Module`, whose output are logits `(N, L, ...)`, and, where
published weights use other tensor names, `from_published(state) -> state`.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from thoraxseg.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


def known_architectures() -> list[str]:
    """Return the names of all architectures that can be built."""
    return sorted(module.name for module in iter_modules(__path__))


def build_network(name: str, arguments: Mapping[str, Any]) -> torch.nn.Module:
    """Return a new network of the architecture `name`, with random weights, in evaluation mode.

    Raises CheckpointError for an unknown name or arguments the architecture does not take.
    """
    module = _architecture(name)
    try:
        return module.build(**arguments).eval()
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(f"architecture {name!r} does not take {dict(arguments)}: {error}.") from error


def recognize(state: Mapping[str, torch.Tensor]) -> tuple[str, dict[str, Any]] | None:
    """Return name and arguments of the architecture whose network has exactly these tensors, or None.

    A leading `module.` does not matter. What no tensor tells (dropout, groups, strides) keeps its default.
    """
    for name in known_architectures():
        claim = getattr(_architecture(name), "recognize", None)
        if claim is not None and (arguments := claim(state)) is not None:
            return name, arguments
    return None


def load_weights(network: torch.nn.Module, name: str, state: Mapping[str, torch.Tensor]) -> None:
    """Put the tensors of `state` into `network`; every key must fit and none may be left over.

    Tensor names of the published files are mapped, a leading `module.` is stripped and 16-bit floats
    are widened. Raises CheckpointError naming missing, unexpected or wrongly shaped tensors.
    """
    import torch

    given = len(state)
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    shared = given - len(state)
    rename = getattr(_architecture(name), "from_published", None)
    if rename is not None:
        state = rename(state)
    expected = network.state_dict()
    problems = [f"{shared} tensors share a name with another one"] if shared else []
    problems += [f"missing {key}" for key in expected if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in expected]
    for key in expected.keys() & state.keys():
        if state[key].shape != expected[key].shape:
            problems.append(f"{key} is {tuple(state[key].shape)}, expected {tuple(expected[key].shape)}")
        elif expected[key].is_floating_point() != state[key].is_floating_point():
            problems.append(f"{key} is {state[key].dtype}, expected {expected[key].dtype}")
        elif not torch.isfinite(state[key].to(expected[key].dtype)).all():
            problems.append(f"{key} holds NaN or infinite values")
    if problems:
        shown = "; ".join(sorted(problems)[:4]) + ("; ..." if len(problems) > 4 else "")
        raise CheckpointError(
            f"the weights do not fit the architecture {name!r} ({len(problems)} problems): {shown}. "
            "Choose the weights that belong to this card."
        )
    network.load_state_dict({key: tensor.to(expected[key].dtype) for key, tensor in state.items()})


def _architecture(name: str) -> Any:
    if name not in known_architectures():
        raise CheckpointError(
            f"unknown architecture {name!r}; this version builds: {', '.join(known_architectures())}."
        )
    return import_module(f"{__name__}.{name}")
