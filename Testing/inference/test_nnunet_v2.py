"""Whole predictions beside nnunetv2's own predictor, and both beside a computation in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from thoraxseg.checkpoints.nnunet_plan import Channel, NnunetPlan, Origin, Resampling
from thoraxseg.inference import nnunet

pytest.importorskip("nnunetv2", reason="the predictor that ours is compared with is not installed")

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

SCHEMES = {
    "ct": "CTNormalization",
    "zscore": "ZScoreNormalization",
    "none": "NoNormalization",
    "rescale01": "RescaleTo01Normalization",
    "rgb01": "RGBTo01Normalization",
}
STATISTICS = {"mean": 30.0, "std": 45.0, "percentile_00_5": -60.0, "percentile_99_5": 130.0}
LABELS = {"heart": (1,), "lungs": (2,), "tumor": (3,)}
REGIONS = {"body": (1, 2, 3), "thorax": (2, 3), "tumor": (3,)}


def plan_of(
    patch=(16, 16, 16),
    spacing=(1.0, 1.0, 1.0),
    forward=(0, 1, 2),
    channels=(("ct", False),),
    regions=None,
    mirror=(),
    function="spline",
    previous=None,
) -> NnunetPlan:
    spline = function == "spline"
    return NnunetPlan(
        origin=Origin.V2,
        name="Dataset999_Phantom",
        configuration="2d" if len(patch) == 2 else "3d_fullres",
        trainer="nnUNetTrainer",
        channels=tuple(Channel(f"c{i}", name, mask, STATISTICS) for i, (name, mask) in enumerate(channels)),
        labels=REGIONS if regions else LABELS,
        regions_class_order=regions,
        ignore_label=None,
        reader="SimpleITKIO",
        transpose_forward=forward,
        transpose_backward=tuple(int(a) for a in np.argsort(forward)),
        spacing_mm=spacing,
        patch_size=patch,
        resample_data=Resampling(function, 3 if spline else 1, 0, None),
        resample_segmentation=Resampling(function, 1, 0, None),
        resample_probabilities=Resampling(function, 1, 0, None),
        architecture="plain_conv_unet",
        architecture_arguments={},
        previous_stage=previous,
        folds={},
        mirror_axes=mirror,
        cleanup=(),
    )


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for one another make small networks slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def networks_of(plan: NnunetPlan, folds: int) -> list[torch.nn.Module]:
    """Small random networks, their answers spread out so that labels vary."""
    dimensions, built = len(plan.patch_size), []
    inputs = len(plan.channels) + (len(nnunet.label_values(plan)) - 1 if plan.previous_stage else 0)
    outputs = len(plan.regions_class_order or nnunet.label_values(plan))
    for fold in range(folds):
        torch.manual_seed(100 + fold)
        network = PlainConvUNet(
            inputs, 2, (6, 8), torch.nn.Conv2d if dimensions == 2 else torch.nn.Conv3d, 3,
            [[1] * dimensions, [2] * dimensions], 1, outputs, 1, conv_bias=True,
            norm_op=torch.nn.InstanceNorm2d if dimensions == 2 else torch.nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=torch.nn.LeakyReLU,
            nonlin_kwargs={"inplace": True}, deep_supervision=False,
        )  # fmt: skip
        for layer in network.decoder.seg_layers:
            torch.nn.init.normal_(layer.weight, std=1.5)
        built.append(network.eval())
    return built


def official(plan: NnunetPlan, networks) -> nnUNetPredictor:
    """nnunetv2's predictor with the same plan, made from dictionaries as they stand in its files."""
    torch_rule = "resample_torch_fornnunet"
    spline = plan.resample_data.function == "spline"
    function = "resample_data_or_seg_to_shape" if spline else torch_rule
    names = ("order", "order_z", "force_separate_z")

    def rule(kind, is_seg):
        told = {name: getattr(kind, name) for name in names} if spline else {"force_separate_z": None}
        return {"is_seg": is_seg, **told}

    configuration = {
        "data_identifier": "x",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "architecture": {"network_class_name": "x", "arch_kwargs": {}, "_kw_requires_import": []},
        "patch_size": list(plan.patch_size),
        "spacing": list(plan.spacing_mm),
        "normalization_schemes": [SCHEMES[c.normalization] for c in plan.channels],
        "use_mask_for_norm": [c.use_mask for c in plan.channels],
        "resampling_fn_data": function,
        "resampling_fn_seg": function,
        "resampling_fn_probabilities": function,
        "resampling_fn_data_kwargs": rule(plan.resample_data, False),
        "resampling_fn_seg_kwargs": rule(plan.resample_segmentation, True),
        "resampling_fn_probabilities_kwargs": rule(plan.resample_probabilities, False),
    }
    if plan.previous_stage:
        configuration["previous_stage"] = plan.previous_stage
    manager = PlansManager(
        {
            "dataset_name": plan.name,
            "plans_name": "nnUNetPlans",
            "image_reader_writer": plan.reader,
            "transpose_forward": list(plan.transpose_forward),
            "transpose_backward": list(plan.transpose_backward),
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {
                str(i): dict(c.statistics) for i, c in enumerate(plan.channels)
            },
            "configurations": {plan.configuration: configuration},
        }
    )
    labels = {"background": 0} | {k: list(v) if len(v) > 1 else v[0] for k, v in plan.labels.items()}
    dataset = {"labels": labels, "channel_names": {str(i): c.name for i, c in enumerate(plan.channels)}}
    if plan.regions_class_order:
        dataset["regions_class_order"] = list(plan.regions_class_order)
    predictor = nnUNetPredictor(
        device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False,
        use_mirroring=bool(plan.mirror_axes),
    )  # fmt: skip
    predictor.manual_initialization(
        networks[0], manager, manager.get_configuration(plan.configuration),
        [{k: v.clone() for k, v in n.state_dict().items()} for n in networks], dataset, "nnUNetTrainer",
        plan.mirror_axes or None,
    )  # fmt: skip
    return predictor


def float64_probabilities(predictor, plan, networks, image, spacing, previous):
    """nnunetv2's steps from its own prepared image on, in float64: no half precision anywhere."""
    manager, configuration = predictor.plans_manager, predictor.configuration_manager
    properties = {"spacing": spacing}
    seg = None if previous is None else previous[None]
    data, seg, properties = DefaultPreprocessor(False).run_case_npy(
        image, seg, properties, manager, configuration, predictor.dataset_json
    )
    if previous is not None:
        foreground = predictor.label_manager.foreground_labels
        data = np.vstack((data, convert_labelmap_to_one_hot(seg[0], foreground, data.dtype)))
    data = torch.from_numpy(data).double()
    short = [max(0, p - n) for p, n in zip(plan.patch_size, data.shape[-len(plan.patch_size) :], strict=True)]
    pads = [n for s in reversed(short) for n in (s // 2, s - s // 2)]
    padded = torch.nn.functional.pad(data, pads)
    weights = compute_gaussian(tuple(plan.patch_size), dtype=torch.float64, device=torch.device("cpu"))
    total, norm = 0, torch.zeros(padded.shape[1:], dtype=torch.float64)
    windows = predictor._internal_get_sliding_window_slicers(padded.shape[1:])
    subsets = [c for n in range(4) for c in itertools.combinations([a + 2 for a in plan.mirror_axes], n)]
    with torch.inference_mode():
        for network in networks:
            network = network.double()
            logits = torch.zeros((predictor.label_manager.num_segmentation_heads, *padded.shape[1:])).double()
            for window in windows:
                batch = padded[window][None].contiguous()
                answers = [network(batch.flip(s) if s else batch) for s in subsets]
                turned = [a.flip(s) if s else a for a, s in zip(answers, subsets, strict=True)]
                logits[window] += sum(turned)[0] / len(subsets) * weights
                if network is networks[0]:
                    norm[window[1:]] += weights
            total = total + logits / norm
            network.float()
    total = (total / len(networks)).numpy()
    inside = [slice(None)] * (4 - len(short))
    inside += [slice(s // 2, total.shape[i - len(short)] - (s - s // 2)) for i, s in enumerate(short)]
    total = total[tuple(inside)]
    shape = properties["shape_after_cropping_and_before_resampling"]
    before = [spacing[a] for a in plan.transpose_forward]
    now = list(plan.spacing_mm) if len(plan.spacing_mm) == 3 else [before[0], *plan.spacing_mm]
    total = configuration.resampling_fn_probabilities(total, shape, now, before)
    total = torch.from_numpy(np.asarray(total)).double()
    probabilities = torch.sigmoid(total) if plan.regions_class_order else torch.softmax(total, 0)
    full = torch.zeros((len(total), *properties["shape_before_cropping"]), dtype=torch.float64)
    if not plan.regions_class_order:
        full[0] = 1
    box = tuple(slice(*b) for b in properties["bbox_used_for_cropping"])
    full[(slice(None), *box)] = probabilities
    return full.permute(0, *[a + 1 for a in plan.transpose_backward]).numpy()


def image_of(shape, channels, seed=0, border=0) -> np.ndarray:
    """Smooth blobs and noise, -100 to 200, with zeros around a ball `border` from the faces and a hole in it."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    smooth = [gaussian_filter(rng.normal(size=shape), 1.5) for _ in range(channels)]
    image = np.stack([50 + 60 * s / s.std() + rng.normal(size=shape) * 4 for s in smooth]).astype(np.float32)
    image = np.clip(image, -100, 200)
    if border:
        offsets = [(np.arange(n) - (n - 1) / 2) / (n / 2 - border) for n in shape]
        inside = sum(np.meshgrid(*(o**2 for o in offsets), indexing="ij")) < 1.2
        inside[tuple(slice(n // 2, n // 2 + 2) for n in shape)] = False
        image[:, ~inside] = 0
    return image


CASES = {
    "same_spacing": (plan_of(), (20, 17, 26), (1.0, 1.0, 1.0), {}),
    "all_mirrors": (plan_of(mirror=(0, 1, 2)), (19, 16, 18), (1.0, 1.0, 1.0), {}),
    "resampled": (plan_of(spacing=(1.0, 0.9, 1.2)), (19, 22, 21), (1.3, 1.0, 0.8), {}),
    "coarse_image_axis": (plan_of((8, 16, 16), (2.0, 0.7, 0.7)), (9, 25, 24), (4.0, 1.0, 0.8), {}),
    "coarse_model_axis": (plan_of((8, 16, 16), (4.0, 1.0, 1.0)), (14, 20, 22), (1.6, 0.8, 1.1), {}),
    "coarse_axes_differ": (plan_of((16, 8, 16), (1.0, 4.0, 1.0)), (8, 22, 20), (3.5, 1.0, 1.1), {}),
    "smaller_than_patch": (plan_of((24, 16, 24)), (13, 21, 11), (1.0, 1.0, 1.0), {}),
    "one_mirror_axis": (plan_of(mirror=(1,)), (22, 16, 18), (1.0, 1.0, 1.0), {}),
    "two_folds": (plan_of(spacing=(1.1, 1.0, 1.0), mirror=(0, 2)), (18, 16, 18), (1.0, 1.0, 1.2), {"folds": 2}),
    "transposed": (plan_of((8, 16, 20), (3.5, 1.0, 0.8), (2, 0, 1)), (20, 25, 9), (0.9, 0.9, 4.0), {}),
    "crop_and_masked_zscore": (plan_of(channels=(("zscore", True),)), (26, 24, 27), (1.1, 1, 1), {"border": 3}),
    "zscore": (plan_of(channels=(("zscore", False),), spacing=(1.2, 1, 1)), (22, 18, 20), (1.0, 1.0, 0.8), {}),
    "no_normalization": (plan_of(channels=(("none", False),)), (17, 18, 20), (1.0, 1.2, 1.0), {}),
    "two_channels": (plan_of(channels=(("ct", False), ("rescale01", False))), (18, 18, 20), (1.0, 1.2, 1.0), {}),
    "regions": (plan_of(regions=(1, 2, 3), spacing=(1.0, 1.2, 1.0)), (18, 22, 20), (1.0, 1.0, 1.0), {"border": 2}),
    "two_dimensions": (plan_of((16, 20), (1.0, 1.0), mirror=(0, 1)), (4, 24, 26), (2.5, 1.2, 0.9), {"folds": 2}),
    "two_dimensions_transposed": (plan_of((16, 16), (1.0, 0.8), (1, 2, 0), mirror=(0, 1)), (20, 4, 22), (1, 5, 1), {}),
    "resampled_by_torch": (plan_of(spacing=(1.0, 0.9, 1.2), function="torch"), (19, 22, 21), (1.3, 1.0, 0.8), {}),
    "coarse_by_torch": (plan_of((8, 16, 16), (2.0, 0.7, 0.7), function="torch"), (9, 25, 24), (4.0, 1.0, 0.8), {}),
    "cascade": (plan_of(previous="3d_lowres", spacing=(1.0, 0.9, 1.2)), (20, 21, 18), (1.0, 1.1, 1.0), {}),
    "masked_cascade": (
        plan_of(previous="3d_lowres", spacing=(1.0, 0.9, 1.2), channels=(("zscore", True),)),
        (22, 21, 24), (1.0, 1.1, 1.0), {"border": 3},
    ),
    "coarse_cascade": (
        plan_of((8, 16, 16), (2.0, 0.7, 0.7), previous="3d_lowres"), (9, 25, 24), (4.0, 1.0, 0.8), {"border": 1}
    ),
    "cascade_by_torch": (
        plan_of(previous="3d_lowres", spacing=(1.0, 0.9, 1.2), function="torch"), (20, 21, 18), (1.0, 1.1, 1.0), {}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_prediction_is_nnunetv2s_but_nearer_to_float64(case):
    plan, shape, spacing, told = CASES[case]
    image = image_of(shape, len(plan.channels), border=told.get("border", 0))
    networks = networks_of(plan, told.get("folds", 1))
    previous = None
    if plan.previous_stage:
        previous = (image_of(shape, 1, seed=7)[0] // 45).clip(0, 3).astype(np.int16)
    spacing = [float(s) for s in spacing]
    predictor = official(plan, networks)
    seg = None if previous is None else previous[None]
    folds = [{k: v.clone() for k, v in n.state_dict().items()} for n in networks]
    theirs, their_probabilities = predictor.predict_single_npy_array(
        image, {"spacing": spacing}, seg, save_or_return_probabilities=True
    )
    for network, weights in zip(networks, folds, strict=True):
        network.load_state_dict(weights)  # the predictor loads every fold into the first
    exact = float64_probabilities(predictor, plan, networks, image, spacing, previous)
    answer = nnunet.predict(image, spacing, plan, networks, previous)
    ours, probabilities = answer.labels(), answer.probabilities()

    assert ours.shape == theirs.shape == shape and len(np.unique(theirs)) > 1
    error, their_error = np.abs(probabilities - exact), np.abs(their_probabilities - exact)
    assert error.max() < 2e-5
    differ = ours != theirs
    assert differ.mean() < 5e-3
    # Where labels differ, theirs is the one that float64 contradicts.
    decided = exact.argmax(0) if not plan.regions_class_order else regions_labels(exact, plan)
    assert (ours == decided)[differ].all()
    assert error.max() <= their_error.max()


def regions_labels(probabilities, plan):
    labels = np.zeros(probabilities.shape[1:], dtype=int)
    for values, label in zip(probabilities, plan.regions_class_order, strict=True):
        labels[values > 0.5] = label
    return labels
