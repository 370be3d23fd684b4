"""nnU-Net v2 folders: every configuration is read as it is meant; each thing that does not fit gets its sentence."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from thoraxseg.checkpoints.archive import safe_extract
from thoraxseg.checkpoints.nnunet_plan import Channel, Origin, Resampling
from thoraxseg.checkpoints.nnunet_v2 import (
    find_models,
    is_nnunet_v2,
    read_nnunet_v2,
    read_previous_stage,
)
from thoraxseg.checkpoints.weights import read_weights
from thoraxseg.errors import CheckpointError
from thoraxseg.models import build_network, load_weights

STATISTICS = {"mean": 90.5, "std": 20.25, "percentile_00_5": -10.0, "percentile_99_5": 300.0}
PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
RESIDUAL = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"


def spline(order, order_z, segmentation=False):
    return {"is_seg": segmentation, "order": order, "order_z": order_z, "force_separate_z": None}


def architecture(dimensions=3, name=PLAIN):
    blocks = "n_conv_per_stage" if "Plain" in name else "n_blocks_per_stage"
    return {
        "network_class_name": name,
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [4, 8, 8],
            "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
            "kernel_sizes": [[1, 3, 3][-dimensions:], [3] * dimensions, [3] * dimensions],
            "strides": [[1] * dimensions, [1, 2, 2][-dimensions:], [2] * dimensions],
            blocks: [2, 2, 1],
            "n_conv_per_stage_decoder": [2, 1],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def configuration(dimensions=3, name=PLAIN, channels=1):
    return {
        "data_identifier": "x",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16, 32, 24][-dimensions:],
        "median_image_size_in_voxels": [100.0] * dimensions,
        "spacing": [0.3, 0.14, 0.15][-dimensions:],
        "normalization_schemes": ["CTNormalization", "ZScoreNormalization"][:channels],
        "use_mask_for_norm": [False, True][:channels],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": spline(3, 0),
        "resampling_fn_seg_kwargs": spline(1, 0, True),
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": spline(1, 0),
        "architecture": architecture(dimensions, name),
        "batch_dice": True,
    }


def plans(name=PLAIN, channels=1):
    return {
        "dataset_name": "Dataset601_Mouse",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [0.3, 0.14, 0.15],
        "original_median_shape_after_transp": [100, 100, 100],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [1, 2, 0],
        "transpose_backward": [2, 0, 1],
        "configurations": {
            "2d": configuration(2, name, channels),
            "3d_lowres": configuration(3, name, channels) | {"next_stage": "3d_cascade_fullres"},
            "3d_fullres": configuration(3, name, channels),
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(n): dict(STATISTICS, min=-99.0) for n in range(channels)
        },
    }


def dataset(channels=1, labels=None, **more):
    return {
        "channel_names": {str(n): ("CT", "MRI")[n] for n in range(channels)},
        "labels": labels or {"background": 0, "lung": 1, "tumor": 2},
        "numTraining": 15,
        "file_ending": ".nii.gz",
        **more,
    }


def weights(plan_dict, dataset_dict, name):
    """Tensors of the network that nnU-Net would build, by our own builder, from the numbers in the plans."""
    config = plan_dict["configurations"][name]
    config = plan_dict["configurations"].get(config.get("inherits_from"), {}) | config
    given = config["architecture"]
    labels = [v for k, v in dataset_dict["labels"].items() if k != "ignore"]
    regions = any(isinstance(v, list) and len(v) > 1 for v in labels)
    values = {i for v in labels for i in (v if isinstance(v, list) else [v])} - {0}
    inputs = len(dataset_dict.get("channel_names", dataset_dict.get("modality")))
    arguments = {k: v for k, v in given["arch_kwargs"].items() if k != "block"}
    kind = "plain_conv_unet" if "Plain" in given["network_class_name"] else "residual_encoder_unet"
    network = build_network(
        kind,
        {
            "in_channels": inputs + (len(values) if "previous_stage" in config else 0),
            "classes": len(dataset_dict["labels"]) - 1 - ("ignore" in dataset_dict["labels"]) + (not regions),
            **arguments,
        },
    )
    return OrderedDict(network.state_dict())


def save_fold(model, fold, plan_dict, dataset_dict, name, final="checkpoint_final.pth", **changes):
    folder = model / (f"fold_{fold}")
    folder.mkdir(exist_ok=True)
    content = {
        "network_weights": changes.pop("state", None) or weights(plan_dict, dataset_dict, name),
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 1e-2}]},
        "grad_scaler_state": {"scale": 65536.0},
        "logging": {"mean_fg_dice": [np.float64(0.5)], "ema_fg_dice": [np.float32(0.5)]},
        "_best_ema": np.float64(0.9),
        "current_epoch": 1000,
        "init_args": {
            "plans": copy.deepcopy(plan_dict),
            "configuration": name,
            "fold": fold,
            "dataset_json": dataset_dict,
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1) if name == "2d" else (0, 1, 2),
    }
    content |= changes
    torch.save(content, folder / final)
    return folder / final


def save_model(results, plan_dict, dataset_dict, name="3d_fullres", folds=(0,), **changes):
    model = results / "Dataset601_Mouse" / f"nnUNetTrainer__nnUNetPlans__{name}"
    model.mkdir(parents=True)
    (model / "plans.json").write_text(json.dumps(plan_dict), "utf-8")
    (model / "dataset.json").write_text(json.dumps(dataset_dict), "utf-8")
    for fold in folds:
        save_fold(model, fold, plan_dict, dataset_dict, name, **changes)
    return model


def fits(plan):
    """Load the weights of every fold into the network of the plan, strictly."""
    network = build_network(plan.architecture, plan.architecture_arguments)
    for path in plan.folds.values():
        load_weights(network, plan.architecture, read_weights(path))
    return True


@pytest.fixture
def model(tmp_path):
    """A model of configuration 3d_fullres with one fold."""
    return save_model(tmp_path, plans(), dataset())


def edit(path, change):
    data = json.loads(path.read_text("utf-8"))
    change(data)
    path.write_text(json.dumps(data), "utf-8")


def edit_both(model, change):
    """Change plans.json and the copy of it that the checkpoints keep."""
    edit(model / "plans.json", change)
    for path in model.glob("fold_*/*.pth"):
        content = torch.load(path, weights_only=False)
        change(content["init_args"]["plans"])
        torch.save(content, path)


def test_a_3d_model_is_read_with_all_that_inference_needs(model):
    plan = read_nnunet_v2(model)
    assert (plan.origin, plan.name, plan.configuration) == (Origin.V2, "Dataset601_Mouse", "3d_fullres")
    assert plan.trainer == "nnUNetTrainer"
    assert plan.channels == (Channel("CT", "ct", False, STATISTICS),)
    assert plan.labels == {"lung": (1,), "tumor": (2,)}
    assert (plan.regions_class_order, plan.ignore_label, plan.reader) == (None, None, "SimpleITKIO")
    assert (plan.transpose_forward, plan.transpose_backward) == ((1, 2, 0), (2, 0, 1))
    assert (plan.spacing_mm, plan.patch_size) == ((0.3, 0.14, 0.15), (16, 32, 24))
    assert plan.resample_data == Resampling("spline", 3, 0, None)
    assert plan.resample_segmentation == plan.resample_probabilities == Resampling("spline", 1, 0, None)
    assert plan.architecture == "plain_conv_unet"
    assert plan.architecture_arguments == {
        "in_channels": 1,
        "classes": 3,
        "dimensions": 3,
        "n_stages": 3,
        "features_per_stage": (4, 8, 8),
        "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        "n_conv_per_stage": (2, 2, 1),
        "n_conv_per_stage_decoder": (2, 1),
        "conv_bias": True,
    }
    assert (plan.previous_stage, plan.mirror_axes, plan.cleanup, plan.notes) == (None, (0, 1, 2), (), ())
    assert plan.folds == {"0": model / "fold_0" / "checkpoint_final.pth"}
    assert fits(plan)


@pytest.mark.parametrize("name", [PLAIN, RESIDUAL], ids=["plain", "residual"])
@pytest.mark.parametrize("config", ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_weights_of_every_kind_of_model_fit_its_plan(tmp_path, name, config, channels):
    plan = read_nnunet_v2(save_model(tmp_path, plans(name, channels), dataset(channels), config))
    assert fits(plan)
    assert plan.configuration == config
    assert len(plan.channels) == channels
    assert plan.architecture_arguments["in_channels"] == channels + (
        2 if config == "3d_cascade_fullres" else 0
    )
    assert len(plan.patch_size) == len(plan.spacing_mm) == (2 if config == "2d" else 3)
    assert plan.mirror_axes == ((0, 1) if config == "2d" else (0, 1, 2))


def test_a_configuration_overrides_what_it_inherits(tmp_path):
    changed = plans()
    changed["configurations"]["3d_cascade_fullres"]["patch_size"] = [8, 8, 8]
    plan = read_nnunet_v2(save_model(tmp_path, changed, dataset(), "3d_cascade_fullres"))
    assert (plan.patch_size, plan.spacing_mm) == ((8, 8, 8), (0.3, 0.14, 0.15))


def test_the_old_path_of_the_residual_network_is_known(tmp_path):
    old = "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet"
    plan = read_nnunet_v2(save_model(tmp_path, plans(old), dataset()))
    assert plan.architecture == "residual_encoder_unet" and fits(plan)


@pytest.mark.parametrize("class_name", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_plans_of_the_first_releases_give_the_same_network(tmp_path, class_name):
    new = plans(PLAIN if class_name == "PlainConvUNet" else RESIDUAL)
    old = copy.deepcopy(new)
    config = old["configurations"]["3d_fullres"]
    kwargs = config.pop("architecture")["arch_kwargs"]
    config |= {
        "UNet_class_name": class_name,
        "UNet_base_num_features": 4,
        "unet_max_num_features": 8,
        "n_conv_per_stage_encoder": [2, 2, 1],
        "n_conv_per_stage_decoder": [2, 1],
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": kwargs["strides"],
        "conv_kernel_sizes": kwargs["kernel_sizes"],
    }
    old["foreground_intensity_properties_by_modality"] = old.pop(
        "foreground_intensity_properties_per_channel"
    )
    old_dataset = dataset()
    old_dataset["modality"] = old_dataset.pop("channel_names")
    state = weights(new, dataset(), "3d_fullres")
    found = read_nnunet_v2(save_model(tmp_path / "old", old, old_dataset, state=state))
    expected = read_nnunet_v2(save_model(tmp_path / "new", new, dataset()))
    assert found.architecture_arguments == expected.architecture_arguments
    assert (found.architecture, found.channels) == (expected.architecture, expected.channels)
    assert fits(found)


def test_sizes_may_be_one_number_for_all_stages_and_axes(tmp_path):
    changed = plans()
    kwargs = changed["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    kwargs |= {
        "features_per_stage": 4,
        "kernel_sizes": 3,
        "strides": [1, 2, [2, 2, 2]],
        "n_conv_per_stage": 2,
    }
    state = weights(
        plans()
        | {
            "configurations": {
                "3d_fullres": {
                    "architecture": architecture()
                    | {
                        "arch_kwargs": kwargs
                        | {"kernel_sizes": [[3] * 3] * 3, "strides": [[1] * 3, [2] * 3, [2] * 3]}
                    }
                }
            }
        },
        dataset(),
        "3d_fullres",
    )
    plan = read_nnunet_v2(save_model(tmp_path, changed, dataset(), state=state))
    assert plan.architecture_arguments["kernel_sizes"] == ((3, 3, 3),) * 3
    assert plan.architecture_arguments["features_per_stage"] == (4, 4, 4)
    assert fits(plan)


def test_layers_that_differ_from_nnunets_own_are_passed_on(tmp_path):
    changed = plans()
    kwargs = changed["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    kwargs |= {"norm_op_kwargs": {"eps": 1e-3, "affine": True}, "nonlin_kwargs": {"negative_slope": 0.2}}
    plan = read_nnunet_v2(save_model(tmp_path, changed, dataset()))
    assert plan.architecture_arguments["norm_op_kwargs"] == {"eps": 1e-3, "affine": True}
    assert plan.architecture_arguments["nonlin_kwargs"] == {"negative_slope": 0.2}
    assert fits(plan)


def test_resampling_with_torch_is_read(tmp_path):
    changed = plans()
    kwargs = {"is_seg": False, "force_separate_z": False, "memefficient_seg_resampling": False}
    config = changed["configurations"]["3d_fullres"]
    config |= {"resampling_fn_data": "resample_torch_fornnunet", "resampling_fn_data_kwargs": kwargs}
    plan = read_nnunet_v2(save_model(tmp_path, changed, dataset()))
    assert plan.resample_data == Resampling("torch", 1, 0, False)


@pytest.mark.parametrize(
    ("function", "expected"), [("resample_data_or_seg_to_shape", False), ("resample_torch_fornnunet", None)]
)
def test_plans_silent_about_the_coarse_axis_mean_what_the_function_of_nnunet_does(
    tmp_path, function, expected
):
    changed = plans()
    changed["configurations"]["3d_fullres"] |= {
        "resampling_fn_data": function,
        "resampling_fn_data_kwargs": {},
    }
    assert read_nnunet_v2(save_model(tmp_path, changed, dataset())).resample_data.force_separate_z is expected


REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}


def test_regions_keep_their_order_and_the_ignore_label(tmp_path):
    given = dataset(labels=REGIONS, regions_class_order=[1, 2, 3])
    plan = read_nnunet_v2(save_model(tmp_path, plans(), given))
    assert list(plan.labels.items()) == [("whole", (1, 2, 3)), ("core", (2, 3)), ("enhancing", (3,))]
    assert (plan.regions_class_order, plan.ignore_label) == ((1, 2, 3), 4)
    assert plan.architecture_arguments["classes"] == 3
    assert fits(plan)


def test_a_cascade_of_regions_takes_one_channel_for_every_label(tmp_path):
    given = dataset(labels=REGIONS, regions_class_order=[1, 2, 3])
    plan = read_nnunet_v2(save_model(tmp_path, plans(), given, "3d_cascade_fullres"))
    assert plan.architecture_arguments["in_channels"] == 1 + 3


def test_labels_are_in_the_order_of_their_numbers(tmp_path):
    given = dataset(labels={"tumor": 2, "background": 0, "lung": 1})
    assert list(read_nnunet_v2(save_model(tmp_path, plans(), given)).labels) == ["lung", "tumor"]


# Finding models


def test_models_are_found_in_result_folders_and_unpacked_exports(tmp_path):
    for name in ("2d", "3d_fullres"):
        save_model(tmp_path / "results", plans(), dataset(), name)
    with zipfile.ZipFile(tmp_path / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (tmp_path / "results").rglob("*"):
            archive.write(path, path.relative_to(tmp_path / "results"))
    safe_extract(tmp_path / "export.zip", tmp_path / "unpacked")
    for folder in (tmp_path / "results", tmp_path / "unpacked", tmp_path / "unpacked" / "Dataset601_Mouse"):
        assert is_nnunet_v2(folder)
        assert [path.name.split("__")[-1] for path in find_models(folder)] == ["2d", "3d_fullres"]
        assert read_nnunet_v2(folder, "2d").configuration == "2d"


EXPORTED = {
    "one model": (("3d_fullres",), "3d_fullres"),
    "several": (("2d", "3d_fullres"), "2d"),
    "a cascade": (("3d_lowres", "3d_cascade_fullres"), "3d_cascade_fullres"),
}


@pytest.mark.parametrize("case", EXPORTED)
def test_what_nnunet_exports_is_opened(tmp_path, monkeypatch, case):
    export = pytest.importorskip(
        "nnunetv2.model_sharing.model_export", reason="nnunetv2, whose export is opened, is not installed"
    )
    names, wanted = EXPORTED[case]
    for name in names:
        model = save_model(tmp_path / "results", plans(), dataset(), name, folds=(0, 1))
        (model / "dataset_fingerprint.json").write_text("{}")
        cleanup_file(model / "crossval_results_folds_0_1")
        (model / "crossval_results_folds_0_1" / "postprocessing.pkl").write_bytes(b"\x80\x04cos\nsystem\n.")
        for fold in ("fold_0", "fold_1"):
            (model / fold / "progress.png").write_bytes(b"\x89PNG")
            (model / fold / "validation").mkdir()
            (model / fold / "validation" / "summary.json").write_text("{}")
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    export.export_pretrained_model("Dataset601_Mouse", str(tmp_path / "export.zip"), names, folds=(0, 1))
    files = safe_extract(tmp_path / "export.zip", tmp_path / "unpacked")
    assert sum(path.name == "checkpoint_final.pth" for path in files) == 2 * len(names)
    if len(names) == 1:
        plan = read_nnunet_v2(tmp_path / "unpacked")
    else:
        with pytest.raises(
            CheckpointError, match=r"unpacked: holds 2 models .*Choose one by its configuration"
        ):
            read_nnunet_v2(tmp_path / "unpacked")
        plan = read_nnunet_v2(tmp_path / "unpacked", wanted)
    assert (plan.configuration, list(plan.folds), plan.notes) == (wanted, ["0", "1"], ())
    assert plan.cleanup == ({"labels": (1, 2), "keep": "largest", "min_size_mm3": None},)
    assert fits(plan)
    if case == "a cascade":
        assert read_previous_stage(plan).configuration == "3d_lowres"


def test_an_archive_without_a_model_is_said_to_have_none(tmp_path):
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("Dataset601_Mouse/dataset.json", "{}")
        archive.writestr("readme.txt", "hello")
    safe_extract(tmp_path / "export.zip", tmp_path / "unpacked")
    with pytest.raises(
        CheckpointError, match=r"unpacked: expected an nnU-Net v2 model, .* plans\.json and fold_0"
    ):
        read_nnunet_v2(tmp_path / "unpacked")
    with pytest.raises(
        CheckpointError, match=r"export\.zip: not a readable torch weights file, but an archive"
    ):
        read_nnunet_v2(tmp_path / "export.zip")


def test_several_models_are_listed_and_none_is_guessed(tmp_path):
    for name in ("2d", "3d_fullres"):
        save_model(tmp_path, plans(), dataset(), name)
    with pytest.raises(
        CheckpointError, match=r"holds 2 models .*2d .*3d_fullres.* Choose one by its config"
    ) as told:
        read_nnunet_v2(tmp_path)
    assert "cascade" not in str(told.value)
    with pytest.raises(
        CheckpointError, match=r"no model of configuration '3d_lowres'; there are: 2d .*3d_fullres"
    ):
        read_nnunet_v2(tmp_path, "3d_lowres")


def test_a_renamed_model_folder_is_read_and_its_checkpoint_says_what_it_is(tmp_path, model):
    renamed = model.rename(tmp_path / "my model")
    assert read_nnunet_v2(renamed).configuration == "3d_fullres"
    with pytest.raises(CheckpointError, match="is of configuration '3d_fullres', not '2d'"):
        read_nnunet_v2(renamed, "2d")


def test_folders_without_a_model_are_said_to_be_none(tmp_path):
    assert not is_nnunet_v2(tmp_path)
    (tmp_path / "plans.json").write_text("{}")  # as in the output folder of a prediction
    assert not is_nnunet_v2(tmp_path)
    with pytest.raises(CheckpointError, match="expected an nnU-Net v2 model"):
        read_nnunet_v2(tmp_path / "none")


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_links_are_not_followed_when_models_are_searched(tmp_path, model):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "model").symlink_to(model)
    assert find_models(tmp_path / "a") == []


# Folds


def test_folds_can_be_chosen_and_all_are_taken_otherwise(tmp_path):
    model = save_model(tmp_path, plans(), dataset(), folds=(0, 2, 10, "all"))
    assert list(read_nnunet_v2(model).folds) == ["0", "2", "10"]
    assert list(read_nnunet_v2(model, folds=["2", "all"]).folds) == ["2", "all"]
    assert list(read_nnunet_v2(model, folds=["fold_2"]).folds) == ["2"]
    shutil.rmtree(model / "fold_0")
    shutil.rmtree(model / "fold_2")
    shutil.rmtree(model / "fold_10")
    assert list(read_nnunet_v2(model).folds) == ["all"]


def test_missing_folds_are_listed_with_those_that_are_there(tmp_path):
    model = save_model(tmp_path, plans(), dataset(), folds=(0, 2))
    with pytest.raises(CheckpointError, match=r"of fold '1, 4' is missing; folds with this file: 0, 2\."):
        read_nnunet_v2(model, folds=["0", "1", "4"])
    with pytest.raises(CheckpointError, match="expected different folds"):
        read_nnunet_v2(model, folds=["0", "0"])
    with pytest.raises(CheckpointError, match="expected different folds"):
        read_nnunet_v2(model, folds=[])


def test_the_best_checkpoint_is_taken_on_request_and_suggested_when_it_is_the_only_one(tmp_path):
    model = save_model(tmp_path, plans(), dataset(), final="checkpoint_best.pth")
    assert read_nnunet_v2(model, best=True).folds["0"].name == "checkpoint_best.pth"
    with pytest.raises(
        CheckpointError, match=r"no fold has checkpoint_final\.pth.* Folds 0 have checkpoint_best\.pth"
    ):
        read_nnunet_v2(model)


def test_a_fold_left_out_is_noted(tmp_path):
    model = save_model(tmp_path, plans(), dataset(), folds=(0, 1))
    (model / "fold_1" / "checkpoint_final.pth").unlink()
    assert read_nnunet_v2(model).notes == ("fold 1 has no checkpoint_final.pth and was left out",)


def test_a_model_without_folds_says_so(model):
    shutil.rmtree(model / "fold_0")
    with pytest.raises(CheckpointError, match=r"no fold has checkpoint_final\.pth; fold folders: none"):
        read_nnunet_v2(model)


# One checkpoint file


def lone(
    tmp_path, name="mouse.pth", plan_dict=None, dataset_dict=None, config="3d_fullres", fold=0, **changes
):
    """A checkpoint that lies in no model folder."""
    model = save_model(
        tmp_path / "elsewhere", plan_dict or plans(), dataset_dict or dataset(), config, (fold,), **changes
    )
    (tmp_path / "lone").mkdir()
    return next(model.glob("fold_*/*.pth")).rename(tmp_path / "lone" / name)


def test_a_checkpoint_in_its_model_folder_means_that_folder_with_this_fold(tmp_path, monkeypatch):
    model = save_model(tmp_path, plans(), dataset(), folds=(0, 2, "all"))
    save_fold(model, 2, plans(), dataset(), "3d_fullres", "checkpoint_best.pth")
    cleanup_file(model / "crossval_results_folds_2")
    for fold in ("2", "all"):
        given = model / f"fold_{fold}" / "checkpoint_final.pth"
        assert read_nnunet_v2(given) == read_nnunet_v2(model, folds=[fold])
        assert read_nnunet_v2(given).folds == {fold: given}
    assert len(read_nnunet_v2(model / "fold_2" / "checkpoint_final.pth").cleanup) == 1
    given = model / "fold_2" / "checkpoint_best.pth"
    assert read_nnunet_v2(given) == read_nnunet_v2(model, folds=["2"], best=True)
    monkeypatch.chdir(model / "fold_2")
    plan = read_nnunet_v2(Path("checkpoint_best.pth"))
    assert (list(plan.folds), len(plan.cleanup), plan.notes) == (["2"], 1, ())


def test_a_checkpoint_in_its_model_folder_is_as_strictly_read_as_the_folder(model):
    given = model / "fold_0" / "checkpoint_final.pth"
    edit(model / "plans.json", at("configurations.X.spacing", [0.3, 0.3, 0.3]))
    with pytest.raises(CheckpointError, match=r"plans\.json: differs from the plans .* in spacing_mm"):
        read_nnunet_v2(given)
    (model / "dataset.json").unlink()
    with pytest.raises(CheckpointError, match=r"dataset\.json: the file is missing"):
        read_nnunet_v2(given)


@pytest.mark.parametrize("config", ["2d", "3d_fullres"])
@pytest.mark.parametrize("fold", [0, 3, "all"])
def test_a_checkpoint_elsewhere_is_read_by_its_own_copies(tmp_path, config, fold):
    path = lone(tmp_path, config=config, fold=fold)
    plan = read_nnunet_v2(path)
    folder = save_model(tmp_path / "whole", plans(), dataset(), config, (fold,))
    cleanup_file(folder / f"crossval_results_folds_{fold}")
    whole = read_nnunet_v2(folder)
    assert plan.folds == {str(fold): path} and plan.cleanup == ()
    assert "mouse.pth is called neither checkpoint_final.pth nor checkpoint_best.pth" in plan.notes[0]
    assert "without its model folder: plans and dataset are the copies kept in it" in plan.notes[-1]
    assert "post-processing is not known, so none is done" in plan.notes[-1]
    assert replace(plan, folds={}, notes=()) == replace(whole, folds={}, notes=(), cleanup=())
    assert fits(plan)


def test_a_final_checkpoint_elsewhere_needs_no_note_on_its_name(tmp_path):
    for name in ("checkpoint_final.pth", "checkpoint_best.pth"):
        (note,) = read_nnunet_v2(lone(tmp_path / name, name)).notes
        assert "without its model folder" in note


def test_a_fold_folder_without_its_model_counts_as_elsewhere(tmp_path, model):
    (tmp_path / "other").mkdir()
    shutil.copytree(model / "fold_0", tmp_path / "other" / "fold_4")
    plan = read_nnunet_v2(tmp_path / "other" / "fold_4" / "checkpoint_final.pth")
    assert list(plan.folds) == ["0"]  # what the checkpoint says, not the folder
    assert "without its model folder" in plan.notes[-1]


def test_a_wish_that_the_given_checkpoint_cannot_meet_is_refused(tmp_path, model):
    for path in (model / "fold_0" / "checkpoint_final.pth", lone(tmp_path, "checkpoint_final.pth")):
        assert list(read_nnunet_v2(path, "3d_fullres", ["fold_0"]).folds) == ["0"]
        with pytest.raises(
            CheckpointError, match=r"final\.pth: is of fold 0, but folds \['0', '1'\] are asked for"
        ):
            read_nnunet_v2(path, folds=["0", "1"])
        with pytest.raises(CheckpointError, match=r"is not called checkpoint_best\.pth"):
            read_nnunet_v2(path, best=True)
        with pytest.raises(CheckpointError, match="is of configuration '3d_fullres', not '2d'"):
            read_nnunet_v2(path, "2d")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"plans": None}, r"keeps no copy of its own \(init_args\.plans\)\. Give its whole model folder"),
        ({"dataset_json": None}, r"keeps no copy of its own \(init_args\.dataset_json\)"),
        ({"plans": ["a"]}, r"keeps no copy of its own \(init_args\.plans\)"),
        ({"fold": None}, r"init_args\.fold must be the number of a fold or 'all', got None"),
        ({"fold": -1}, r"init_args\.fold must be"),
        ({"fold": True}, r"init_args\.fold must be"),
        ({"fold": "../0"}, r"init_args\.fold must be"),
        ({"configuration": None}, "does not say its configuration"),
        ({"configuration": "4d"}, r"init_args\.plans: configuration '4d' .* not described"),
        ({"dataset_json": dataset(labels={"background": 0, "x": 2})}, r"init_args\.dataset_json: .*without gaps"),
        ({"dataset_json": dataset(2)}, r"init_args\.plans: .*normalizes 1 channels .*has 2"),
        ({"dataset_json": dataset(labels={"background": 0, "a": 1})}, r"labels of init_args\.dataset_json say 2"),
        ({"dataset_json": {1: "a", "1": "b"}}, r"init_args\.dataset_json: key '1' is given twice"),
        ({"dataset_json": {"a": b"b"}}, r"init_args\.dataset_json: it is no plain JSON"),
        ({"plans": {"a": float("nan")}}, r"init_args\.plans: it is no plain JSON"),
        ({"plans": {"a": "x" * (17 << 20)}}, r"it stands for|larger than 16 MiB"),
    ],
)  # fmt: skip
def test_each_thing_wrong_in_a_checkpoint_elsewhere_is_named(tmp_path, arguments, reason):
    told = {"plans": plans(), "dataset_json": dataset(), "configuration": "3d_fullres", "fold": 0} | arguments
    path = lone(tmp_path, init_args=told)
    with pytest.raises(CheckpointError, match=rf"mouse\.pth.*({reason})"):
        read_nnunet_v2(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("image_reader_writer", "os.system"), "image_reader_writer must be one of"),
        (("configurations.X.architecture.network_class_name", "os.system"), "network_class_name must be one of"),
        (("configurations.X.patch_size", [16, 32, 26]), "cannot be divided"),
        (("configurations.X.inherits_from", "3d_fullres"), "in a circle"),
    ],
)  # fmt: skip
def test_each_thing_wrong_in_the_plans_of_a_checkpoint_elsewhere_is_named(tmp_path, change, reason):
    changed = plans()
    at(*change)(changed)
    with pytest.raises(CheckpointError, match=rf"mouse\.pth, init_args\.plans: .*{reason}"):
        read_nnunet_v2(lone(tmp_path, plan_dict=changed, state=weights(plans(), dataset(), "3d_fullres")))


def test_weights_that_do_not_fit_the_copies_in_their_checkpoint_are_refused(tmp_path):
    path = lone(tmp_path, state=weights(plans(channels=2), dataset(2), "3d_fullres"))
    with pytest.raises(
        CheckpointError, match=r"takes 2 input channels, init_args\.plans and .*dataset_json say 1"
    ):
        read_nnunet_v2(path)


def test_a_file_that_is_no_checkpoint_of_nnunet_is_said_to_be_none(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth: .*so it is not of nnU-Net v2"):
        read_nnunet_v2(tmp_path / "w.pth")
    (tmp_path / "w.pth").write_text("hello")
    with pytest.raises(CheckpointError, match=r"w\.pth: expected a weights file .*got a text file"):
        read_nnunet_v2(tmp_path / "w.pth")


def test_a_checkpoint_of_a_second_stage_by_itself_has_no_first_one(tmp_path):
    second = read_nnunet_v2(lone(tmp_path, config="3d_cascade_fullres"))
    assert second.previous_stage == "3d_lowres"
    save_model(tmp_path / "elsewhere" / "b", plans(), dataset(), "3d_lowres")
    with pytest.raises(
        CheckpointError, match=r"mouse\.pth: is the second stage .* by itself .*of 3d_lowres in it"
    ):
        read_previous_stage(second)


def test_a_checkpoint_of_a_second_stage_in_its_folder_finds_the_first_one(tmp_path):
    save_model(tmp_path, plans(), dataset(), "3d_lowres")
    model = save_model(tmp_path, plans(), dataset(), "3d_cascade_fullres")
    second = read_nnunet_v2(model / "fold_0" / "checkpoint_final.pth")
    assert read_previous_stage(second).configuration == "3d_lowres"


# Cascades


def test_the_first_stage_of_a_cascade_is_read_from_beside_it(tmp_path):
    save_model(tmp_path, plans(), dataset(), "3d_lowres", folds=(0, 1))
    second = read_nnunet_v2(save_model(tmp_path, plans(), dataset(), "3d_cascade_fullres"))
    assert second.previous_stage == "3d_lowres"
    first = read_previous_stage(second)
    assert (first.configuration, list(first.folds)) == ("3d_lowres", ["0", "1"])
    assert list(read_previous_stage(second, folds=["1"]).folds) == ["1"]
    with pytest.raises(CheckpointError, match="has no previous stage"):
        read_previous_stage(first)


def test_a_cascade_without_its_first_stage_says_what_is_needed(tmp_path):
    second = read_nnunet_v2(save_model(tmp_path, plans(), dataset(), "3d_cascade_fullres"))
    with pytest.raises(CheckpointError, match="Put nnUNetTrainer__nnUNetPlans__3d_lowres into"):
        read_previous_stage(second)


def test_a_first_stage_with_other_labels_is_refused(tmp_path):
    save_model(tmp_path, plans(), dataset(labels={"background": 0, "heart": 1, "tumor": 2}), "3d_lowres")
    second = read_nnunet_v2(save_model(tmp_path, plans(), dataset(), "3d_cascade_fullres"))
    with pytest.raises(CheckpointError, match="other labels"):
        read_previous_stage(second)


# Post-processing


def cleanup_file(folder, functions=1, **kwargs):
    folder.mkdir(exist_ok=True)
    (folder / "postprocessing.json").write_text(
        json.dumps(
            {
                "input_folder": {"mean": {"1": {"Dice": float("nan")}}},
                "postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"] * functions,
                "postprocessing_kwargs": [{"labels_or_regions": [1, 2]} | kwargs][:functions],
            }
        )
    )


@pytest.mark.parametrize(
    ("labels", "expected"), [(1, (1,)), ([1, 2], (1, 2)), ([[1, 2]], (1, 2)), ([[1], 2], (1, 2))], ids=str
)
def test_post_processing_is_read(model, labels, expected):
    cleanup_file(model / "crossval_results_folds_0", labels_or_regions=labels)
    plan = read_nnunet_v2(model)
    step = {"labels": expected, "keep": "largest", "min_size_mm3": None}
    assert (plan.cleanup, plan.notes) == ((step,), ())


def test_post_processing_of_other_folds_is_noted_and_that_of_several_not_used(model):
    cleanup_file(model / "crossval_results_folds_0_1_2_3_4")
    plan = read_nnunet_v2(model)
    assert len(plan.cleanup) == 1 and "crossval_results_folds_0_1_2_3_4" in plan.notes[0]
    cleanup_file(model / "crossval_results_folds_1")
    plan = read_nnunet_v2(model)
    assert plan.cleanup == () and "several" in plan.notes[0]


def test_pickled_post_processing_is_not_read(model):
    folder = model / "crossval_results_folds_0"
    folder.mkdir()
    (folder / "postprocessing.pkl").write_bytes(b"\x80\x04cos\nsystem\n.")
    plan = read_nnunet_v2(model)
    assert plan.cleanup == () and plan.notes == ("postprocessing.pkl holds code and was not read",)


@pytest.mark.parametrize(
    "change",
    [
        {"labels_or_regions": 3},
        {"labels_or_regions": 0},
        {"labels_or_regions": "1"},
        {"labels_or_regions": []},
        {"background_label": 1},
        {"other": 1},
    ],
    ids=str,
)
def test_post_processing_that_does_not_fit_is_refused(model, change):
    cleanup_file(model / "crossval_results_folds_0", **change)
    with pytest.raises(CheckpointError, match=r"postprocessing\.json: postprocessing_kwargs\[0\]"):
        read_nnunet_v2(model)


def test_unknown_functions_of_post_processing_are_refused(model):
    cleanup_file(model / "crossval_results_folds_0")
    edit(
        model / "crossval_results_folds_0" / "postprocessing.json",
        lambda data: data.update(postprocessing_fns=["os.system"]),
    )
    with pytest.raises(
        CheckpointError, match=r"postprocessing_fns\[0\] must be one of remove_all.*'os\.system'"
    ):
        read_nnunet_v2(model)


# What does not fit


def at(path, value):
    """A change of one value deep in plans.json; configurations.X stands for the configuration of the model."""

    def change(data):
        *keys, last = path.split(".")
        for key in keys:
            data = data["3d_fullres" if key == "X" else key]
        if value is KeyError:
            del data[last]
        else:
            data[last] = value

    return change


KWARGS = "configurations.X.architecture.arch_kwargs"


@pytest.mark.parametrize("path", [
    "image_reader_writer",
    "label_manager",
    "configurations.X.preprocessor_name",
    "configurations.X.normalization_schemes",
    "configurations.X.resampling_fn_data",
    "configurations.X.resampling_fn_seg",
    "configurations.X.resampling_fn_probabilities",
    "configurations.X.architecture.network_class_name",
    "configurations.X.architecture._kw_requires_import",
    f"{KWARGS}.conv_op",
    f"{KWARGS}.norm_op",
    f"{KWARGS}.dropout_op",
    f"{KWARGS}.nonlin",
])  # fmt: skip
@pytest.mark.parametrize(
    "name", ["evil_module.Payload", "os.system", "builtins.eval", "", None, 3, ["os.system"], {}]
)
def test_names_of_code_in_plans_are_refused_and_nothing_is_imported(model, monkeypatch, path, name):
    (model / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(model))
    listed = path.endswith(("schemes", "import"))
    name = 0 if name is None and path.endswith("dropout_op") else name  # no dropout is what nnU-Net writes
    edit_both(model, at(path, [name] if listed else name))
    with pytest.raises(CheckpointError, match=re.escape(path.split(".")[-1])):
        read_nnunet_v2(model)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("transpose_forward", [0, 1, 1], "order of the axes"),
        ("transpose_forward", [0, 1], "a list of 3"),
        ("transpose_backward", [1, 2, 0], "does not undo"),
        ("configurations", [], "configurations must be an object"),
        ("configurations.X.patch_size", [16, 32, 0], "1 or more"),
        ("configurations.X.patch_size", [16, 32, 1e3], "patch_size"),
        ("configurations.X.patch_size", [16] * 4, "two or three sizes"),
        ("configurations.X.patch_size", [16, 32, 9000], "up to 8192"),
        ("configurations.X.patch_size", [16, 32, 26], "cannot be divided"),
        ("configurations.X.patch_size", [32, 24], "conv_op|2-D"),
        ("configurations.X.spacing", [0.1, 0.1], "a list of 3"),
        ("configurations.X.spacing", [0.1, 0.1, 0], "positive"),
        ("configurations.X.spacing", [0.1, 0.1, True], "finite number"),
        ("configurations.X.use_mask_for_norm", [0], "true or false"),
        ("configurations.X.use_mask_for_norm", [], "0 masks"),
        ("configurations.X.previous_stage", "4d", "not in configurations"),
        ("configurations.X.resampling_fn_data_kwargs", {"device": "cuda:0"}, "other keys"),
        ("configurations.X.resampling_fn_data_kwargs", spline(9, 0), "order"),
        ("configurations.X.resampling_fn_data_kwargs", spline(3, 0, True), "is_seg must be false"),
        ("configurations.X.resampling_fn_seg_kwargs", spline(1, 0, False), "is_seg must be true"),
        ("configurations.X.resampling_fn_data_kwargs", {"separate_z_anisotropy_threshold": 2}, "must be 3"),
        ("configurations.X.inherits_from", "3d_cascade_fullres", "in a circle: 3d_fullres -> 3d_cascade"),
        ("configurations.X.inherits_from", "3d_fullres", "in a circle"),
        ("configurations.X.inherits_from", "gone", "'gone'"),
        ("configurations.X.inherits_from", ["2d"], "inherits_from"),
        ("configurations.X.architecture.extra", 1, "unknown key 'extra'"),
        (f"{KWARGS}.n_stages", 1, "2 to 12"),
        (f"{KWARGS}.n_stages", 100, "2 to 12"),
        (f"{KWARGS}.features_per_stage", [4, 8], "list of 3"),
        (f"{KWARGS}.features_per_stage", [4, 8, 1 << 20], "at most 2048"),
        (f"{KWARGS}.kernel_sizes", [[3, 3, 3], [3, 3, 2], [3, 3, 3]], "odd"),
        (f"{KWARGS}.kernel_sizes", [[3, 3], [3, 3], [3, 3]], "list of 3"),
        (f"{KWARGS}.strides", [[2, 1, 1], [2, 2, 2], [2, 2, 2]], "first of the strides"),
        (f"{KWARGS}.n_conv_per_stage", [2, 2, 0], "1 or more"),
        (f"{KWARGS}.conv_bias", "yes", "true or false"),
        (f"{KWARGS}.nonlin_first", True, "nonlin_first must be false"),
        (f"{KWARGS}.payload", "x", "not supported: 'payload'"),
        (f"{KWARGS}.norm_op_kwargs", {"eps": 1e-5, "x": 1}, "unknown keys"),
        (f"{KWARGS}.norm_op", "torch.nn.BatchNorm3d", "norm_op must be one of"),
        ("foreground_intensity_properties_per_channel", {}, "intensity properties of channel 0 are missing"),
        ("foreground_intensity_properties_per_channel", {"0": STATISTICS | {"std": None}}, "std"),
        ("foreground_intensity_properties_per_channel", {"0": STATISTICS | {"std": -1}}, "negative"),
        ("dataset_name", KeyError, "dataset_name"),
        ("configurations.X.spacing", KeyError, "spacing"),
        ("configurations.X.architecture", KeyError, "UNet_class_name"),
    ],
)  # fmt: skip
def test_each_thing_wrong_in_the_plans_is_named(model, path, value, reason):
    edit_both(model, at(path, value))
    with pytest.raises(CheckpointError, match=rf"plans\.json: .*({reason})"):
        read_nnunet_v2(model)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"labels": {"background": 0, "lung": 1, "tumor": 3}},
            "without gaps or repeats, 0 to 2, got .0, 1, 3.",
        ),
        ({"labels": {"background": 0, "lung": 1, "tumor": 1}}, "without gaps or repeats"),
        ({"labels": {"lung": 1, "tumor": 2}}, "labels.background must be 0"),
        ({"labels": {"background": 1, "lung": 0}}, "labels.background must be 0"),
        ({"labels": {"0": "background", "1": "lung"}}, "as in nnU-Net v1"),
        ({"labels": {"background": 0}}, "background and one more"),
        ({"labels": {"background": 0, "lung": -1}}, "labels.lung"),
        ({"labels": {"background": 0, "lung": "one"}}, "labels.lung"),
        ({"labels": {"background": 0, "lung": True}}, "labels.lung"),
        ({"labels": {"background": 0, "lung": []}}, "labels.lung"),
        ({"labels": {"background": 0, "lung": 1, "x": 300}}, "0 to 255"),
        ({"labels": {"background": 0, "lung": 1, "ignore": 5}}, "labels.ignore must be 2"),
        ({"labels": REGIONS}, "regions_class_order"),
        ({"labels": REGIONS, "regions_class_order": [1, 2]}, "for each of the 3 regions"),
        ({"labels": REGIONS, "regions_class_order": [1, 2, 0]}, "regions_class_order"),
        ({"labels": REGIONS, "regions_class_order": [1, 2, 999]}, "up to 255"),
        ({"channel_names": {}}, "channel_names"),
        ({"channel_names": {"1": "CT"}}, "channel_names"),
        ({"channel_names": ["CT"]}, "channel_names"),
        ({"channel_names": {"0": 1}}, "channel_names.0"),
    ],
)
def test_each_thing_wrong_in_the_dataset_is_named(model, change, reason):
    edit(model / "dataset.json", lambda data: data.update(change))
    with pytest.raises(CheckpointError, match=rf"dataset\.json: .*{reason}"):
        read_nnunet_v2(model)


def test_one_channel_given_where_two_are_needed_is_said(tmp_path):
    model = save_model(tmp_path, plans(channels=2), dataset(2))
    edit(model / "dataset.json", lambda data: data["channel_names"].pop("1"))
    with pytest.raises(CheckpointError, match=r"normalizes 2 channels .*dataset\.json has 1"):
        read_nnunet_v2(model)


def test_plans_of_another_configuration_are_said(model):
    edit(model / "plans.json", lambda data: data["configurations"].pop("3d_fullres"))
    with pytest.raises(
        CheckpointError, match=r"plans\.json: .*'3d_fullres' .*not described; .*2d, 3d_lowres"
    ):
        read_nnunet_v2(model)


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        ("configurations.X.spacing", [0.3, 0.3, 0.3], "spacing_mm"),
        ("configurations.X.normalization_schemes", ["NoNormalization"], "channels"),
        (f"{KWARGS}.nonlin_kwargs", {"negative_slope": 0.2}, "architecture_arguments"),
    ],
)
def test_plans_of_another_model_with_the_same_network_are_refused(model, path, value, name):
    edit(model / "plans.json", at(path, value))
    with pytest.raises(CheckpointError, match=rf"plans\.json: differs from the plans .* in {name}"):
        read_nnunet_v2(model)


def test_a_patch_size_changed_after_the_training_is_noted(model):
    edit(model / "plans.json", at("configurations.X.patch_size", [32, 32, 32]))
    plan = read_nnunet_v2(model)
    assert plan.patch_size == (32, 32, 32)
    assert "says (32, 32, 32) for patch_size, the checkpoint was trained with (16, 32, 24)" in plan.notes[0]


def test_a_checkpoint_without_plans_is_read_with_a_note(tmp_path):
    model = save_model(tmp_path, plans(), dataset(), init_args={"configuration": "3d_fullres"})
    assert "keeps no copy of its plans" in read_nnunet_v2(model).notes[0]


def other_weights(**kwargs):
    changed = plans()
    changed["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] |= kwargs
    return weights(changed, dataset(), "3d_fullres")


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (lambda: weights(plans(channels=2), dataset(2), "3d_fullres"), "takes 2 input channels, .* say 1"),
        (lambda: weights(plans(), dataset(labels=REGIONS), "3d_fullres"), "3 outputs|2 outputs|4 outputs|outputs"),
        (lambda: weights(plans(), dataset(), "2d"), "is a 2-D network, .* a 3-D one"),
        (lambda: other_weights(features_per_stage=[4, 8, 16]), r"shape \(16, 8, 3, 3, 3\)"),
        (lambda: weights(plans(RESIDUAL), dataset(), "3d_fullres"), "of shape None"),
    ],
    ids=["channels", "classes", "dimensions", "features", "kind"],
)  # fmt: skip
def test_weights_of_another_network_are_refused(tmp_path, state, reason):
    found = state()
    if reason.startswith("3 outputs"):
        found["decoder.seg_layers.1.weight"] = torch.zeros(5, 4, 1, 1, 1)
    model = save_model(tmp_path, plans(), dataset(), state=found)
    with pytest.raises(CheckpointError, match=rf"checkpoint_final\.pth: the network .*({reason})"):
        read_nnunet_v2(model)


def test_folds_swapped_between_models_are_refused(tmp_path):
    model = save_model(tmp_path, plans(), dataset(), folds=(0, 1))
    other = save_model(tmp_path / "other", plans(), dataset(), "2d", folds=(1,))
    shutil.copy(other / "fold_1" / "checkpoint_final.pth", model / "fold_1" / "checkpoint_final.pth")
    with pytest.raises(CheckpointError, match=r"fold_1.*is of another model than .*fold_0"):
        read_nnunet_v2(model)


@pytest.mark.parametrize(
    "trainer", ["nnUNetTrainer_250epochs", "nnUNetTrainerDA5", "nnUNetTrainerNoMirroring"]
)
def test_trainers_of_nnunet_are_known(tmp_path, trainer):
    axes = None if "NoMirroring" in trainer else (0, 1, 2)
    model = save_model(
        tmp_path, plans(), dataset(), trainer_name=trainer, inference_allowed_mirroring_axes=axes
    )
    plan = read_nnunet_v2(model)
    assert (plan.trainer, plan.notes, plan.mirror_axes) == (trainer, (), axes or ())


def test_a_trainer_of_the_users_own_is_noted(tmp_path):
    model = save_model(tmp_path, plans(), dataset(), trainer_name="MyTrainer")
    assert "the trainer MyTrainer is not one of nnU-Net's own" in read_nnunet_v2(model).notes[0]


@pytest.mark.parametrize(
    "trainer", ["nnUNetTrainerBN", "nnUNet_Primus_M_Trainer", "os.system", "a b", "", None, 3]
)
def test_trainers_of_other_networks_and_names_that_are_none_are_refused(tmp_path, trainer):
    model = save_model(tmp_path, plans(), dataset(), trainer_name=trainer)
    with pytest.raises(CheckpointError, match=r"trainer"):
        read_nnunet_v2(model)


def test_mirroring_along_an_axis_that_is_not_there_is_refused(tmp_path):
    model = save_model(tmp_path, plans(), dataset(), "2d", inference_allowed_mirroring_axes=(0, 1, 2))
    with pytest.raises(CheckpointError, match="mirrors axis 2 of a 2-D model"):
        read_nnunet_v2(model)


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "expected JSON"),
        (b"[]", "a list instead of an object"),
        (b"{", "expected JSON"),
        (b"<html>", "expected JSON"),
        (b'{"a": 1, "a": 2}', "'a' is given twice"),
        (b'{"a": NaN}', "NaN is not a finite number"),
        (b'{"a": Infinity}', "Infinity is not a finite number"),
        (b'{"a": "\xff"}', "expected JSON"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "expected JSON"),
        (b'{"a": "' + b"x" * (17 << 20) + b'"}', "larger than 16 MiB"),
    ],
    ids=["empty", "list", "cut", "page", "twice", "nan", "infinity", "latin", "deep", "huge"],
)
def test_files_that_are_no_strict_json_are_refused(model, name, raw, reason):
    (model / name).write_bytes(raw)
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)}: .*{reason}"):
        read_nnunet_v2(model)


def test_a_missing_dataset_is_named(model):
    (model / "dataset.json").unlink()
    with pytest.raises(CheckpointError, match=r"dataset\.json: the file is missing"):
        read_nnunet_v2(model)


def test_json_with_a_byte_order_mark_is_read(model):
    path = model / "dataset.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_nnunet_v2(model).labels


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_checkpoint_of_a_model_does_not_run(tmp_path):
    marker = tmp_path / "code-has-run"
    model = save_model(tmp_path, plans(), dataset(), extra=Malicious(marker))
    for path in (model, model / "fold_0" / "checkpoint_final.pth"):
        with pytest.raises(
            CheckpointError, match=r"fold_0.checkpoint_final\.pth: torch's safe loader refused"
        ):
            read_nnunet_v2(path)
    assert not marker.exists()


def test_code_in_a_checkpoint_elsewhere_does_not_run(tmp_path):
    marker = tmp_path / "code-has-run"
    path = lone(tmp_path, logging={"a": Malicious(marker)})
    with pytest.raises(CheckpointError, match=r"mouse\.pth: torch's safe loader refused"):
        read_nnunet_v2(path)
    assert not marker.exists()


def test_no_file_of_the_model_is_changed(model):
    before = {path: path.read_bytes() for path in Path(model).rglob("*") if path.is_file()}
    read_nnunet_v2(model)
    assert {path: path.read_bytes() for path in Path(model).rglob("*") if path.is_file()} == before
