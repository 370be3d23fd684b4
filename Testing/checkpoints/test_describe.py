"""Cards of models that come without one say what their files tell, what users add, and nothing besides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from Testing import tiny_models as tiny
from thoraxseg.checkpoints import About, open_checkpoint, read_card
from thoraxseg.checkpoints.card import card_text
from thoraxseg.checkpoints.describe import (
    LOCAL,
    card_of_bundle,
    card_of_plan,
    checked_name,
    chosen_folds,
    fold_name,
    labels_of,
    parse_labels,
    plain_name,
    with_words,
)
from thoraxseg.checkpoints.monai_bundle import read_monai_bundle
from thoraxseg.checkpoints.nnunet_plan import Channel
from thoraxseg.errors import CheckpointError, OptionError
from thoraxseg.segmentation import STRUCTURES

pytestmark = pytest.mark.usefixtures("empty_home")


def names(labels):
    return {label: structure.name for label, structure in labels.items()}


def keys(labels):
    return {label: structure.key for label, structure in labels.items()}


# Labels of nnU-Net


def test_plain_labels_get_our_structures_where_their_names_are_known(a_plan):
    plan = a_plan(labels={"Heart": (1,), "spinal_cord": (2,), "Lung_R": (3,), "left lung": (4,), "air": (5,)})
    found = labels_of(plan)
    assert keys(found) == {1: "heart", 2: "spinal_cord", 3: "right_lung", 4: "left_lung", 5: "air"}
    assert found[3] == STRUCTURES["right_lung"]


@pytest.mark.parametrize("right", [1, 2])
def test_sides_follow_the_names_of_the_model_and_never_the_numbers(a_plan, right):
    left = 3 - right
    plan = a_plan(labels={"lung_right": (right,), "lung_left": (left,)})
    assert keys(labels_of(plan)) == {right: "right_lung", left: "left_lung"}


def test_a_lung_without_a_side_gets_none(a_plan):
    assert keys(labels_of(a_plan(labels={"lung": (1,), "lung 2": (2,)}))) == {1: "lungs", 2: "lung_2"}


def test_labels_of_regions_say_what_is_left_of_them(a_plan):
    plan = a_plan(
        labels={"whole tumor": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}, regions_class_order=(1, 2, 3)
    )
    assert names(labels_of(plan)) == {
        1: "Whole tumor without core and enhancing",
        2: "Core without enhancing",
        3: "Enhancing",
    }


def test_labels_of_regions_are_in_the_order_in_which_they_are_written(a_plan):
    plan = a_plan(labels={"tumor": (2,), "lungs": (1, 2)}, regions_class_order=(7, 4))
    found = labels_of(plan)
    # The lungs are written last, over the tumors: of label 7 nothing is left where they are.
    assert names(found) == {4: "Lungs", 7: "Tumor without lungs"}
    assert list(found) == [4, 7]


def test_a_region_that_later_ones_eat_is_not_called_by_its_own_name(a_plan):
    plan = a_plan(labels={"lungs": (1, 2), "tumor": (2,)}, regions_class_order=(1, 2))
    found = labels_of(plan)
    assert keys(found) == {1: "lungs_without_tumor", 2: "tumors"}
    assert found[1] != STRUCTURES["lungs"]


def test_regions_that_do_not_overlap_keep_their_names(a_plan):
    plan = a_plan(labels={"right lung": (1, 2), "heart": (3,)}, regions_class_order=(1, 3))
    assert keys(labels_of(plan)) == {1: "right_lung", 3: "heart"}


def test_a_side_in_a_region_stays_in_what_is_left_of_it(a_plan):
    plan = a_plan(labels={"right lung": (1, 2), "tumor": (2,)}, regions_class_order=(1, 2))
    found = labels_of(plan)[1]
    assert (found.name, found.key) == ("Right lung without tumor", "right_lung_without_tumor")


# Cards of nnU-Net


def test_the_card_of_a_plan_claims_nothing_that_its_files_do_not_say(a_plan):
    card = card_of_plan(a_plan(), None)
    assert (card.species, card.modality, card.license, card.citation) == (
        *("not stated", "MRI"),
        *("not stated", "not stated"),
    )
    assert card.input.orientation == "ijk" and card.source == LOCAL
    assert "Heart" not in card.title and "heart, tumors" in card.description
    assert card.nnunet.folds == {} and card.weights == ()
    assert card.name == "dataset999-phantom-3d-fullres"


@pytest.mark.parametrize(
    ("channel", "modality"),
    [
        *[(name, "MRI") for name in ("MRI", "mr", "T1", "T2", "t1_weighted", "FLAIR", "MR (T2)")],
        *[(name, "not stated") for name in ("CT", "noNorm", "channel 0", "smri", "t15", "amr")],
    ],
)
def test_only_a_channel_that_says_mri_makes_a_model_one_of_mri(a_plan, channel, modality):
    plan = a_plan(channels=(Channel(channel, "zscore", False, {}),))
    assert card_of_plan(plan, None).modality == modality


@pytest.mark.parametrize(
    ("changes", "orientation"), [({}, "ijk"), ({"reader": "SimpleITKIOWithReorient"}, "RAS")]
)
def test_the_reader_of_a_plan_decides_the_axes_and_its_spacing_is_turned_back(a_plan, changes, orientation):
    plan = a_plan(transpose_forward=(1, 2, 0), spacing_mm=(1.0, 2.0, 3.0), **changes)
    card = card_of_plan(plan, None)
    assert card.input.orientation == orientation
    assert card.input.spacing_mm == (3.0, 1.0, 2.0)  # the third axis of the plan is the first of the file
    assert card_of_plan(a_plan(patch_size=(8, 8)), None).input.spacing_mm is None


@pytest.mark.parametrize("make", [tiny.v2_model, tiny.v1_model, tiny.v2_cascade, tiny.monai_bundle])
def test_a_card_that_was_made_is_read_again_as_it_was(make, tmp_path):
    card = replace(open_checkpoint(make(tmp_path / "model")).card, sha256="")
    (tmp_path / "card.json").write_text(card_text(card), encoding="utf-8")
    found = replace(read_card(tmp_path / "card.json"), sha256="")
    assert card_text(found) == card_text(card)
    assert (found.nnunet, found.labels, found.input) == (card.nnunet, card.labels, card.input)


# Cards of bundles


def test_the_card_of_a_bundle_says_what_its_metadata_do(tmp_path):
    card = card_of_bundle(read_monai_bundle(tiny.monai_bundle(tmp_path / "bundle")))
    assert (card.name, card.title) == ("lung-tumors", "Lung tumors 0.2.0 (MONAI bundle)")
    assert (card.modality, card.species, card.license) == ("CT", "not stated", "Apache-2.0")
    assert keys(card.labels) == {1: "tumors"}
    assert (card.inference.mode, card.inference.patch_size) == ("sliding-window", (32, 48, 64))
    assert (card.inference.step, card.inference.averaging) == (0.5, "logits")
    assert card.citation == "First. 2020\nSecond. 2021"


def test_a_bundle_of_one_sigmoid_has_one_label(tmp_path):
    bundle = read_monai_bundle(tiny.monai_bundle(tmp_path / "bundle"))
    one = replace(
        bundle,
        activation="sigmoid",
        threshold=0.5,
        labels={0: "lung"},
        architecture_arguments={**bundle.architecture_arguments, "classes": 1},
    )
    assert keys(card_of_bundle(one).labels) == {1: "lungs"}
    for changes in ({"threshold": 0.3}, {"architecture_arguments": {"classes": 2}}):
        with pytest.raises(CheckpointError, match=r"output\(s\) are each by itself above"):
            card_of_bundle(replace(one, **changes))


# What the user says


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1=heart", {1: "heart"}),
        ("1=heart,2=spinal cord,3=right lung", {1: "heart", 2: "spinal cord", 3: "right lung"}),
        (" 2 = left lung , 1 = heart ", {2: "left lung", 1: "heart"}),
        ("01=a", {1: "a"}),
    ],
)
def test_labels_are_read_from_text(text, expected):
    assert parse_labels(text) == expected


@pytest.mark.parametrize(
    "text", ["", ",", "heart", "1", "1=", "1= ", "=heart", "heart=1", "1=heart,", "-1=heart", "1.5=a", "1000=a", "٣=a"]
)  # fmt: skip
def test_text_that_is_no_list_of_labels_is_refused(text):
    with pytest.raises(OptionError, match=r"--labels: expected pairs such as 1=heart,2=spinal cord, got"):
        parse_labels(text)


def test_a_label_that_is_named_twice_is_refused():
    with pytest.raises(OptionError, match="label 1 is named twice"):
        parse_labels("1=heart,01=lung")


def test_words_of_the_user_replace_what_was_not_known_and_nothing_else(a_card):
    card = a_card()
    assert with_words(card, About()) == card
    about = About(name="mine", title="T", species="human", modality="CT", license="L", citation="C")
    found = with_words(card, about)
    assert (found.name, found.title, found.species, found.modality) == ("mine", "T", "human", "CT")
    assert (found.license, found.citation) == ("L", "C")
    assert (found.labels, found.description, found.weights) == (card.labels, card.description, card.weights)


def test_the_user_names_some_labels_and_the_others_stay(a_card):
    found = with_words(a_card(), About(labels={2: "my own thing"}))
    assert names(found.labels) == {1: "Lungs", 2: "My own thing"}
    assert with_words(a_card(), About(labels={1: "Right Lung"})).labels[1] == STRUCTURES["right_lung"]


def test_sides_of_the_user_are_never_swapped(a_card):
    found = with_words(a_card(), About(labels=parse_labels("2=right lung,1=left lung")))
    assert keys(found.labels) == {1: "left_lung", 2: "right_lung"}


@pytest.mark.parametrize("label", [0, 3, 255, 999])
def test_a_label_that_the_model_does_not_have_is_refused_with_those_it_has(a_card, label):
    with pytest.raises(OptionError, match=rf"has the labels 1, 2, not {label}\."):
        with_words(a_card(), About(labels={1: "heart", label: "lung"}))


@pytest.mark.parametrize(
    "labels", [{1: "heart", 2: "Heart"}, {1: "tumors"}], ids=["two of them", "one there"]
)
def test_two_labels_of_one_structure_are_refused(a_card, labels):
    with pytest.raises(OptionError, match="two labels would be the same structure"):
        with_words(a_card(), About(labels=labels))


@pytest.mark.parametrize(
    ("words", "flag"), [({"species": "cat"}, "species"), ({"modality": "PET"}, "modality"), ({"task": "x"}, "task")]
)  # fmt: skip
def test_unknown_words_are_refused_with_the_known_ones(words, flag):
    with pytest.raises(OptionError, match=rf"--{flag}: expected one of .*, got '\w+'"):
        About(**words)


def test_what_one_says_goes_over_what_the_other_says():
    user, entry = About(species="mouse", labels={1: "a"}), About(species="human", license="MIT")
    assert user.over(entry) == About(species="mouse", labels={1: "a"}, license="MIT")
    assert About().over(entry) == entry


# Names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Dataset601_Mouse 3d_fullres", "dataset601-mouse-3d-fullres"),
        ("Lungentumöre (Größe 2)", "lungentumore-groe-2"),
        ("../../etc/passwd", "etc-passwd"),
        ("肺", "model"),
        ("", "model"),
        ("x" * 300, "x" * 80),
        ("v1.2.zip", "v1.2.zip"),
    ],
)
def test_any_text_becomes_a_plain_name(text, name):
    assert plain_name(text) == name
    assert checked_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a b", "-a", ".hidden", "ä", "a\n", "x" * 81])
def test_a_name_that_is_no_plain_file_name_is_refused(name):
    with pytest.raises(OptionError, match="--name: expected letters"):
        checked_name(name)


# Folds of a card


def test_folds_of_a_card_are_chosen_by_their_names(a_card):
    card = a_card()
    (file,) = card.weights
    card = replace(card, weights=tuple(replace(file, name=f"fold_{n}.safetensors") for n in (0, 1, "all")))
    assert chosen_folds(card, None) == [0, 1, 2]
    assert chosen_folds(card, ("all", "0")) == [2, 0]
    with pytest.raises(CheckpointError, match=r"has no fold 2, 7; its folds are 0, 1, all"):
        chosen_folds(card, ("2", "0", "7"))


def test_the_file_of_a_fold_is_called_like_it(tmp_path):
    assert fold_name("all", tmp_path / "checkpoint_final.pth") == "fold_all.pth"
    assert fold_name("0", tmp_path / "model_best.model") == "fold_0.model"


@pytest.mark.parametrize("text", ["1=heart;2=cord", "1=heart=cord"])
def test_a_name_with_another_separator_in_it_is_refused(text):
    with pytest.raises(OptionError, match="1=heart,2=spinal cord"):
        parse_labels(text)


def test_a_model_whose_reader_reorients_takes_no_orientation(a_plan):
    card = card_of_plan(replace(a_plan(), reader="NibabelIOWithReorient"), None)
    with pytest.raises(OptionError, match="turns every image to RAS"):
        with_words(card, About(orientation="LPS"))
    turned = with_words(card_of_plan(replace(a_plan(), reader="SimpleITKIO"), None), About(orientation="LPS"))
    assert turned.input.orientation == "LPS"
