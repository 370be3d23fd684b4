"""Weights without a word: each architecture's recipe makes a card that says whose it is and what is not known."""

from __future__ import annotations

import pytest

from Testing.models.test_recognize import KINDS, claims, state_of
from thoraxseg.checkpoints.card import parse_card
from thoraxseg.checkpoints.recipes import card_data, recipe_for
from thoraxseg.checkpoints.structures import has_side
from thoraxseg.errors import CheckpointError
from thoraxseg.models import known_architectures
from thoraxseg.models.deepmedic import output_size
from thoraxseg.postprocess import RULES
from thoraxseg.preprocess import STEPS

NEED_THEIR_PLANS = {"plain_conv_unet", "residual_encoder_unet", "threshold"}
WEIGHTS = [{"name": "weights", "sha256": "0" * 64, "size_bytes": 1, "member": ""}]
RUN = [
    (name, words) for name, words in KINDS if name not in NEED_THEIR_PLANS and words.get("dimensions") != 2
]


@pytest.fixture(params=RUN, ids=[f"{name}-{number}" for number, (name, _) in enumerate(RUN)])
def recognized(request):
    """Name and arguments of a network, as its tensors tell them."""
    name, words = request.param
    return name, claims(state_of(name, words))[name]


def card_for(name, arguments):
    data = card_data("some-weights", name, arguments, recipe_for(name, arguments))
    return parse_card(data | {"weights": WEIGHTS})


def test_every_architecture_has_a_recipe_or_needs_its_plans():
    for name in known_architectures():
        if name in NEED_THEIR_PLANS:
            with pytest.raises(CheckpointError, match=rf"'{name}'.*plans\.json or plans\.pkl.*card\.json"):
                recipe_for(name, {})
        else:
            assert recipe_for(name, {}).source


def test_a_flat_network_of_monai_is_refused():
    with pytest.raises(CheckpointError, match=r"2-D MONAI U-Net.*whole MONAI bundle"):
        recipe_for("monai_unet", {"dimensions": 2})


def test_a_recipe_makes_a_card_that_is_whole_and_runs_known_steps(recognized):
    name, arguments = recognized
    card = card_for(name, arguments)
    assert card.architecture.name == name
    assert {step.name for step in card.preprocess} <= set(STEPS)
    assert {rule.name for rule in card.postprocess.rules} <= set(RULES)
    assert len(card.channels) == arguments["in_channels"]
    assert len(card.labels) == max(1, arguments["classes"] - 1)


def test_a_recipe_says_whose_it_is_and_what_is_not_known(recognized):
    recipe, card = recipe_for(*recognized), card_for(*recognized)
    assert recipe.unknown and recipe.source in card.description and recipe.unknown in card.description
    assert card.license == card.citation == "not stated"
    assert "None by ThoraxSeg" in card.validation


def test_no_recipe_names_a_side_or_claims_to_know_one(recognized):
    card = card_for(*recognized)
    assert not any(has_side(structure) for structure in card.labels.values())
    assert card.input.side_known is False


@pytest.mark.parametrize("classes", [2, 4, 9])
def test_labels_get_names_only_where_the_paper_fixes_as_many(classes):
    for name in ("deepmeta", "unet", "unet3plus", "aimos", "rrc_unet_3d", "monai_unet"):
        card = card_for(name, {"classes": classes})
        fixed = recipe_for(name, {"classes": classes}).labels
        plain = [f"label_{n}" for n in range(1, classes)]
        found = [structure.key for structure in card.labels.values()]
        assert found == (list(fixed.values()) if max(fixed, default=0) == classes - 1 else plain), name
        if found == plain:
            assert (card.postprocess.rules, card.tumors) == ((), None), "clean-up is for known labels"


def test_one_output_means_one_label():
    assert [one.key for one in card_for("monai_unet", {"classes": 1}).labels.values()] == ["tumors"]


def test_further_channels_are_images_and_the_second_of_rrc_unet_is_a_lung_map():
    assert [one.source for one in card_for("aimos", {"in_channels": 3}).channels] == ["image"] * 3
    assert [one.source for one in card_for("rrc_unet_3d", {"in_channels": 2}).channels] == ["image", "lungs"]
    assert [one.source for one in card_for("rrc_unet_3d", {"in_channels": 1}).channels] == ["image"]


@pytest.mark.parametrize("layers", [2, 4, 8])
def test_windows_of_deepmedic_fit_its_layers(layers):
    card = card_for("deepmedic", {"features": [4] * layers})
    assert output_size(card.inference.patch_size, layers) == (57, 57, 57)


def test_solid_networks_of_mouse_mri_look_through_windows():
    assert card_for("unet", {"dimensions": 2}).inference.mode == "slices"
    solid = card_for("unet", {"dimensions": 3})
    assert (solid.inference.mode, solid.inference.patch_size) == ("sliding-window", (64, 64, 64))
    assert "windows of 64 x 64 x 64 voxels" in solid.description
