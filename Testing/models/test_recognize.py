"""Telling architectures by their tensors: one claims a state, all others do not, and the claim builds it."""

from __future__ import annotations

import json
from functools import cache
from importlib import import_module

import pytest
import torch

from thoraxseg.models import build_network, known_architectures, load_weights

NNUNET = {"in_channels": 1, "classes": 3, "conv_bias": True, "n_stages": 3, "features_per_stage": [4, 8, 8]}
NNUNET |= {"n_conv_per_stage_decoder": 2}
FLAT = {"dimensions": 2, "kernel_sizes": 3, "strides": [1, 2, 2]}
SOLID = {"dimensions": 3, "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]]}
SOLID["kernel_sizes"] = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
V1_KERNELS = {"decoder_kernel_sizes": [[3, 3, 3], [3, 3, 3]]}
RRC = {"filters": 16}
KINDS = [
    ("aimos", {"features": [4, 8, 8]}),
    ("aimos", {"features": [8, 16], "classes": 2}),
    ("coordinate_unet_3d", {"filters": 16}),
    ("coordinate_unet_3d", {"in_channels": 2, "classes": 3, "filters": 16}),
    ("deepmedic", {}),
    ("deepmedic", {"features": [4, 4], "dense": []}),
    ("deepmeta", {}),
    ("deepmeta", {"classes": 2, "filters": 8}),
    ("monai_unet", {"channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 0}),
    ("monai_unet", {"channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 2}),
    (
        "monai_unet",
        {"channels": [4, 8], "strides": [2], "num_res_units": 1, "dimensions": 2, "norm": "BATCH"},
    ),
    ("plain_conv_unet", NNUNET | FLAT | {"n_conv_per_stage": 2}),
    ("plain_conv_unet", NNUNET | SOLID | {"n_conv_per_stage": 2}),
    ("plain_conv_unet", NNUNET | SOLID | V1_KERNELS | {"n_conv_per_stage": [1, 2, 3], "conv_bias": False}),
    ("residual_encoder_unet", NNUNET | FLAT | {"n_blocks_per_stage": 2}),
    ("residual_encoder_unet", NNUNET | SOLID | {"n_blocks_per_stage": [1, 2, 1], "stem_channels": 6}),
    ("rrc_unet_3d", RRC),
    ("rrc_unet_3d", RRC | {"combine": "concat", "shared": False}),
    ("rrc_unet_3d", RRC | {"block": "cgpd"}),
    ("rrc_unet_3d", RRC | {"block": "cgpd", "widen": "first", "in_channels": 1}),
    ("rrc_unet_3d", RRC | {"block": "residual"}),
    ("rrc_unet_3d", RRC | {"block": "recurrent"}),
    ("threshold", {"centers": [0, 10], "widths": [1, 2]}),
    ("unet", {"filters": 16}),
    ("unet", {"filters": 4, "dimensions": 3}),
    ("unet3plus", {"filters": 2}),
    ("unet3plus", {"filters": 2, "variant": "kaniewski-code"}),
    ("unet3plus", {"filters": 2, "variant": "kaniewski-code", "dimensions": 3}),
    ("unet3plus", {"filters": 2, "dimensions": 3}),
]
CASES = [pytest.param(name, words, id=f"{name}-{number}") for number, (name, words) in enumerate(KINDS)]
NEW = sorted(
    name for name in known_architectures() if hasattr(import_module(f"thoraxseg.models.{name}"), "recognize")
)


@cache
def _state_of(number):
    with torch.device("meta"):
        return dict(build_network(*KINDS[number]).state_dict())


def state_of(name, words):
    """The tensors of a new network, without values."""
    return dict(_state_of(KINDS.index((name, words))))


def claims(state):
    """The arguments that each architecture reads from a state, for those that claim it."""
    found = {name: import_module(f"thoraxseg.models.{name}").recognize(state) for name in NEW}
    return {name: arguments for name, arguments in found.items() if arguments is not None}


def test_every_architecture_but_the_stand_in_is_among_the_cases():
    assert {name for name, _ in KINDS} == set(known_architectures())
    assert set(NEW) >= set(known_architectures()) - {"deepmeta", "threshold"}


@pytest.mark.parametrize(("name", "words"), CASES)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_exactly_its_own_architecture_claims_a_state(name, words, prefix):
    state = {prefix + key: tensor for key, tensor in state_of(name, words).items()}
    assert list(claims(state)) == ([name] if name in NEW else [])


@pytest.mark.parametrize(("name", "words"), [case for case in CASES if case.values[0] in NEW])
def test_the_claimed_arguments_build_a_network_that_takes_the_tensors(name, words):
    state = {
        key: torch.zeros(tensor.shape, dtype=tensor.dtype) for key, tensor in state_of(name, words).items()
    }
    load_weights(build_network(name, claims(state)[name]), name, state)


@pytest.mark.parametrize(("name", "words"), [case for case in CASES if case.values[0] in NEW])
def test_a_state_with_one_tensor_more_less_or_of_another_shape_is_claimed_by_none(name, words):
    state = state_of(name, words)
    last = list(state)[-1]
    middle = list(state)[len(state) // 2]
    assert not claims(state | {"extra.weight": torch.zeros(1)})
    assert not claims({key: tensor for key, tensor in state.items() if key != middle})
    assert not claims(state | {last: torch.zeros(9, 9, 9, 9, 9, 9, device="meta")})


@pytest.mark.parametrize("shape", [(), (1,), (2, 2), (2, 2, 1)])
def test_tensors_of_absurd_shapes_are_claimed_by_none(shape):
    for name, words in KINDS:
        assert not claims({key: torch.zeros(shape) for key in state_of(name, words)})
    assert not claims({})
    assert not claims({"tu.0.weight": torch.zeros(shape), "seg_outputs.0.weight": torch.zeros(shape)})


def test_arguments_are_plain_numbers_words_and_lists():
    for name, words in KINDS:
        for arguments in claims(state_of(name, words)).values():
            assert json.loads(json.dumps(arguments)) == arguments, name
