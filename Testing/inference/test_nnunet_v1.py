"""Whole predictions beside the functions of nnunet 1.7.1: its preprocessing, its networks' method, its export."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from thoraxseg.checkpoints.nnunet_plan import Channel, NnunetPlan, Origin, Resampling
from thoraxseg.inference import nnunet

pytest.importorskip("nnunet", reason="nnU-Net version 1, which ours is compared with, is not installed")

import SimpleITK as sitk
import torch
from batchgenerators.augmentations.utils import resize_segmentation
from nnunet.inference import segmentation_export
from nnunet.network_architecture.generic_UNet import Generic_UNet
from nnunet.preprocessing.preprocessing import GenericPreprocessor, PreprocessorFor2D
from nnunet.utilities.one_hot_encoding import to_one_hot

SCHEMES = {"ct": "CT", "ct2": "CT2", "zscore": "nonCT", "none": "noNorm"}
STATISTICS = {"mean": 30.0, "std": 45.0, "percentile_00_5": -60.0, "percentile_99_5": 130.0}


def plan_of(
    patch=(16, 16, 16),
    spacing=(1.0, 1.0, 1.0),
    forward=(0, 1, 2),
    channels=(("ct", False),),
    mirror=(),
    previous=None,
    regions=None,
) -> NnunetPlan:
    spline = Resampling("spline", 1, 0, None)
    return NnunetPlan(
        origin=Origin.V1,
        name="Task999_Phantom",
        configuration="2d" if len(patch) == 2 else "3d_fullres",
        trainer="nnUNetTrainerV2",
        channels=tuple(Channel(f"c{i}", name, mask, STATISTICS) for i, (name, mask) in enumerate(channels)),
        labels={"heart": (1,), "lungs": (2,), "tumor": (3,)},
        regions_class_order=regions,
        ignore_label=None,
        reader="SimpleITKIO",
        transpose_forward=forward,
        transpose_backward=tuple(int(a) for a in np.argsort(forward)),
        spacing_mm=spacing,
        patch_size=patch,
        resample_data=replace(spline, order=3),
        resample_segmentation=spline,
        resample_probabilities=spline,
        architecture="plain_conv_unet",
        architecture_arguments={},
        previous_stage=previous,
        folds={},
        mirror_axes=mirror,
        cleanup=(),
    )


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def networks_of(plan, folds):
    flat, built = len(plan.patch_size) == 2, []
    outputs = len(plan.regions_class_order or (0, 1, 2, 3))
    for fold in range(folds):
        torch.manual_seed(100 + fold)
        network = Generic_UNet(
            len(plan.channels) + (3 if plan.previous_stage else 0), 6, outputs, 1,
            conv_op=torch.nn.Conv2d if flat else torch.nn.Conv3d,
            norm_op=torch.nn.InstanceNorm2d if flat else torch.nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            dropout_op=torch.nn.Dropout2d if flat else torch.nn.Dropout3d, dropout_op_kwargs={"p": 0, "inplace": True},
            nonlin_kwargs={"negative_slope": 1e-2, "inplace": True}, deep_supervision=False, final_nonlin=lambda x: x,
            pool_op_kernel_sizes=[[2, 2] if flat else [2, 2, 2]],
            conv_kernel_sizes=[[3, 3] if flat else [3, 3, 3]] * 2, convolutional_pooling=True,
            convolutional_upsampling=True,
        )  # fmt: skip
        network.inference_apply_nonlin = (
            torch.sigmoid if plan.regions_class_order else lambda x: torch.softmax(x, 1)
        )
        for layer in network.seg_outputs:
            torch.nn.init.normal_(layer.weight, std=1.5)
        built.append(network.eval())
    return built


def official(plan, networks, image, spacing, previous, folder, monkeypatch):
    """nnunet's prepared image, labels `(z, y, x)` and resampled probabilities of the crop, by `predict_cases`."""
    files = []
    for index, channel in enumerate(image):
        itk = sitk.GetImageFromArray(channel)
        itk.SetSpacing([float(s) for s in spacing[::-1]])
        files.append(str(folder / f"case_000{index}.nii.gz"))
        sitk.WriteImage(itk, files[-1])
    flat = len(plan.patch_size) == 2
    told = {
        i: {("sd" if key == "std" else key): value for key, value in c.statistics.items()}
        for i, c in enumerate(plan.channels)
    }
    preprocessor = (PreprocessorFor2D if flat else GenericPreprocessor)(
        {i: SCHEMES[c.normalization] for i, c in enumerate(plan.channels)},
        {i: c.use_mask for i, c in enumerate(plan.channels)},
        list(plan.transpose_forward),
        told,
    )
    target = np.array([999, *plan.spacing_mm] if flat else plan.spacing_mm, dtype=float)
    data, _, properties = preprocessor.preprocess_test_case(files, target)
    if previous is not None:
        resized = resize_segmentation(previous.transpose(plan.transpose_forward), data.shape[1:], order=1)
        data = np.vstack((data, to_one_hot(resized, [1, 2, 3]))).astype(np.float32)
    softmax = 0
    for network in networks:
        softmax = softmax + network.predict_3D(
            data, bool(plan.mirror_axes), plan.mirror_axes, use_sliding_window=True, step_size=0.5,
            patch_size=plan.patch_size, use_gaussian=True, regions_class_order=plan.regions_class_order,
            verbose=False, mixed_precision=False,
        )[1]  # fmt: skip
    softmax /= len(networks)
    turned = softmax.transpose([0, *(a + 1 for a in plan.transpose_backward)])
    seen = [turned]
    resample = segmentation_export.resample_data_or_seg

    def recording(*args, **kwargs):
        seen.append(resample(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(segmentation_export, "resample_data_or_seg", recording)
    out = str(folder / "out.nii.gz")
    segmentation_export.save_segmentation_nifti_from_softmax(
        turned, out, properties, 1, plan.regions_class_order, verbose=False
    )
    return data, sitk.GetArrayFromImage(sitk.ReadImage(out)), seen[-1]


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
    "same_spacing": (plan_of(mirror=(0, 1, 2)), (20, 17, 24), (1, 1, 1), {}),
    "resampled": (plan_of(spacing=(1.0, 0.9, 1.2)), (19, 22, 21), (1.3, 1.0, 0.8), {}),
    "one_window": (plan_of((24, 16, 24), mirror=(0, 2)), (13, 16, 11), (1, 1, 1), {}),
    "coarse_image_axis": (plan_of((8, 16, 16), (2.0, 0.7, 0.7)), (9, 25, 24), (4.0, 1.0, 0.8), {}),
    "coarse_model_axis": (plan_of((8, 16, 16), (4.0, 1.0, 1.0)), (14, 20, 22), (1.6, 0.8, 1.1), {}),
    "coarse_axes_differ": (plan_of((16, 8, 16), (1.0, 4.0, 1.0)), (8, 22, 20), (3.5, 1.0, 1.1), {}),
    "two_folds": (plan_of(spacing=(1.1, 1, 1), mirror=(1,)), (18, 16, 18), (1, 1, 1.2), {"folds": 2}),
    "transposed": (plan_of((8, 16, 20), (3.5, 1.0, 0.8), (2, 0, 1)), (20, 25, 9), (0.9, 0.9, 4.0), {}),
    "transposed_coarse_model_axis": (
        plan_of((8, 16, 16), (4.0, 1.0, 1.0), (2, 0, 1)), (20, 22, 14), (0.8, 1.1, 1.6), {}
    ),
    "crop_and_masked_zscore": (
        plan_of(channels=(("zscore", True),), spacing=(1.3, 1, 1)), (24, 22, 24), (1, 1.1, 1), {"border": 3}
    ),
    "masked_ct": (plan_of(channels=(("ct", True),), spacing=(1.3, 1, 1)), (22, 22, 24), (1, 1.1, 1), {"border": 2}),
    "own_statistics": (plan_of(channels=(("ct2", False),), spacing=(1.3, 1, 1)), (18, 18, 20), (1, 1.1, 1), {}),
    "two_channels": (plan_of(channels=(("none", False), ("zscore", False))), (18, 18, 20), (1.0, 1.2, 1.0), {}),
    "two_dimensions": (
        plan_of((16, 20), (1.0, 1.0), channels=(("zscore", False),), mirror=(0, 1)), (4, 24, 26), (2.5, 1.2, 0.9), {}
    ),
    "two_dimensions_far_slices": (plan_of((16, 20), (1.0, 1.0), mirror=(0,)), (4, 24, 26), (5.0, 1.2, 0.9), {}),
    "two_dimensions_close_slices": (plan_of((16, 20), (1.0, 1.0)), (9, 20, 18), (0.2, 1.2, 0.9), {"border": 1}),
    "two_dimensions_transposed": (plan_of((16, 16), (1.0, 0.8), (1, 2, 0)), (20, 4, 22), (1.0, 5.0, 1.1), {}),
    "regions": (plan_of(regions=(1, 2, 3), spacing=(1.0, 1.2, 1.0)), (18, 22, 20), (1, 1, 1), {"border": 2}),
    "cascade": (plan_of(previous="3d_lowres", spacing=(1.0, 0.9, 1.2)), (20, 21, 18), (1.0, 1.1, 1.0), {}),
    "coarse_cascade": (plan_of((8, 16, 16), (2, 0.7, 0.7), previous="3d_lowres"), (9, 25, 24), (4, 1, 0.8), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_prediction_follows_nnunets_first_version(case, tmp_path, monkeypatch):
    plan, shape, spacing, told = CASES[case]
    spacing = [float(s) for s in spacing]
    image = image_of(shape, len(plan.channels), border=told.get("border", 0))
    networks = networks_of(plan, told.get("folds", 1))
    previous = None
    if plan.previous_stage:
        previous = (image_of(shape, 1, seed=7)[0] // 45).clip(0, 3).astype(np.int16)
    data, theirs, their_probabilities = official(
        plan, networks, image, spacing, previous, tmp_path, monkeypatch
    )
    prepared, grid = nnunet.preprocess(image, spacing, plan, previous)
    answer = nnunet.predict(image, spacing, plan, networks, previous)
    box = tuple(grid.crop[a] for a in plan.transpose_backward)
    probabilities = answer.probabilities()[(slice(None), *box)]
    ours = answer.labels()
    assert prepared.shape == data.shape
    assert np.abs(prepared - data).max() < 1e-4 * max(1, np.abs(data).max() / 10)
    assert np.abs(probabilities - their_probabilities).max() < 1e-5
    assert len(np.unique(theirs)) > 1
    assert (ours == theirs).all()
