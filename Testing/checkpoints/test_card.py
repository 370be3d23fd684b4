"""A card with anything unknown, doubled, missing or of the wrong kind is refused, and the key is named."""

from __future__ import annotations

import hashlib
import json

import pytest

from thoraxseg.checkpoints import read_card
from thoraxseg.checkpoints.card import MAX_BYTES, Step, step_parameters
from thoraxseg.checkpoints.fields import count, list_of, number, positive
from thoraxseg.errors import CheckpointError

IMAGE, LUNG_MAP = {"name": "CT", "source": "image"}, {"name": "lung map", "source": "lungs"}
FILE = {"name": "x", "member": "m", "sha256": "0" * 64, "size_bytes": 1}


def test_a_whole_card_is_read(a_card, tmp_path):
    card = a_card()
    assert {label: structure.key for label, structure in card.labels.items()} == {1: "lungs", 2: "tumors"}
    assert card.inference.patch_size == (64, 64, 64)
    assert card.sha256 == hashlib.sha256((tmp_path / "made-card.json").read_bytes()).hexdigest()


def test_a_byte_order_mark_is_allowed(card_json, tmp_path):
    path = tmp_path / "card.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(card_json).encode())
    assert read_card(path).name == "phantom-threshold"


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("schema", 2, "card.schema must be one of 1, got 2"),
        ("schema", True, "card.schema"),
        ("surprise", 1, "unknown key 'surprise' in card"),
        ("input.surprise", 1, "unknown key 'surprise' in card.input"),
        ("inference.mirroring", True, "unknown key 'mirroring' in card.inference"),
        ("name", "../evil", "card.name must be a plain name"),
        ("name", "a" * 81, "card.name"),
        ("title", 7, "card.title must be text, got 7"),
        ("species", "rat", "card.species must be one of mouse, human, not stated, got 'rat'"),
        ("modality", ["MRI"], "card.modality"),
        ("task", None, "card.task"),
        ("labels", [], "card.labels must map"),
        ("labels", {}, "card.labels must map"),
        ("labels", {"0": "lungs"}, "card.labels must be a label value from 1 to 255, got '0'"),
        ("labels", {"256": "lungs"}, "from 1 to 255, got '256'"),
        ("labels", {"01": "lungs"}, "got '01'"),
        ("labels", {"٣": "lungs"}, "card.labels"),
        ("labels", {"9" * 5000: "lungs"}, "card.labels"),
        ("labels", {"1": "gills", "2": "tumors"}, "card.labels.1: unknown structure 'gills'; known are heart"),
        ("labels", {"1": ["lungs"], "2": "tumors"}, "card.labels.1 must be an object"),
        ("labels", {"1": "lungs", "2": "lungs"}, "card.labels.2: structure 'lungs' has another label"),
        ("labels", {"1": {"key": "gills"}, "2": "tumors"}, "key 'name' is missing in card.labels.1"),
        ("channels", [], "card.channels must begin with an image"),
        ("channels", "MRI", "card.channels must be a list"),
        ("channels", [{"name": "MRI"}], "key 'source' is missing in card.channels[0]"),
        ("channels", [{"name": "", "source": "image"}], "card.channels[0].name must have 1 to 80 characters"),
        ("channels", [{"name": "a", "source": "file"}], "card.channels[0].source must be one of image, lungs"),
        ("channels", [{"name": "a", "source": "lungs"}], "card.channels must begin with an image"),
        ("channels", [IMAGE, LUNG_MAP, LUNG_MAP], "at most one lung map"),
        ("nnunet", {}, "card.nnunet.patch_size must be a list"),
        ("nnunet", [], "card.nnunet.patch_size must be a list"),
        ("previous", "first-stage", "card.previous is for cascades of nnU-Net"),
        ("previous", "../../x", "card.previous must be a plain name"),
        ("lungs_from", "/etc/passwd", "card.lungs_from must be a plain name"),
        ("inference.mode", "nnunet", "card.inference.mode must be 'nnunet' where card.nnunet is given"),
        ("inference.blending", "linear", "card.inference.blending must be one of gaussian, constant"),
        ("input.orientation", "ijj", "card.input.orientation: "),
        ("input.orientation", "IJK", "card.input.orientation: "),
        ("input.orientation", "ij", "card.input.orientation: "),
        ("architecture", "unet", "card.architecture must be an object with a name"),
        ("architecture", {"classes": 3}, "card.architecture.name must be text, got None"),
        ("input.orientation", "RAX", "card.input.orientation: "),
        ("input.spacing_mm", [1, 1], "card.input.spacing_mm must be a list of 3"),
        ("input.spacing_mm", [1, 1, 0], "card.input.spacing_mm[2] must be positive, got 0"),
        ("input.spacing_mm", [1, True, 1], "card.input.spacing_mm[1] must be a finite number, got True"),
        ("input.spacing_tolerance", 10**400, "card.input.spacing_tolerance must be a finite number"),
        ("input.spacing_tolerance", "0.5", "card.input.spacing_tolerance"),
        ("input.side_known", 1, "card.input.side_known must be true or false, got 1"),
        ("input.stack_spacing_mm", 1, "card.input.stack_spacing_mm"),
        ("input.intensity", [{"stage": "input"}], "is missing in card.input.intensity[0]"),
        ("preprocess", {}, "card.preprocess must be a list"),
        ("preprocess", [{"size_px": [1, 1]}], "card.preprocess[0].name"),
        ("inference.mode", "3d", "card.inference.mode must be one of slices, sliding-window"),
        ("inference.patch_size", None, "card.inference.patch_size must give three sizes"),
        ("inference.patch_size", [64, 64, 0], "card.inference.patch_size[2] must be 1 or more"),
        ("inference.patch_size", [64, 64, 2.0], "card.inference.patch_size[2] must be a whole number"),
        ("inference.step", 1.01, "card.inference.step must be at most 1"),
        ("inference.step", 0, "card.inference.step must be positive"),
        ("inference.temperature", -1, "card.inference.temperature must be positive"),
        ("inference.averaging", "votes", "card.inference.averaging must be one of probabilities, logits"),
        ("postprocess.regions", [{"name": "a", "labels": [1], "write": 0}], "regions[0].write must be 1"),
        ("tumors.connectivity", 8, "card.tumors.connectivity must be one of 6, 18, 26, got 8"),
        ("tumors.connectivity", 18.0, "card.tumors.connectivity"),
        ("tumors.label", 3, "labels [3] are used but not listed"),
        ("tumors.small_below_mm3", 0, "card.tumors.small_below_mm3"),
        ("weights", [], "card.weights must list at least one file"),
        ("weights", [{**FILE, "sha256": "F" * 64}], "card.weights[0].sha256 must be a SHA-256"),
        ("weights", [{**FILE, "name": "../x"}], "card.weights[0].name must be a plain name"),
        ("weights", [{**FILE, "size_bytes": -1}], "card.weights[0].size_bytes"),
        ("samples", [{**FILE, "name": "Phantom-Threshold.safetensors"}], "is used twice"),
        ("source.kind", "url", "card.source.kind"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_and_its_key_is_named(a_card, place, value, words):
    with pytest.raises(CheckpointError) as caught:
        a_card({place: value})
    assert words in str(caught.value)
    assert "made-card.json" in str(caught.value) and "Correct the card" in str(caught.value)


def test_a_missing_key_is_named(a_card, card_json):
    del card_json["input"]["side_known"]
    with pytest.raises(CheckpointError, match=r"key 'side_known' is missing in card\.input"):
        a_card()


@pytest.mark.parametrize(
    "requirement",
    [
        "--index-url=http://evil.example",
        "-rhttp://evil.example/requirements.txt",
        "napari-deepmeta @ git+https://evil.example/x",
        "https://evil.example/x.whl",
        "./folder",
        "napari-deepmeta",
        "napari-deepmeta>=2",
        "napari-deepmeta==2.1 --no-binary=:all:",
        "napari-deepmeta==2.*",
        "",
    ],
)
def test_a_source_is_one_pinned_package_and_nothing_that_pip_would_follow(a_card, requirement):
    source = {"kind": "python-package", "requirement": requirement, "archive_sha256": "0" * 64}
    with pytest.raises(CheckpointError, match=r"card\.source\.requirement must be name==version"):
        a_card({"source": source})


def test_a_package_without_a_digest_is_refused(a_card):
    source = {"kind": "python-package", "requirement": "a==1", "archive_sha256": ""}
    with pytest.raises(CheckpointError, match=r"card\.source\.archive_sha256"):
        a_card({"source": source})


def test_a_label_that_clean_up_would_lose_is_refused(a_card):
    with pytest.raises(CheckpointError, match=r"labels \[3\] are in no region"):
        a_card({"labels": {"1": "lungs", "2": "tumors", "3": "heart"}})
    assert 3 in a_card({"postprocess.rules": []}).labels


def test_two_regions_of_one_name_are_refused(a_card):
    regions = [{"name": "lungs", "labels": [1], "write": 1}, {"name": "lungs", "labels": [2], "write": 2}]
    with pytest.raises(CheckpointError, match="'lungs' is used twice"):
        a_card({"postprocess.regions": regions})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(b'{"schema": 1, "schema": 1}', "key 'schema' is given twice", id="duplicate key"),
        pytest.param(b'{"schema": NaN}', "NaN is not a finite number", id="NaN"),
        pytest.param(b'{"schema": -Infinity}', "-Infinity is not a finite number", id="infinity"),
        pytest.param(b"[1]", "card must be an object, got [1]", id="a list"),
        pytest.param(b"null", "card must be an object", id="null"),
        pytest.param(b"{", "expected a checkpoint card in JSON", id="cut short"),
        pytest.param(b"", "expected a checkpoint card in JSON", id="empty"),
        pytest.param(b"\xff\xfe{}", "expected a checkpoint card in JSON", id="not UTF-8"),
        pytest.param(b"[" * 100000, "expected a checkpoint card in JSON", id="deep nesting"),
        pytest.param(
            b'{"schema": ' + b"1" * 5000 + b"}", "expected a checkpoint card in JSON", id="huge number"
        ),
        pytest.param(b" " * (MAX_BYTES + 1), "at most 1 MiB", id="too long"),
    ],
)
def test_text_that_is_no_card_is_refused_with_the_name_of_the_file(tmp_path, text, words):
    path = tmp_path / "odd.json"
    path.write_bytes(text)
    with pytest.raises(CheckpointError) as caught:
        read_card(path)
    assert words in str(caught.value) and "odd.json" in str(caught.value)


def test_a_card_that_is_not_there_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        read_card(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"size": [1, 2], "limit": 1, "more": 1}, "unknown key 'more' in blur; known are limit, size"),
        ({"size": [1, 2]}, "key 'limit' is missing in blur"),
        ({"size": [1], "limit": 1}, "blur.size must be a list of 2"),
        ({"size": [1, 2], "limit": float("inf")}, "blur.limit must be a finite number"),
    ],
)
def test_the_parameters_of_a_step_are_checked_by_name(parameters, words):
    with pytest.raises(CheckpointError) as caught:
        step_parameters(Step("blur", parameters), {"size": list_of(count, 2), "limit": positive})
    assert words in str(caught.value)


def test_the_parameters_of_a_step_come_back_as_numbers_and_tuples():
    step = Step("blur", {"size": [1, 2], "limit": 3})
    assert step_parameters(step, {"size": list_of(count, 2), "limit": number}) == {
        "size": (1, 2),
        "limit": 3.0,
    }


@pytest.mark.parametrize("orientation", ["ijk", "jik", "kji", "RIA", "LPS"])
def test_an_orientation_is_the_patients_or_an_order_of_the_files_axes(a_card, orientation):
    card = a_card({"input.orientation": orientation})
    turned = {"ijk": "PIR", "jik": "IPR", "kji": "RIP"}
    assert card.input.codes_for("PIR") == turned.get(orientation, orientation)


def test_channels_name_what_the_network_takes(a_card):
    card = a_card({"channels": [IMAGE, LUNG_MAP], "lungs_from": "coordinate-unet"})
    assert [(channel.name, channel.source) for channel in card.channels] == [
        ("CT", "image"),
        ("lung map", "lungs"),
    ]
    assert card.lungs_from == "coordinate-unet"


def test_a_structure_that_is_none_of_ours_is_described_in_full(a_card):
    codes = "a~A^1^A~T^2^T~^^~r~^^~^^"
    liver = {"key": "liver", "name": "Liver", "color": [0, 0.5, 1], "terminology": codes}
    card = a_card({"labels": {"1": liver, "2": "tumors"}})
    assert (card.labels[1].key, card.labels[1].name, card.labels[1].color) == ("liver", "Liver", (0, 0.5, 1))
    with pytest.raises(
        CheckpointError, match=r"card\.labels\.2: structure 'liver' has another label already"
    ):
        a_card({"labels": {"1": liver, "2": liver}})


def test_the_card_of_an_nnunet_model_has_its_plan(a_plan, a_plans_card):
    plan = a_plan(transpose_forward=(1, 2, 0), mirror_axes=(0, 1))
    card = a_plans_card(plan)
    assert card.nnunet == plan


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inference.mode": "slices"}, "card.inference.mode must be 'nnunet' where card.nnunet is given"),
        ({"channels": [IMAGE, IMAGE]}, "card.channels must be as many as card.nnunet.channels"),
        ({"previous": "first-stage"}, "card.previous must name the first stage where card.nnunet has one"),
        ({"nnunet.patch_size": [8, 8, 8, 8]}, "card.nnunet.patch_size must be two or three sizes"),
    ],
)
def test_a_plan_that_contradicts_its_card_is_refused(a_plan, a_plans_card, changes, words):
    with pytest.raises(CheckpointError) as caught:
        a_plans_card(a_plan(), changes)
    assert words in str(caught.value)


def test_a_second_stage_without_its_first_is_refused(a_plan, a_plans_card):
    plan = a_plan(previous_stage="3d_lowres")
    assert a_plans_card(plan).previous == "first-stage"
    with pytest.raises(CheckpointError, match=r"card\.previous must name the first stage"):
        a_plans_card(plan, {"previous": None})
