"""nnU-Net v1 folders: stages, cascades, decoder kernels and post-processing as v1 means them; the rest is refused."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from thoraxseg.checkpoints.archive import safe_extract
from thoraxseg.checkpoints.nnunet_plan import Channel, Origin, Resampling
from thoraxseg.checkpoints.nnunet_v1 import (
    find_models,
    is_nnunet_v1,
    read_nnunet_v1,
    read_previous_stage,
)
from thoraxseg.checkpoints.weights import read_weights
from thoraxseg.errors import CheckpointError
from thoraxseg.models import build_network, load_weights

PROPERTIES = OrderedDict(
    median=np.float32(80.0), mean=np.float64(90.5), sd=np.float64(20.25), mn=-1000.0, mx=3000.0,
    percentile_99_5=np.float64(300.0), percentile_00_5=np.float64(-10.0),
)  # fmt: skip
STATISTICS = {"mean": 90.5, "std": 20.25, "percentile_00_5": -10.0, "percentile_99_5": 300.0}


def stage(dimensions=3, spacing=(0.3, 0.14, 0.15)):
    return {
        "batch_size": 2,
        "num_pool_per_axis": [1, 2, 2][-dimensions:],
        "patch_size": np.array([16, 32, 24][-dimensions:]),
        "median_patient_size_in_voxels": np.array([100, 100, 100]),
        "current_spacing": np.array(spacing),
        "original_spacing": np.array(spacing),
        "do_dummy_2D_data_aug": False,
        "pool_op_kernel_sizes": [[1, 2, 2][-dimensions:], [2, 2, 2][-dimensions:]],
        "conv_kernel_sizes": [[1, 3, 3][-dimensions:], [3] * dimensions, [3] * dimensions],
    }


def plans(dimensions=3, stages=2, channels=1):
    return {
        "num_stages": stages,
        "num_modalities": channels,
        "modalities": {n: ("CT", "MRI")[n] for n in range(channels)},
        "normalization_schemes": OrderedDict((n, ("CT", "nonCT")[n]) for n in range(channels)),
        "dataset_properties": {
            "all_sizes": [(10, 20, 30)],
            "all_classes": [1, 2],
            "intensityproperties": OrderedDict((n, PROPERTIES) for n in range(channels)),
        },
        "list_of_npz_files": ["/data/a.npz"],
        "original_spacings": [np.array([0.14, 0.3, 0.14])],
        "preprocessed_data_folder": "/data",
        "num_classes": 2,
        "all_classes": [1, 2],
        "base_num_features": 4,
        "use_mask_for_norm": OrderedDict((n, bool(n)) for n in range(channels)),
        "keep_only_largest_region": None,
        "transpose_forward": [1, 2, 0],
        "transpose_backward": [np.int64(2), np.int64(0), np.int64(1)],
        "data_identifier": "nnUNetData_plans_v2.1",
        "plans_per_stage": {n: stage(dimensions, (0.6 - 0.3 * n, 0.28, 0.3)) for n in range(stages)},
        "preprocessor_name": "GenericPreprocessor" if dimensions == 3 else "PreprocessorFor2D",
        "conv_per_stage": 2,
    }


def state(dimensions=3, inputs=1, outputs=3, features=(4, 8, 16), bias=False):
    """Tensors of a `Generic_UNet` with two poolings, named and shaped as nnunet 1.7.1 does; see DEFINITIONS 5.3."""
    kernels = stage(dimensions)["conv_kernel_sizes"]
    pools = stage(dimensions)["pool_op_kernel_sizes"]
    tensors = OrderedDict()

    def conv(name, after, before, kernel):
        tensors[f"{name}.conv.weight"] = torch.randn(after, before, *kernel)
        tensors[f"{name}.conv.bias"] = torch.randn(after)
        tensors[f"{name}.instnorm.weight"] = torch.randn(after)
        tensors[f"{name}.instnorm.bias"] = torch.randn(after)

    f = features
    for u, (_, skip) in enumerate([(f[2], f[1]), (f[1], f[0])]):
        kernel = kernels[-1 - u]  # the level below: the trap
        conv(f"conv_blocks_localization.{u}.0.blocks.0", skip, 2 * skip, kernel)
        conv(f"conv_blocks_localization.{u}.1.blocks.0", skip, skip, kernel)
    for d in range(2):
        conv(f"conv_blocks_context.{d}.blocks.0", f[d], (inputs, *f)[d], kernels[d])
        conv(f"conv_blocks_context.{d}.blocks.1", f[d], f[d], kernels[d])
    conv("conv_blocks_context.2.0.blocks.0", f[2], f[1], kernels[2])
    conv("conv_blocks_context.2.1.blocks.0", f[2], f[2], kernels[2])
    for u, (below, skip) in enumerate([(f[2], f[1]), (f[1], f[0])]):
        tensors[f"tu.{u}.weight"] = torch.randn(below, skip, *pools[-1 - u])
        tensors[f"seg_outputs.{u}.weight"] = torch.randn(outputs, skip, *(1,) * dimensions)
        if bias:
            tensors[f"seg_outputs.{u}.bias"] = torch.randn(outputs)
    return tensors


FOLDERS = {"2d": 0, "3d_lowres": 0, "3d_fullres": 1, "3d_cascade_fullres": 1}


PLACES = ("/d/Task601_Mouse/plans.pkl", "/r/nnUNet/3d_fullres/Task601_Mouse/a__b/fold_0", "/d/Task601_Mouse")


def information(given, trainer, number, fold=0, places=PLACES):
    plans_file, out, data = places
    arguments = (plans_file, fold, out, data, True, number, True, False, True)
    if "Cascade" in trainer:
        arguments = (*arguments[:-1], "nnUNetTrainerV2", True)
    if "_DDP" in trainer:
        arguments = (plans_file, fold, 3, out, data, True, number, True, False, True, True)
    return OrderedDict(init=arguments, name=trainer, plans=given) | {
        "class": f"<class 'nnunet.training.network_training.{trainer}.{trainer}'>"
    }


def save_model(
    results, configuration="3d_fullres", given=None, folds=(0,), trainer=None, protocol=4, number=-1,
    final="model_final_checkpoint.model", tensors=None, beside=None, zipped=False,
    places=PLACES,
):  # fmt: skip
    cascade = configuration == "3d_cascade_fullres"
    trainer = trainer or ("nnUNetTrainerV2CascadeFullRes" if cascade else "nnUNetTrainerV2")
    dimensions = 2 if configuration == "2d" else 3
    given = given or plans(dimensions, 1 if configuration == "2d" else 2)
    number = FOLDERS[configuration] if number == -1 else number
    model = results / "nnUNet" / configuration / "Task601_Mouse" / f"{trainer}__nnUNetPlansv2.1"
    model.mkdir(parents=True)
    (model / "plans.pkl").write_bytes(pickle.dumps(beside or given, protocol))
    inputs = given["num_modalities"] + (2 if cascade else 0)
    for fold in folds:
        folder = model / ("all" if fold == "all" else f"fold_{fold}")
        folder.mkdir()
        content = {
            "epoch": 1000,
            "state_dict": tensors or state(dimensions, inputs),
            "optimizer_state_dict": {"state": {}, "param_groups": []},
            "lr_scheduler_state_dict": None,
            "plot_stuff": ([np.float64(0.1)], [np.float32(0.2)], [], [0.5]),
            "best_stuff": (None, 0.5, np.float64(0.3)),
            "amp_grad_scaler": {"scale": 65536.0},
        }
        torch.save(content, folder / final, _use_new_zipfile_serialization=zipped)
        (folder / f"{final}.pkl").write_bytes(
            pickle.dumps(information(given, trainer, number, fold, places), protocol)
        )
    return model


def postprocessing(model, classes, minima=None):
    data = {"dc_per_class_raw": {"1": float("nan")}, "for_which_classes": classes}
    data |= {} if minima is None else {"min_valid_object_sizes": minima}
    (model / "postprocessing.json").write_text(json.dumps(data))
    return model


@pytest.fixture
def model(tmp_path):
    """A model of configuration 3d_fullres with one fold and nothing to clean up."""
    return postprocessing(save_model(tmp_path), [], "None")


def fits(plan):
    network = build_network(plan.architecture, plan.architecture_arguments)
    for path in plan.folds.values():
        load_weights(network, plan.architecture, read_weights(path))
    return True


def edit(model, change):
    """Change the plans in all pickles of a model."""
    for path in (model / "plans.pkl", *model.glob("*/*.pkl")):
        data = pickle.loads(path.read_bytes())
        change(data.get("plans", data))
        path.write_bytes(pickle.dumps(data))


def test_a_3d_model_is_read_with_all_that_inference_needs(model):
    plan = read_nnunet_v1(model)
    assert (plan.origin, plan.name, plan.configuration) == (Origin.V1, "Task601_Mouse", "3d_fullres")
    assert plan.trainer == "nnUNetTrainerV2"
    assert plan.channels == (Channel("CT", "ct", False, STATISTICS),)
    assert plan.labels == {"label 1": (1,), "label 2": (2,)}
    assert (plan.regions_class_order, plan.ignore_label, plan.reader) == (None, None, "SimpleITKIO")
    assert (plan.transpose_forward, plan.transpose_backward) == ((1, 2, 0), (2, 0, 1))
    assert (plan.spacing_mm, plan.patch_size) == ((0.3, 0.28, 0.3), (16, 32, 24))
    assert plan.resample_data == Resampling("spline", 3, 0, None)
    assert plan.resample_segmentation == plan.resample_probabilities == Resampling("spline", 1, 0, None)
    assert (plan.previous_stage, plan.mirror_axes, plan.cleanup) == (None, (0, 1, 2), ())
    assert plan.folds == {"0": model / "fold_0" / "model_final_checkpoint.model"}
    assert plan.architecture == "plain_conv_unet"
    assert plan.architecture_arguments == {
        "in_channels": 1,
        "classes": 3,
        "dimensions": 3,
        "n_stages": 3,
        "features_per_stage": (4, 8, 16),
        "kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        "n_conv_per_stage": (2, 2, 2),
        "n_conv_per_stage_decoder": (2, 2),
        "conv_bias": True,
        "decoder_kernel_sizes": ((3, 3, 3), (3, 3, 3)),
    }


@pytest.mark.parametrize("configuration", list(FOLDERS))
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_weights_of_every_kind_of_model_fit_its_plan(tmp_path, configuration, protocol, channels):
    given = plans(2, 1, channels) if configuration == "2d" else plans(3, 2, channels)
    plan = read_nnunet_v1(save_model(tmp_path, configuration, given, protocol=protocol, zipped=protocol == 4))
    assert plan.configuration == configuration
    assert len(plan.channels) == channels
    assert plan.spacing_mm == (
        (0.28, 0.3) if configuration == "2d" else (0.6 - 0.3 * FOLDERS[configuration], 0.28, 0.3)
    )
    assert plan.architecture_arguments["in_channels"] == channels + (2 if "cascade" in configuration else 0)
    assert plan.mirror_axes == ((0, 1) if configuration == "2d" else (0, 1, 2))
    assert fits(plan)


def test_one_stage_is_full_resolution_and_its_number_may_be_missing(tmp_path):
    for number in (0, None):
        given = plans(3, 1)
        plan = read_nnunet_v1(save_model(tmp_path / str(number), given=given, number=number))
        assert plan.configuration == "3d_fullres"


def test_heads_with_a_bias_fit_too(tmp_path):
    trainer = "nnUNetTrainerV2_lReLU_biasInSegOutput"
    assert fits(read_nnunet_v1(save_model(tmp_path, trainer=trainer, tensors=state(bias=True))))


@pytest.mark.parametrize(("dimensions", "most"), [(3, 320), (2, 480)])
def test_features_stop_doubling_where_v1_stops(tmp_path, dimensions, most):
    given = plans(dimensions, 1)
    given["base_num_features"] = 32
    only = given["plans_per_stage"][0]
    only["pool_op_kernel_sizes"] = [[2] * dimensions] * 3 + [[1] * dimensions] * 2
    only["conv_kernel_sizes"] = [[3] * dimensions] * 6
    plan = read_nnunet_v1(save_model(tmp_path, "2d" if dimensions == 2 else "3d_fullres", given, number=0))
    assert plan.architecture_arguments["features_per_stage"] == (32, 64, 128, 256, most, most)
    assert "decoder_kernel_sizes" not in plan.architecture_arguments  # all the same, as v2 has them


def test_plans_of_the_first_releases_are_completed_as_v1_does(tmp_path):
    given = plans()
    for one in given["plans_per_stage"].values():
        del one["pool_op_kernel_sizes"], one["conv_kernel_sizes"]
    for key in ("transpose_forward", "transpose_backward", "conv_per_stage", "preprocessor_name"):
        del given[key]
    plan = read_nnunet_v1(save_model(tmp_path, given=given))
    arguments = plan.architecture_arguments
    assert arguments["strides"] == ((1, 1, 1), (1, 2, 2), (2, 2, 2))
    assert arguments["kernel_sizes"] == ((3, 3, 3),) * 3
    assert arguments["n_conv_per_stage"] == (2, 2, 2)
    assert plan.transpose_forward == (0, 1, 2)


def test_normalizations_of_v1_are_read(tmp_path):
    for scheme, expected in {"CT": "ct", "CT2": "ct2", "nonCT": "zscore", "noNorm": "none"}.items():
        given = plans()
        given["normalization_schemes"][0] = scheme
        channel = read_nnunet_v1(save_model(tmp_path / scheme, given=given)).channels[0]
        assert channel.normalization == expected
        assert channel.statistics == (STATISTICS if "CT" in scheme and scheme != "nonCT" else {})


def test_the_way_probabilities_are_resampled_is_read(tmp_path):
    given = plans()
    given["segmentation_export_params"] = {
        "force_separate_z": False,
        "interpolation_order": 3,
        "interpolation_order_z": 1,
    }
    plan = read_nnunet_v1(save_model(tmp_path, given=given))
    assert plan.resample_probabilities == Resampling("spline", 3, 1, False)


def test_names_of_labels_are_read_where_they_are(model):
    (model / "dataset.json").write_text(
        json.dumps({"labels": {"0": "background", "1": "lung", "2": "tumor"}})
    )
    assert read_nnunet_v1(model).labels == {"lung": (1,), "tumor": (2,)}
    (model / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "lung"}}))
    with pytest.raises(CheckpointError, match=r"dataset\.json: labels must name the labels \[0, 1, 2\]"):
        read_nnunet_v1(model)


def test_models_are_found_and_chosen_by_configuration(tmp_path):
    for configuration in FOLDERS:
        save_model(tmp_path, configuration)
    assert is_nnunet_v1(tmp_path)
    assert len(find_models(tmp_path)) == 4
    for configuration in FOLDERS:
        assert read_nnunet_v1(tmp_path, configuration).configuration == configuration
    with pytest.raises(
        CheckpointError,
        match=r"holds 4 models .*2d .*3d_cascade_fullres .*Choose one by its configuration .*; a cascade",
    ):
        read_nnunet_v1(tmp_path)
    with pytest.raises(CheckpointError, match="no model of configuration 'x'"):
        read_nnunet_v1(tmp_path, "x")
    with pytest.raises(CheckpointError, match="is of configuration 2d, not '3d_lowres'"):
        read_nnunet_v1(find_models(tmp_path / "nnUNet" / "2d")[0], "3d_lowres")


def test_the_zip_of_a_task_as_nnunet_writes_it_is_opened(tmp_path):
    for configuration in ("2d", "3d_fullres"):
        postprocessing(save_model(tmp_path, configuration, folds=range(5)), [], "None")
    with zipfile.ZipFile(tmp_path / "task.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (tmp_path / "nnUNet").rglob("*"):  # names are relative to the result folder
            archive.write(path, path.relative_to(tmp_path / "nnUNet"))
    safe_extract(tmp_path / "task.zip", tmp_path / "unpacked")
    with pytest.raises(
        CheckpointError, match=r"holds 2 models .*: 2d .*, 3d_fullres .*Choose one by its config"
    ):
        read_nnunet_v1(tmp_path / "unpacked")
    assert list(read_nnunet_v1(tmp_path / "unpacked", "2d").folds) == ["0", "1", "2", "3", "4"]


def test_folders_without_a_model_are_said_to_be_none(tmp_path):
    assert not is_nnunet_v1(tmp_path)
    with pytest.raises(CheckpointError, match="expected an nnU-Net v1 model"):
        read_nnunet_v1(tmp_path)


def test_the_first_stage_of_a_cascade_is_read_from_its_own_folder(tmp_path):
    second = read_nnunet_v1(save_model(tmp_path, "3d_cascade_fullres"))
    assert second.previous_stage == "3d_lowres"
    with pytest.raises(CheckpointError, match=r"needs one model 'nnUNetPlansv2\.1' of 3d_lowres"):
        read_previous_stage(second)
    save_model(tmp_path, "3d_lowres")
    first = read_previous_stage(second)
    assert (first.configuration, first.architecture_arguments["in_channels"]) == ("3d_lowres", 1)
    with pytest.raises(CheckpointError, match="has no previous stage"):
        read_previous_stage(first)


def test_folds_can_be_chosen_and_missing_ones_are_listed(tmp_path):
    model = save_model(tmp_path, folds=(0, 3, "all"))
    assert list(read_nnunet_v1(model).folds) == ["0", "3"]
    assert list(read_nnunet_v1(model, folds=["all"]).folds) == ["all"]
    with pytest.raises(CheckpointError, match=r"of fold '1' is missing; folds with this file: 0, 3, all"):
        read_nnunet_v1(model, folds=["1"])
    with pytest.raises(CheckpointError, match=r"model_best\.model"):
        read_nnunet_v1(model, best=True)


def test_the_best_checkpoint_is_taken_on_request(tmp_path):
    model = save_model(tmp_path, final="model_best.model")
    assert read_nnunet_v1(model, best=True).folds["0"].name == "model_best.model"
    with pytest.raises(CheckpointError, match=r"Folds 0 have model_best\.model only"):
        read_nnunet_v1(model)


def test_the_pickle_of_one_fold_is_enough_and_none_is_too_little(tmp_path):
    model = save_model(tmp_path, folds=(0, 1))
    (model / "fold_0" / "model_final_checkpoint.model.pkl").unlink()
    assert len(read_nnunet_v1(model).folds) == 2
    (model / "fold_1" / "model_final_checkpoint.model.pkl").unlink()
    with pytest.raises(CheckpointError, match=r"model_final_checkpoint\.model\.pkl: is missing"):
        read_nnunet_v1(model)


# One checkpoint file


def lone(tmp_path, name="mouse.model", config="3d_fullres", fold=0, **changes):
    """A checkpoint with its pickle that lies in no model folder."""
    model = save_model(tmp_path / "elsewhere", config, folds=(fold,), **changes)
    (tmp_path / "lone").mkdir()
    for path in (model / ("all" if fold == "all" else f"fold_{fold}")).iterdir():
        path.rename(tmp_path / "lone" / path.name.replace("model_final_checkpoint.model", name))
    return tmp_path / "lone" / name


def test_a_checkpoint_in_its_model_folder_means_that_folder_with_this_fold(tmp_path, monkeypatch):
    model = postprocessing(save_model(tmp_path, folds=(0, 3, "all")), [1], "None")
    (model / "dataset.json").write_text(json.dumps({"labels": {"0": "air", "1": "lung", "2": "tumor"}}))
    for fold, folder in (("3", "fold_3"), ("all", "all")):
        given = model / folder / "model_final_checkpoint.model"
        assert read_nnunet_v1(given) == read_nnunet_v1(model, folds=[fold])
        assert read_nnunet_v1(given).folds == {fold: given}
    for name in ("model_final_checkpoint.model", "model_final_checkpoint.model.pkl"):
        path = model / "fold_3" / name
        path.rename(path.with_name(name.replace("final_checkpoint", "best")))
    given = model / "fold_3" / "model_best.model"
    assert read_nnunet_v1(given) == read_nnunet_v1(model, folds=["3"], best=True)
    monkeypatch.chdir(model / "fold_3")
    plan = read_nnunet_v1(Path("model_best.model"))
    assert (plan.name, list(plan.labels), len(plan.cleanup)) == ("Task601_Mouse", ["lung", "tumor"], 1)


def test_a_checkpoint_in_its_model_folder_is_compared_with_its_plans(tmp_path):
    other = plans()
    other["plans_per_stage"][1]["current_spacing"] = np.array([0.1, 0.1, 0.1])
    model = save_model(tmp_path, beside=other)
    with pytest.raises(CheckpointError, match=r"plans\.pkl: differs from .*model\.pkl in spacing_mm"):
        read_nnunet_v1(model / "fold_0" / "model_final_checkpoint.model")


@pytest.mark.parametrize("config", list(FOLDERS))
@pytest.mark.parametrize("fold", [0, 3, "all"])
def test_a_checkpoint_elsewhere_is_read_by_its_pickle(tmp_path, config, fold):
    path = lone(tmp_path, config=config, fold=fold)
    plan = read_nnunet_v1(path)
    whole = read_nnunet_v1(postprocessing(save_model(tmp_path / "whole", config, folds=(fold,)), [1]))
    assert plan.folds == {str(fold): path} and plan.cleanup == ()
    assert "mouse.model is called neither model_final_checkpoint.model nor model_best.model" in plan.notes[0]
    assert "without its model folder: its plans are those in mouse.model.pkl" in plan.notes[-1]
    assert "post-processing is not known, so none is done" in plan.notes[-1]
    assert replace(plan, folds={}, notes=()) == replace(
        whole, name="Task601_Mouse", folds={}, notes=(), cleanup=()
    )
    assert fits(plan)


def test_a_checkpoint_elsewhere_without_the_name_of_a_task_is_called_like_its_file(tmp_path):
    path = lone(tmp_path, places=("/plans.pkl", "/out", "/data"))
    assert read_nnunet_v1(path).name == "mouse.model"


@pytest.mark.parametrize("place", ["elsewhere", "in its model folder"])
def test_a_checkpoint_without_its_pickle_says_which_file_is_missing(tmp_path, place):
    path = lone(tmp_path)
    if place != "elsewhere":
        model = save_model(tmp_path, folds=(0, 1))
        path = path.rename(model / "fold_1" / "mouse.model")
    path.with_name("mouse.model.pkl").unlink(missing_ok=True)
    with pytest.raises(
        CheckpointError, match=r"mouse\.model\.pkl: is missing; .* Copy it beside the checkpoint"
    ):
        read_nnunet_v1(path)


def test_a_wish_that_the_given_checkpoint_cannot_meet_is_refused(tmp_path, model):
    name = "model_final_checkpoint.model"
    for path in (model / "fold_0" / name, lone(tmp_path, name)):
        assert list(read_nnunet_v1(path, "3d_fullres", ["0"]).folds) == ["0"]
        with pytest.raises(CheckpointError, match=r"\.model: is of fold 0, but folds \['1'\] are asked for"):
            read_nnunet_v1(path, folds=["1"])
        with pytest.raises(CheckpointError, match=r"is not called model_best\.model"):
            read_nnunet_v1(path, best=True)
        with pytest.raises(CheckpointError, match="is of configuration 3d_fullres, not '2d'"):
            read_nnunet_v1(path, "2d")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"init": ("a", "b", "c", "d", True, 1)}, r"init\[1\] \(the fold\) must be the number of a fold"),
        ({"init": ("a", -1, "c", "d", True, 1)}, r"init\[1\] \(the fold\) must be"),
        ({"init": ("a", 0, "c", "d", True, 5)}, "the checkpoint is of stage 5"),
        ({"plans": plans() | {"all_classes": [1, 3]}}, "without gaps, 1 to 2"),
        ({"plans": []}, "plans must be a dict"),
        ({"name": "nnUNetTrainerV2_ResencUNet"}, "uses another network"),
    ],
)
def test_each_thing_wrong_in_the_pickle_of_a_checkpoint_elsewhere_is_named(tmp_path, change, reason):
    path = lone(tmp_path)
    path.with_name("mouse.model.pkl").write_bytes(
        pickle.dumps(information(plans(), "nnUNetTrainerV2", 1) | change)
    )
    with pytest.raises(CheckpointError, match=rf"mouse\.model\.pkl: .*{reason}"):
        read_nnunet_v1(path)


def test_a_checkpoint_of_a_second_stage_by_itself_has_no_first_one(tmp_path):
    second = read_nnunet_v1(lone(tmp_path, config="3d_cascade_fullres"))
    assert second.previous_stage == "3d_lowres"
    save_model(tmp_path / "elsewhere", "3d_lowres")
    with pytest.raises(
        CheckpointError, match=r"mouse\.model: is the second stage .* by itself .*of 3d_lowres in it"
    ):
        read_previous_stage(second)


def test_a_checkpoint_of_a_second_stage_in_its_folder_finds_the_first_one(tmp_path):
    save_model(tmp_path, "3d_lowres")
    model = save_model(tmp_path, "3d_cascade_fullres")
    second = read_nnunet_v1(model / "fold_0" / "model_final_checkpoint.model")
    assert read_previous_stage(second).configuration == "3d_lowres"


# Post-processing


@pytest.mark.parametrize(
    ("classes", "minima", "expected"),
    [
        ([], "None", []),
        ([1], "None", [((1,), None)]),
        ([1, 2], None, [((1,), None), ((2,), None)]),
        ([[1, 2], 2], "{(1, 2): 12.5, 2: 3}", [((1, 2), 12.5), ((2,), 3.0)]),
        (None, None, [((1,), None), ((2,), None)]),
    ],
    ids=["nothing", "one", "two", "region with sizes", "all"],
)
def test_post_processing_is_read(model, classes, minima, expected):
    postprocessing(model, classes, minima)
    found = [(step["labels"], step["min_size_mm3"]) for step in read_nnunet_v1(model).cleanup]
    assert found == expected
    assert all(s["keep"] == "largest" for s in read_nnunet_v1(model).cleanup)


def test_missing_post_processing_is_noted(model):
    (model / "postprocessing.json").unlink()
    assert any("postprocessing.json is not there" in note for note in read_nnunet_v1(model).notes)


@pytest.mark.parametrize(
    ("classes", "minima", "reason"),
    [
        ([3], None, "labels of the model"),
        ([0], None, "1 or more"),
        (["1"], None, "for_which_classes"),
        ("1", None, "for_which_classes"),
        ([[]], None, "labels of the model"),
        ([1], "{2: 5}", "has no size for 1"),
        ([1], "{1: -5}", "must not be negative"),
        ([1], "{1: 'a'}", "finite number"),
        ([1], "{1: 1e999}", "finite number"),
        ([1], "{'a': 1}", "a key of"),
        ([1], "[1]", "text of a dict"),
        ([1], "{1: __import__('os').system('touch {marker}')}", "text of a dict"),
        ([1], "(lambda: 1)()", "text of a dict"),
        ([1], "9**9**9", "text of a dict"),
        ([1], "{[1]: 2}", "text of a dict"),
        ([1], "-" * 9000 + "1", "text of a dict"),
        ([1], "(" * 9000, "text of a dict"),
        ([1], " " * 10_001, "at most 10000"),
        ([1], {"1": 5}, "must be a text"),
    ],
)
def test_post_processing_that_does_not_fit_is_refused_and_never_evaluated(
    model, tmp_path, classes, minima, reason
):
    marker = tmp_path / "code-has-run"
    postprocessing(
        model, classes, minima.replace("{marker}", str(marker)) if isinstance(minima, str) else minima
    )
    with pytest.raises(CheckpointError, match=rf"postprocessing\.json: .*{reason}"):
        read_nnunet_v1(model)
    assert not marker.exists()


# What does not fit


def first_stage(**values):
    return lambda data: data["plans_per_stage"][1].update(values)


def whole(**values):
    return lambda data: data.update(values)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (whole(all_classes=[1, 3]), r"without gaps, 1 to 2 \(num_classes\), got \[1, 3\]"),
        (whole(num_classes=3), "without gaps, 1 to 3"),
        (whole(num_classes=1 << 20), "at most 255"),
        (whole(num_modalities=2), "modalities must have one entry for each of the 2 channels"),
        (whole(num_modalities=0), "num_modalities"),
        (whole(normalization_schemes={0: "evil.Module"}), r"normalization_schemes\[0\] must be one of CT"),
        (whole(preprocessor_name="evil.Module"), "preprocessor_name of a 3-D model must be one of"),
        (whole(preprocessor_name="PreprocessorFor2D"), "preprocessor_name of a 3-D model must be one of"),
        (whole(use_mask_for_norm={0: 1}), r"use_mask_for_norm\[0\]"),
        (whole(dataset_properties={}), "intensity properties of channel 0 are missing"),
        (whole(transpose_forward=[0, 0, 1]), "order of the axes"),
        (whole(transpose_forward=[0, 1, 2]), "does not undo"),
        (whole(base_num_features=1 << 20), "at most 2048"),
        (whole(conv_per_stage=1), "conv_per_stage"),
        (whole(conv_per_stage=10_000), "at most 32"),
        (whole(plans_per_stage={}), "plans_per_stage"),
        (whole(plans_per_stage={0: stage()}), r"has the stages \[0\], the checkpoint is of stage 1"),
        (whole(plans_per_stage={0: stage(), 1: 5}), "plans_per_stage"),
        (whole(plans_per_stage={n: stage() for n in range(5)}), "plans_per_stage"),
        (whole(segmentation_export_params={"force_separate_z": None}), "segmentation_export_params"),
        (first_stage(patch_size=np.array([16, 32, 0])), "patch_size"),
        (first_stage(patch_size=np.array([16.5, 32, 24])), "patch_size"),
        (first_stage(patch_size=np.array([[16, 32, 24]])), "patch_size"),
        (first_stage(patch_size=np.array([16, 32, 26])), "cannot be divided"),
        (first_stage(current_spacing=np.array([0.1, 0.1])), "current_spacing"),
        (first_stage(current_spacing=np.array([0.1, 0.1, np.nan])), "finite number"),
        (first_stage(current_spacing=np.array([0.1, 0.1, -1])), "positive"),
        (first_stage(pool_op_kernel_sizes=[]), "1 to 11 entries"),
        (first_stage(pool_op_kernel_sizes=[[1, 1, 1]] * 20), "1 to 11 entries"),
        (first_stage(pool_op_kernel_sizes=[[2, 2]] * 2), "list of 3"),
        (first_stage(conv_kernel_sizes=[[3, 3, 3]]), "list of 3"),
        (first_stage(conv_kernel_sizes=[[5, 5, 5]] * 3), "must be 1 or 3"),
    ],
)  # fmt: skip
def test_each_thing_wrong_in_the_plans_is_named(model, change, reason):
    edit(model, change)
    with pytest.raises(CheckpointError, match=rf"\.pkl: .*{reason}"):
        read_nnunet_v1(model)


def test_a_2d_model_that_would_resample_the_distance_of_slices_is_refused(tmp_path):
    given = plans(2, 1)
    assert len(read_nnunet_v1(save_model(tmp_path / "a", "2d", given)).spacing_mm) == 2
    given["preprocessor_name"] = "GenericPreprocessor"
    with pytest.raises(
        CheckpointError, match="of a 2-D model must be one of PreprocessorFor2D, got 'GenericPrep"
    ):
        read_nnunet_v1(save_model(tmp_path / "b", "2d", given))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "os.system"}, "name must be the name of a class"),
        ({"name": None}, "name must be"),
        ({"init": ()}, "init must be the six or more arguments"),
        ({"init": ("a",) * 9}, "the stage"),
        ({"plans": None}, "plans must be a dict"),
    ],
)
def test_each_thing_wrong_beside_the_checkpoint_is_named(model, change, reason):
    path = model / "fold_0" / "model_final_checkpoint.model.pkl"
    path.write_bytes(pickle.dumps(information(plans(), "nnUNetTrainerV2", 1) | change))
    with pytest.raises(CheckpointError, match=rf"model_final_checkpoint\.model\.pkl: .*{reason}"):
        read_nnunet_v1(model)


@pytest.mark.parametrize("content", [[], "text", 5, None], ids=["list", "text", "number", "none"])
def test_pickles_of_something_else_are_refused(model, content):
    (model / "plans.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=r"plans\.pkl: it must hold the dict of plans"):
        read_nnunet_v1(model)


def test_plans_of_another_model_are_refused(tmp_path):
    other = plans()
    other["plans_per_stage"][1]["current_spacing"] = np.array([0.1, 0.1, 0.1])
    with pytest.raises(CheckpointError, match=r"plans\.pkl: differs from .*model\.pkl in spacing_mm"):
        read_nnunet_v1(save_model(tmp_path, beside=other))


def test_a_second_stage_without_a_first_in_its_plans_is_refused(tmp_path):
    given = plans(3, 1)
    with pytest.raises(CheckpointError, match="but the plans have none"):
        read_nnunet_v1(save_model(tmp_path, "3d_cascade_fullres", given, number=0))


def test_the_stage_of_a_trainer_on_several_gpus_is_found_behind_its_rank(tmp_path):
    plan = read_nnunet_v1(save_model(tmp_path, "3d_lowres", trainer="nnUNetTrainerV2_DDP"))
    assert (plan.configuration, plan.spacing_mm) == ("3d_lowres", (0.6, 0.28, 0.3))


@pytest.mark.parametrize("trainer", ["nnUNetTrainerV2_noMirroring", "nnUNetTrainerV2_noDataAugmentation"])
def test_trainers_without_mirroring_are_not_mirrored(tmp_path, trainer):
    assert read_nnunet_v1(save_model(tmp_path, trainer=trainer)).mirror_axes == ()


@pytest.mark.parametrize(
    "trainer",
    [
        *("nnUNetTrainer", "nnUNetTrainerV2_BN", "nnUNetTrainerV2_ResencUNet", "nnUNetTrainerV2_GeLU"),
        *("nnUNetTrainerV2BraTSRegions", "nnUNetTrainerV2_3ConvPerStage", "nnUNetTrainerV2_ReLU"),
    ],
)
def test_trainers_of_other_networks_are_refused(tmp_path, trainer):
    with pytest.raises(CheckpointError, match=f"the trainer {trainer} uses another network"):
        read_nnunet_v1(save_model(tmp_path, trainer=trainer))


def test_a_trainer_of_the_users_own_is_noted_and_one_of_nnunets_is_not(tmp_path):
    own = read_nnunet_v1(save_model(tmp_path / "a", trainer="MyTrainer"))
    assert any("MyTrainer" in note for note in own.notes)
    known = read_nnunet_v1(save_model(tmp_path / "b", trainer="nnUNetTrainerV2_Loss_CE"))
    assert not any("trainer" in note for note in known.notes)


@pytest.mark.parametrize(
    ("tensors", "given", "reason"),
    [
        (lambda: state(inputs=2), None, "is (4, 2, 1, 3, 3), expected (4, 1, 1, 3, 3)"),
        (state, plans(channels=2), "is (4, 1, 1, 3, 3), expected (4, 2, 1, 3, 3)"),
        (lambda: state(outputs=4), None, "decoder.seg_layers.0.weight is (4, 8, 1, 1, 1), expected (3, 8, 1, 1, 1)"),
        (lambda: state(dimensions=2), None, "decoder.seg_layers.0.weight is (3, 8, 1, 1), expected (3, 8, 1, 1, 1)"),
    ],
    ids=["two channels for one", "one channel where two are needed", "labels", "dimensions"],
)  # fmt: skip
def test_weights_of_another_network_do_not_fit(tmp_path, tensors, given, reason):
    plan = read_nnunet_v1(save_model(tmp_path, tensors=tensors(), given=given))
    with pytest.raises(CheckpointError, match=f"do not fit.*{re.escape(reason)}"):
        fits(plan)


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("key", ["name", "init", "plans", "extra"])
def test_code_in_the_pickle_of_a_checkpoint_elsewhere_does_not_run_and_is_named(tmp_path, key):
    marker, path = tmp_path / "code-has-run", lone(tmp_path)
    beside = path.with_name("mouse.model.pkl")
    beside.write_bytes(pickle.dumps(pickle.loads(beside.read_bytes()) | {key: Malicious(marker)}))
    with pytest.raises(CheckpointError, match=r"mouse\.model\.pkl: it names '\w+\.system'"):
        read_nnunet_v1(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["plans.pkl", "fold_0/model_final_checkpoint.model.pkl"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("key", ["name", "init", "plans", "class", "modalities", "extra"])
def test_code_in_the_pickles_of_a_model_does_not_run_and_is_named(model, tmp_path, name, protocol, key):
    marker = tmp_path / "code-has-run"
    content = pickle.loads((model / name).read_bytes())
    content[key] = Malicious(marker)
    (model / name).write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(CheckpointError, match=rf"{re.escape(name.split('/')[-1])}: it names '\w+\.system'"):
        read_nnunet_v1(model)
    assert not marker.exists()


def test_code_in_the_weights_does_not_run_and_is_named(model, tmp_path):
    marker = tmp_path / "code-has-run"
    path = model / "fold_0" / "model_final_checkpoint.model"
    content = torch.load(path, weights_only=False)
    torch.save(
        copy.copy(content) | {"plot_stuff": Malicious(marker)}, path, _use_new_zipfile_serialization=False
    )
    plan = read_nnunet_v1(model)
    with pytest.raises(
        CheckpointError, match=r"model_final_checkpoint\.model: torch's safe loader refused .*system"
    ):
        read_weights(plan.folds["0"])
    assert not marker.exists()


def test_another_pickle_in_the_folder_is_never_opened(model):
    (model / "postprocessing.pkl").write_bytes(b"\x80\x04cos\nsystem\n.")
    assert read_nnunet_v1(model).labels
