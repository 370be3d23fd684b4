"""The plan of an nnU-Net model goes into a card and comes out as it was; each field that lies is refused."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

from Testing.checkpoints import test_nnunet_v1 as v1
from Testing.checkpoints import test_nnunet_v2 as v2
from thoraxseg.checkpoints import plan_json
from thoraxseg.checkpoints.fields import FieldError
from thoraxseg.checkpoints.nnunet_plan import Channel, Origin, Resampling
from thoraxseg.checkpoints.nnunet_v1 import read_nnunet_v1
from thoraxseg.checkpoints.nnunet_v2 import read_nnunet_v2
from thoraxseg.models import build_network, load_weights

REGIONS = {"background": 0, "thorax": [1, 2, 3], "lungs": [2, 3], "tumor": 3}


def through_json(plan):
    """Write a plan as a card would have it, as strict JSON, and read it again."""
    text = json.dumps(plan_json.to_json(plan), allow_nan=False)
    return plan_json.parse(json.loads(text), "card.nnunet")


@pytest.mark.parametrize("name", [v2.PLAIN, v2.RESIDUAL], ids=["plain", "residual"])
@pytest.mark.parametrize("config", ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"])
def test_every_kind_of_model_of_version_2_comes_back_as_it_was(tmp_path, name, config):
    plan = read_nnunet_v2(v2.save_model(tmp_path, v2.plans(name, 2), v2.dataset(2), config))
    assert plan.origin is Origin.V2 and plan.folds
    assert through_json(plan) == replace(plan, folds={})
    # The network is built from what came back, and the weights fit it.
    back = through_json(plan)
    network = build_network(back.architecture, back.architecture_arguments)
    load_weights(network, back.architecture, v2.read_weights(plan.folds["0"]))


@pytest.mark.parametrize("config", ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"])
def test_every_kind_of_model_of_version_1_comes_back_as_it_was(tmp_path, config):
    given = v1.plans(2 if config == "2d" else 3, 1 if config == "2d" else 2, 1)
    plan = read_nnunet_v1(v1.postprocessing(v1.save_model(tmp_path, config, given), [[1, 2], 2]))
    assert plan.origin is Origin.V1 and plan.cleanup
    assert through_json(plan) == replace(plan, folds={})
    back = through_json(plan)
    network = build_network(back.architecture, back.architecture_arguments)
    load_weights(network, back.architecture, v1.read_weights(plan.folds["0"]))


def test_regions_an_ignore_label_and_a_cascade_of_them_come_back(tmp_path):
    given = v2.dataset(labels=REGIONS | {"ignore": 4}, regions_class_order=[1, 2, 3])
    for config in ("3d_fullres", "3d_cascade_fullres"):
        plan = read_nnunet_v2(v2.save_model(tmp_path / config, v2.plans(), given, config))
        assert plan.regions_class_order == (1, 2, 3) and plan.ignore_label == 4
        assert through_json(plan) == replace(plan, folds={})


@pytest.mark.parametrize(
    "changes",
    [
        {"resample_data": Resampling("torch", 1, 0, True), "notes": ("one", "two \N{SNOWMAN}")},
        {"resample_probabilities": Resampling("spline", 5, 4, False)},
        {"channels": (Channel("a", "none", True, {}), Channel("b", "rgb01", False, {}))},
        {"reader": "NibabelIOWithReorient", "transpose_forward": (2, 0, 1), "mirror_axes": (2, 0)},
        {"patch_size": (16, 8), "spacing_mm": (0.25, 1e-3), "mirror_axes": (1,), "reader": "NaturalImage2DIO"},
        {"cleanup": ({"labels": (1, 2), "keep": "largest", "min_size_mm3": None},
                     {"labels": (2,), "keep": "largest", "min_size_mm3": 0.25})},
        {"architecture_arguments": {"norm_op_kwargs": {"eps": 1e-3, "affine": True}, "nonlin_kwargs": {"slope": 0.2}}},
        {"labels": {"b": (2,), "a": (1,)}},
    ],
    ids=lambda changes: "-".join(changes),
)  # fmt: skip
def test_everything_that_a_plan_can_say_comes_back(a_plan, changes):
    plan = a_plan(**changes)
    assert through_json(plan) == plan
    assert list(through_json(plan).labels) == list(plan.labels)


def test_the_folds_are_left_out_since_a_card_lists_its_weights(a_plan, tmp_path):
    plan = a_plan(folds={"0": tmp_path / "secret" / "x.pth"})
    assert "folds" not in plan_json.to_json(plan)
    assert "secret" not in json.dumps(plan_json.to_json(plan))


SPLINE = {"function": "spline", "order": 3, "order_z": 0, "force_separate_z": None}
CHANNEL = {"name": "CT", "normalization": "zscore", "use_mask": False, "statistics": {}}
STATISTICS = {"mean": 1.0, "std": 2.0, "percentile_00_5": -3.0, "percentile_99_5": 4.0}
CT = CHANNEL | {"normalization": "ct", "statistics": STATISTICS}


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("origin", "v3", "nnunet.origin must be one of v1, v2"),
        ("origin", 2, "nnunet.origin must be one of v1, v2"),
        ("name", 7, "nnunet.name must be text"),
        ("name", "x" * 1001, "nnunet.name must be at most 1000 characters"),
        ("trainer", None, "nnunet.trainer must be text"),
        ("channels", {}, "nnunet.channels must be a list"),
        ("channels", [CHANNEL | {"normalization": "eval"}], "channels[0].normalization must be one of ct, ct2"),
        ("channels", [CHANNEL | {"use_mask": 1}], "channels[0].use_mask must be true or false"),
        ("channels", [CHANNEL | {"normalization": "ct"}], "channels: 'CT' needs its intensity statistics"),
        ("channels", [CHANNEL | {"normalization": "ct2"}], "channels: 'CT' needs its intensity statistics"),
        ("channels", [CT | {"statistics": []}], "intensity properties"),
        ("channels", [CT | {"statistics": STATISTICS | {"std": -1}}], "standard deviation is negative"),
        ("channels", [CT | {"statistics": STATISTICS | {"percentile_99_5": -9}}], "percentiles are swapped"),
        ("channels", [CT | {"statistics": STATISTICS | {"mean": float("nan")}}], "must be a finite number"),
        ("channels", [CT | {"statistics": {"mean": 1.0}}], "std must be a finite number, got None"),
        ("channels", [CHANNEL, CHANNEL], "must have in_channels 2 and classes 3"),
        ("channels", [CHANNEL | {"surprise": 1}], "unknown key 'surprise'"),
        ("labels", {}, "nnunet.labels must map names to labels"),
        ("labels", [1, 2], "nnunet.labels must map names to labels"),
        ("labels", {"a": []}, "nnunet.labels must give each name at least one label"),
        ("labels", {"a": [0], "b": [1]}, "nnunet.labels.a[0] must be 1 or more"),
        ("labels", {"a": [1], "b": [256]}, "nnunet.labels.b[0] must be at most 255"),
        ("labels", {"a": [1], "b": [3]}, "nnunet.labels must be numbered without gaps or repeats, 1 to 2"),
        ("labels", {"a": [1], "b": [1]}, "nnunet.labels must be numbered without gaps or repeats, 1 to 2"),
        ("labels", {"a": [1, 2]}, "nnunet.labels must be numbered without gaps or repeats, 1 to 1"),
        ("labels", {"a": [1], "b": [2], "c": [3]}, "must have in_channels 1 and classes 4"),
        ("labels", {"a": [1.0], "b": [2]}, "nnunet.labels.a[0] must be a whole number"),
        ("labels", {"x" * 1001: [1]}, "at most 1000 characters"),
        ("regions_class_order", [1], "regions_class_order must give one label for each region"),
        ("regions_class_order", [1, 2], "must have in_channels 1 and classes 2"),
        ("regions_class_order", [1, 999], "regions_class_order[1] must be at most 255"),
        ("ignore_label", 0, "nnunet.ignore_label must be 1 or more"),
        ("reader", "os.system", "nnunet.reader must be one of SimpleITKIO"),
        ("transpose_forward", [0, 1], "nnunet.transpose_forward must be a list of 3"),
        ("transpose_forward", [0, 1, 1], "nnunet.transpose_forward must be an order of the axes"),
        ("transpose_forward", [2, 0, 1], "does not undo transpose_forward"),
        ("transpose_backward", [0, 1, 3], "nnunet.transpose_backward must be an order of the axes"),
        ("spacing_mm", [1, 1], "nnunet.spacing_mm must be a list of 3"),
        ("spacing_mm", [1, 0, 1], "nnunet.spacing_mm[1] must be positive"),
        ("spacing_mm", [1, float("inf"), 1], "nnunet.spacing_mm[1] must be a finite number"),
        ("patch_size", [8], "nnunet.patch_size must be two or three sizes"),
        ("patch_size", [8, 8, 8, 8], "nnunet.patch_size must be two or three sizes"),
        ("patch_size", [8, 8, 10**9], "patch_size[2] must be at most 8192"),
        ("patch_size", [8, 8, -8], "patch_size[2] must be a whole number"),
        ("patch_size", [8, 8], "nnunet.spacing_mm must be a list of 2"),
        ("patch_size", [8, 8, 7], "patch_size [8, 8, 7] cannot be divided by the strides"),
        ("patch_size", None, "patch_size must be a list"),
        ("resample_data", SPLINE | {"function": "os.system"}, "resample_data.function must be one of spline, torch"),
        ("resample_data", SPLINE | {"order": 6}, "resample_data.order must be one of 0"),
        ("resample_segmentation", SPLINE | {"order_z": True}, "resample_segmentation.order_z must be one of 0"),
        ("resample_probabilities", SPLINE | {"force_separate_z": 0}, "force_separate_z must be true or false"),
        ("resample_data", None, "nnunet.resample_data must be an object"),
        ("architecture", "threshold", "nnunet.architecture must be one of plain_conv_unet, residual_encoder_unet"),
        ("architecture_arguments", [], "nnunet.architecture_arguments must be an object"),
        ("architecture_arguments.in_channels", 2, "must have in_channels 1 and classes 3"),
        ("architecture_arguments.classes", 9, "must have in_channels 1 and classes 3"),
        ("architecture_arguments.dimensions", 2, "architecture_arguments.dimensions must be 3, as patch_size"),
        ("architecture_arguments.strides", None, "architecture_arguments.strides must be a list"),
        ("architecture_arguments.strides", [], "architecture_arguments.strides must name at least one stage"),
        ("architecture_arguments.strides", [[1, 1], [2, 2]], "strides[0] must be a list of 3"),
        ("architecture_arguments.strides", [[1, 1, 1], [2, 2, 0]], "strides[1][2] must be 1 or more"),
        ("architecture_arguments.strides", [[2, 1, 1], [2, 2, 2]], "the first of the strides must be 1"),
        ("architecture_arguments.strides", [[1, 1, 1], [3, 2, 2]], "cannot be divided by the strides"),
        ("architecture_arguments.features_per_stage", [4, 10**9], "features_per_stage[1] must be from 0 to 2048"),
        ("architecture_arguments.features_per_stage", [4] * 13, "must be a finite number, got [4, 4"),
        ("architecture_arguments.n_stages", -1, "n_stages must be from 0 to 2048"),
        ("architecture_arguments.kernel_sizes", [[[[3]]]], "must be a finite number"),
        ("architecture_arguments.norm_op_kwargs", {"a": {"b": {"c": 1}}}, "must be a finite number"),
        ("previous_stage", 3, "nnunet.previous_stage must be text"),
        ("previous_stage", "3d_lowres", "must have in_channels 3 and classes 3"),
        ("mirror_axes", [3], "nnunet.mirror_axes[0] must be one of 0, 1, 2"),
        ("mirror_axes", [-1], "nnunet.mirror_axes[0] must be one of 0, 1, 2"),
        # Every axis doubles the work: thirty zeros would be a thousand million looks.
        ("mirror_axes", [0] * 30, "nnunet.mirror_axes must be different axes"),
        ("cleanup", [{"labels": [1], "keep": "smallest", "min_size_mm3": None}], "cleanup[0].keep must be one of"),
        ("cleanup", [{"labels": [0], "keep": "largest", "min_size_mm3": None}], "cleanup[0].labels[0] must be 1"),
        ("cleanup", [{"labels": [1], "keep": "largest", "min_size_mm3": "1"}], "min_size_mm3 must be a finite"),
        ("cleanup", [{"labels": [1], "keep": "largest", "min_size_mm3": 1}] * 256, "cleanup must have at most 255"),
        ("notes", "one", "nnunet.notes must be a list"),
        ("notes", ["x"] * 101, "nnunet.notes must be at most 100"),
        ("notes", ["x" * 1001], "nnunet.notes[0] must be at most 1000 characters"),
        ("folds", {"0": "/etc/passwd"}, "unknown key 'folds'"),
        ("surprise", 1, "unknown key 'surprise'"),
    ],
)  # fmt: skip
def test_a_field_that_lies_or_asks_for_too_much_is_refused_by_name(a_plan, place, value, words):
    data = copy.deepcopy(plan_json.to_json(a_plan()))
    *path, last = place.split(".")
    target = data
    for key in path:
        target = target[key]
    target[last] = value
    with pytest.raises(FieldError) as caught:
        plan_json.parse(data, "card.nnunet")
    assert words in str(caught.value)


@pytest.mark.parametrize("value", [None, [], "plan", 3, {}, {"patch_size": [8, 8, 8]}], ids=str)
def test_something_that_is_no_plan_is_refused(value):
    with pytest.raises(FieldError, match=r"card\.nnunet"):
        plan_json.parse(value, "card.nnunet")


def test_no_key_may_be_missing(a_plan):
    whole = plan_json.to_json(a_plan())
    for key in whole:
        with pytest.raises(FieldError, match=r"card\.nnunet"):
            plan_json.parse({name: value for name, value in whole.items() if name != key}, "card.nnunet")
