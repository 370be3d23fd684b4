"""MONAI bundles: what they say is read as MONAI means it, nothing in them runs, and what is not known is refused."""

from __future__ import annotations

import copy
import itertools
import json

import nibabel
import numpy as np
import pytest
import torch

from thoraxseg.checkpoints.monai_bundle import find_bundle, read_monai_bundle
from thoraxseg.checkpoints.weights import read_weights
from thoraxseg.errors import CheckpointError
from thoraxseg.io import read_volume
from thoraxseg.models import build_network, load_weights
from thoraxseg.volume import reorient, spacing_mm

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:monai", "ignore::FutureWarning:monai")

NETWORK = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 6, 8],
    "strides": [2, 2],
    "num_res_units": 2,
    "norm": "batch",
}
RANGE = {
    "_target_": "ScaleIntensityRanged",
    "keys": "image",
    "a_min": -57,
    "a_max": 164,
    "b_min": 0,
    "b_max": 1,
    "clip": True,
}
SPACING = {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 2.5, 4.0], "mode": "bilinear"}
TURN = {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"}
LOAD = [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "EnsureChannelFirstd", "keys": "image"}]
INFERENCE = {
    "imports": ["$import glob", "$import os"],
    "bundle_root": ".",
    "output_dir": "$@bundle_root + '/eval'",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "network_def": NETWORK,
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            *LOAD,
            TURN,
            SPACING,
            RANGE,
            {"_target_": "EnsureTyped", "keys": "image", "device": "@device"},
        ],
    },
    "inferer": {
        "_target_": "SlidingWindowInferer",
        "roi_size": [32, 48, 64],
        "sw_batch_size": 4,
        "overlap": 0.5,
        "device": "@device",
    },
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "nearest_interp": False},
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir"},
        ],
    },
    "run": ["$@evaluator.run()"],
}
METADATA = {
    "name": "Lung tumors",
    "version": "0.2.0",
    "description": "A model for\ntests",
    "license": "Apache-2.0",
    "copyright": "Copyright (c) Somebody",
    "references": ["First. 2020", "Second. 2021"],
    "network_data_format": {
        "inputs": {"image": {"modality": "CT", "num_channels": 1, "channel_def": {"0": "image"}}},
        "outputs": {"pred": {"num_channels": 2, "channel_def": {"0": "background", "1": "tumor"}}},
    },
}


def monai_network(**changes):
    from monai.networks.nets import UNet

    torch.manual_seed(0)
    arguments = {key: value for key, value in {**NETWORK, **changes}.items() if key != "_target_"}
    return UNet(**arguments).eval()


@pytest.fixture
def bundle(tmp_path):
    """Write a bundle whose files can be changed; a change is a function that edits the copy."""
    folder = tmp_path / "lung_tumors"

    def write(change=None, of="inference", network=None):
        contents = {"inference": copy.deepcopy(INFERENCE), "metadata": copy.deepcopy(METADATA)}
        if change is not None:
            change(contents[of])
        for name in ("configs", "models"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / "configs" / f"{name}.json").write_text(json.dumps(content))
        torch.save((network or monai_network()).state_dict(), folder / "models" / "model.pt")
        return folder

    return write


def setting(path, value):
    """Return a change that puts `value` at a path of keys."""

    def change(content):
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


def transforms(*listed):
    return setting(("preprocessing", "transforms"), [*LOAD, *listed])


def refusal(folder):
    with pytest.raises(CheckpointError) as caught:
        read_monai_bundle(folder)
    return str(caught.value)


# What a bundle says


def test_a_bundle_as_the_model_zoo_has_them_is_read(bundle):
    folder = bundle()
    read = read_monai_bundle(folder)
    assert read.folder == folder and read.weights == folder / "models" / "model.pt"
    assert (read.name, read.version, read.license) == ("Lung tumors", "0.2.0", "Apache-2.0")
    assert read.copyright == "Copyright (c) Somebody"
    assert read.description == "A model for tests"
    assert read.citation == "First. 2020\nSecond. 2021"
    assert read.modality == "CT"
    assert read.labels == {0: "background", 1: "tumor"}
    assert read.channels == ("image",)
    assert read.orientation == "SAR"
    assert read.steps == (
        {"name": "resample", "spacing_mm": [1.5, 2.5, 4.0]},
        {"name": "rescale", "low": -57, "high": 164, "to_low": 0, "to_high": 1, "clip": True},
    )
    assert (read.patch_size, read.overlap, read.blending) == ((32, 48, 64), 0.5, "constant")
    assert (read.activation, read.threshold) == ("softmax", None)
    assert any("does not smooth" in note for note in read.notes)


VARIANTS = [
    {},
    {"num_res_units": 0, "norm": "instance", "dropout": 0.2},
    {"in_channels": 2, "out_channels": 4, "kernel_size": [3, 5, 3], "up_kernel_size": 5, "bias": False},
    {"act": ["prelu", {"init": 0.2}], "norm": ["INSTANCE", {"affine": False}], "strides": [[1, 2, 2], 2]},
    {"act": ["leakyrelu", {"negative_slope": 0.01}], "norm": ["batch", {"eps": 1e-5, "momentum": 0.3}]},
    {"act": "RELU", "norm": ["batch", {}], "channels": [4, 8], "strides": [2], "num_res_units": 1},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_the_network_gives_what_that_of_monai_gives_with_its_weights(bundle, changes):
    network = monai_network(**changes)
    network.train()  # so that batch normalization learns something
    image = torch.randn(2, changes.get("in_channels", 1), 16, 24, 8)
    with torch.no_grad():
        network(image)
    folder = bundle(lambda content: content["network_def"].update(changes), network=network.eval())
    counts = changes.get("in_channels", 1), changes.get("out_channels", 2)
    path = folder / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    for side, key, count in (("inputs", "image", counts[0]), ("outputs", "pred", counts[1])):
        names = {str(n): f"{key} {n}" for n in range(count)}
        metadata["network_data_format"][side][key] = {"num_channels": count, "channel_def": names}
    path.write_text(json.dumps(metadata))
    read = read_monai_bundle(folder)
    assert (len(read.channels), len(read.labels)) == counts
    ours = build_network(read.architecture, read.architecture_arguments)
    load_weights(ours, read.architecture, read_weights(read.weights))
    with torch.no_grad():
        assert torch.equal(ours.eval()(image), network(image))


def test_names_are_in_the_order_of_the_channels_not_of_the_file(bundle):
    def change(content):
        content["network_data_format"]["outputs"]["pred"]["channel_def"] = {"1": "tumor", "0": "background"}

    assert read_monai_bundle(bundle(change, "metadata")).labels == {0: "background", 1: "tumor"}


def test_a_bundle_without_name_or_license_is_called_like_its_folder_and_claims_no_license(bundle):
    def change(content):
        for key in ("name", "license", "references"):
            del content[key]

    read = read_monai_bundle(bundle(change, "metadata"))
    assert (read.name, read.license, read.citation) == ("lung_tumors", "", "")


def test_references_to_plain_values_are_followed(bundle):
    def change(content):
        content["image_key"], content["classes"] = "image", "@numbers#2"
        content["numbers"] = [4, 6, 2]
        content["windows"] = {"size": "@side", "overlap": 0.25}
        content["side"] = 32
        content["steps"] = content["preprocessing"]["transforms"]
        content["steps"][2]["keys"] = "@image_key"
        content["preprocessing"]["transforms"] = "@steps"
        content["network_def"]["out_channels"] = "@classes"
        content["network_def"]["channels"] = ["@numbers#0", "@numbers::1", 8]
        content["inferer"]["roi_size"] = "@windows#size"
        content["inferer"]["overlap"] = "@windows::overlap"

    read = read_monai_bundle(bundle(change))
    assert read.architecture_arguments["channels"] == (4, 6, 8)
    assert read.architecture_arguments["classes"] == 2
    assert (read.patch_size, read.overlap, read.orientation) == ((32, 32, 32), 0.25, "SAR")


@pytest.mark.parametrize("enclosing", ["preprocessing", "transforms"])
def test_a_plain_list_of_transforms_is_read_too(bundle, enclosing):
    def change(content):
        listed = content.pop("preprocessing")["transforms"]
        content[enclosing] = listed

    assert read_monai_bundle(bundle(change)).orientation == "SAR"


def test_a_transform_that_is_switched_off_or_for_another_key_does_nothing(bundle):
    off = {**RANGE, "_disabled_": True}
    other = {**RANGE, "keys": ["label"]}
    assert read_monai_bundle(bundle(transforms(off, other, TURN))).steps == ()


def test_values_for_each_key_are_those_of_the_image(bundle):
    both = {**SPACING, "keys": ["label", "image"], "mode": ["nearest", "bilinear"]}
    assert read_monai_bundle(bundle(transforms(TURN, both))).steps[0]["name"] == "resample"
    both = {**SPACING, "keys": ["image", "label"], "mode": ["nearest", "bilinear"]}
    assert "preprocessing.transforms[3].mode must be 'bilinear'" in refusal(bundle(transforms(TURN, both)))


def test_the_whole_image_at_once_and_gaussian_windows_are_told_apart(bundle):
    read = read_monai_bundle(bundle(setting(("inferer",), {"_target_": "SimpleInferer"})))
    assert read.patch_size is None
    windows = {"_target_": "monai.inferers.SlidingWindowInferer", "roi_size": 96, "mode": "gaussian"}
    read = read_monai_bundle(bundle(setting(("inferer",), windows)))
    assert (read.patch_size, read.overlap, read.blending) == ((96, 96, 96), 0.25, "gaussian")


def test_the_defaults_are_those_of_monai():
    """A bundle leaves out what MONAI's classes have by default; ours would be wrong if those changed."""
    import inspect

    from monai.inferers import SlidingWindowInferer
    from monai.networks.nets import UNet
    from monai.transforms import ScaleIntensityd, Spacingd

    def default(cls, name):
        return inspect.signature(cls.__init__).parameters[name].default

    assert [default(SlidingWindowInferer, n) for n in ("overlap", "mode", "padding_mode", "cval", "sigma_scale")] == [
        0.25, "constant", "constant", 0.0, 0.125,
    ]  # fmt: skip
    assert [default(UNet, n) for n in ("kernel_size", "up_kernel_size", "num_res_units", "act", "norm", "bias")] == [
        3, 3, 0, "PRELU", "INSTANCE", True,
    ]  # fmt: skip
    assert [default(Spacingd, n) for n in ("mode", "padding_mode")] == ["bilinear", "border"]
    assert [default(ScaleIntensityd, n) for n in ("minv", "maxv")] == [0.0, 1.0]


def test_a_sigmoid_has_its_threshold_and_outputs_that_stand_for_themselves(bundle):
    listed = [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
    ]
    read = read_monai_bundle(bundle(setting(("postprocessing", "transforms"), listed)))
    assert (read.activation, read.threshold) == ("sigmoid", 0.5)


def test_argmax_needs_no_softmax_before_it(bundle):
    listed = [{"_target_": "AsDiscreted", "keys": ["pred"], "argmax": [True]}]
    read = read_monai_bundle(bundle(setting(("postprocessing", "transforms"), listed)))
    assert (read.activation, read.threshold) == ("softmax", None)


# Axes and intensities: compared with MONAI's own transforms


def affine_of(letters, spacing, origin=(10.0, -20.0, 30.0)):
    """Geometry of a NIfTI whose first, second and third axis run to `letters`."""
    matrix = np.eye(4)
    for axis, letter in enumerate(letters):
        row = next(row for row, ends in enumerate(("LR", "PA", "IS")) if letter in ends)
        matrix[:3, axis] = 0
        matrix[row, axis] = spacing[axis] if letter in "RAS" else -spacing[axis]
    matrix[:3, 3] = origin
    return matrix


@pytest.fixture
def nifti(tmp_path):
    def write(letters="RAS", spacing=(0.75, 1.25, 3.0)):
        path = tmp_path / "image.nii.gz"
        values = np.random.default_rng(0).normal(40, 150, (7, 6, 5)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, affine_of(letters, spacing)), path)
        return path

    return write


def monai_prepared(path, folder):
    """What MONAI itself makes of a file with the transforms of a bundle."""
    from monai.bundle import ConfigParser

    parser = ConfigParser(json.loads((folder / "configs" / "inference.json").read_text()))
    return parser.get_parsed_content("preprocessing")({"image": str(path)})["image"]


def turned(path, orientation):
    """Array and geometry of a file as our pipeline turns it."""
    volume = read_volume(path)
    codes = orientation
    if codes.islower():
        codes = "".join(volume.axis_codes["ijk".index(axis)] for axis in codes)
    return reorient(volume.array, volume.ijk_to_ras, codes)


FILES = ["RAS", "LPS", "PIR", "SLA", "ILP", "ARI"]


@pytest.mark.parametrize(("stored", "axcodes"), [*itertools.product(FILES, ["RAS", "LPS", "PLI", "SRA"])])
def test_an_image_lies_as_monai_lays_it_whatever_its_file_has(bundle, nifti, stored, axcodes):
    folder = bundle(transforms({**TURN, "axcodes": axcodes}))
    read = read_monai_bundle(folder)
    path = nifti(stored)
    theirs = monai_prepared(path, folder)
    array, geometry = turned(path, read.orientation)
    assert read.orientation == axcodes[::-1]
    assert np.array_equal(array, theirs[0].numpy())
    assert spacing_mm(geometry) == pytest.approx([float(x) for x in theirs.pixdim])


@pytest.mark.parametrize("stored", FILES)
def test_an_image_that_the_bundle_does_not_turn_lies_as_in_its_file(bundle, nifti, stored):
    folder = bundle(transforms(RANGE))
    read = read_monai_bundle(folder)
    theirs = monai_prepared(nifti(stored), folder)
    values = turned(nifti(stored), read.orientation)[0]
    assert np.allclose(np.clip((values + 57) / 221, 0, 1), theirs[0].numpy(), atol=1e-6)
    assert "does not turn images" in read.notes[0]


@pytest.mark.parametrize("stored", FILES)
def test_the_spacing_is_in_the_order_of_our_axes(bundle, nifti, stored):
    folder = bundle(transforms(TURN, {**SPACING, "pixdim": [1.4, 2.3, 3.7]}))  # no half voxels
    read = read_monai_bundle(folder)
    theirs = monai_prepared(nifti(stored), folder)
    assert read.steps[0]["spacing_mm"] == pytest.approx([float(x) for x in theirs.pixdim])
    array, geometry = turned(nifti(stored), read.orientation)
    for axis, (have, want) in enumerate(zip(spacing_mm(geometry), read.steps[0]["spacing_mm"], strict=True)):
        # MONAI counts from the first center to the last.
        assert theirs.shape[1 + axis] == round((array.shape[axis] - 1) * have / want) + 1


@pytest.mark.parametrize(
    ("pixdim", "spacing"), [(2, [2, 2, 2]), ([1, 2], [1, 2, 2]), ([1, 2, 3, 4], [1, 2, 3])]
)
def test_a_short_or_long_spacing_is_meant_as_in_monai(bundle, nifti, pixdim, spacing):
    folder = bundle(transforms(TURN, {**SPACING, "pixdim": pixdim}))
    assert read_monai_bundle(folder).steps[0]["spacing_mm"] == spacing
    assert [float(x) for x in monai_prepared(nifti(), folder).pixdim] == spacing


def done(array, steps):
    """The steps on an array, as the words of `MonaiBundle.steps` have them."""
    values = array.astype(np.float64)
    for step in steps:
        if step["name"] == "clip":
            values = np.clip(values, step["low"], step["high"])
        elif step["name"] == "z_score":
            values = (values - values.mean()) / values.std()
        else:
            low, high = step.get("low", values.min()), step.get("high", values.max())
            assert step["name"] == ("rescale" if "low" in step else "scale_to_range")
            values = (values - low) / (high - low) * (step["to_high"] - step["to_low"]) + step["to_low"]
            if step.get("clip", False):
                values = np.clip(values, step["to_low"], step["to_high"])
    return values


@pytest.mark.parametrize(
    "transform",
    [
        RANGE,
        {**RANGE, "clip": False},
        {**RANGE, "b_min": -1, "b_max": 3},
        {**RANGE, "b_min": None, "b_max": None, "clip": False},
        {**RANGE, "b_min": -57, "b_max": 164, "dtype": "$torch.float32"},
        {"_target_": "ScaleIntensityd", "keys": "image"},
        {"_target_": "ScaleIntensityd", "keys": "image", "minv": -2, "maxv": 5},
        {"_target_": "NormalizeIntensityd", "keys": "image"},
        {"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True},
        {"_target_": "NormalizeIntensityd", "keys": "image", "subtrahend": 12.5, "divisor": 80},
        {
            "_target_": "NormalizeIntensityd",
            "keys": "image",
            "subtrahend": [12],
            "divisor": [80],
            "channel_wise": True,
        },
    ],
)
def test_intensities_become_what_monai_makes_of_them(bundle, nifti, transform):
    listed = {**transform}
    folder = bundle(transforms(TURN, {**listed, "_target_": f"monai.transforms.{listed['_target_']}"}))
    read = read_monai_bundle(folder)
    array = turned(nifti("LPS"), read.orientation)[0]
    assert np.allclose(done(array, read.steps), monai_prepared(nifti("LPS"), folder)[0].numpy(), atol=2e-5)


def test_intensity_steps_keep_their_order(bundle):
    minimum, score = (
        {"_target_": name, "keys": "image"} for name in ("ScaleIntensityd", "NormalizeIntensityd")
    )
    names = [
        step["name"] for step in read_monai_bundle(bundle(transforms(minimum, TURN, score, SPACING))).steps
    ]
    assert names == ["scale_to_range", "z_score", "resample"]


# Nothing runs


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (("network_def", "channels"), "network_def.channels"),
        (("network_def", "strides", 1), "network_def.strides[1]"),
        (("network_def", "_target_"), "network_def._target_"),
        (("network_def",), "network_def"),
        (("preprocessing",), "preprocessing"),
        (("preprocessing", "transforms"), "preprocessing.transforms"),
        (("preprocessing", "transforms", 3, "pixdim"), "preprocessing.transforms[3].pixdim"),
        (("preprocessing", "transforms", 3), "preprocessing.transforms[3]"),
        (("preprocessing", "transforms", 4, "a_min"), "preprocessing.transforms[4].a_min"),
        (("preprocessing", "transforms", 4, "keys"), "preprocessing.transforms[4].keys"),
        (("inferer",), "inferer"),
        (("inferer", "overlap"), "inferer.overlap"),
        (("postprocessing", "transforms", 2, "argmax"), "postprocessing.transforms[2].argmax"),
    ],
)
@pytest.mark.parametrize("through_a_reference", [False, True])
def test_an_expression_is_refused_by_its_key_and_does_not_run(
    bundle, tmp_path, path, key, through_a_reference
):
    trace = tmp_path / "trace"
    expression = f"$__import__('pathlib').Path({str(trace)!r}).touch()"

    def change(content):
        content["evil"] = expression
        setting(path, "@evil" if through_a_reference else expression)(content)

    said = refusal(bundle(change))
    assert f"inference.json: {key} is an expression" in said
    assert "not run" in said and "change that setting" in said
    assert not trace.exists()


def test_expressions_where_nothing_is_needed_do_not_run_either(bundle, tmp_path):
    trace = tmp_path / "trace"
    expression = f"$open({str(trace)!r}, 'w')"

    def change(content):
        for key in (
            "imports",
            "initialize",
            "run",
            "device",
            "output_dir",
            "dataset",
            "evaluator",
            "handlers",
        ):
            content[key] = [expression]
        content["inferer"]["sw_device"] = expression
        content["postprocessing"]["transforms"][3]["output_dir"] = expression

    def metadata(content):
        content["description"] = expression

    folder = bundle(change)
    read_monai_bundle(folder)
    assert read_monai_bundle(bundle(metadata, "metadata")).description == expression
    assert not trace.exists()


def test_no_class_is_imported_that_a_bundle_names(bundle, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for path in (
        ("network_def", "_target_"),
        ("inferer", "_target_"),
        ("preprocessing", "transforms", 0, "_target_"),
    ):
        assert "evil_module.Thing" in refusal(bundle(setting(path, "evil_module.Thing")))
    assert not (tmp_path / "trace").exists()


# References that lead nowhere


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("@nothing", "'@nothing' names nothing in this file"),
        ("@network_def#nothing", "names nothing"),
        ("@network_def#channels#9", "names nothing"),
        ("@loop", "leads to more than 16 references"),
        ("@bomb0", "holds more than 10000 values"),
        ("@a + 1", "expected a plain value or the name of one"),
        ("@##channels", "expected a plain value or the name of one"),
        ("@", "expected a plain value or the name of one"),
        ("%other.json::channels", "takes its value from another place"),
    ],
)
def test_a_reference_that_is_not_a_plain_one_is_refused(bundle, value, sentence):
    def change(content):
        content["loop"] = "@pool"
        content["pool"] = "@loop"
        for level in range(12):
            content[f"bomb{level}"] = [f"@bomb{level + 1}"] * 20
        content["bomb12"] = [2]
        content["network_def"]["channels"] = value

    said = refusal(bundle(change))
    assert sentence in said and "network_def.channels" in said


def test_a_component_that_refers_to_itself_is_refused(bundle):
    assert "more than 16 references" in refusal(bundle(setting(("inferer",), "@inferer")))


# What is refused, each by its own sentence


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("network_def", "_target_"), "SegResNet", "network_def._target_ must be UNet or"),
        (("network_def", "_target_"), "monai.networks.nets.unet", "network_def._target_ must be UNet or"),
        (("network_def",), [1], "network_def must be an object with a _target_"),
        (("network_def", "spatial_dims"), 2, "network_def.spatial_dims must be 3, got 2"),
        (("network_def", "spatial_dims"), 3.0, "network_def.spatial_dims must be 3"),
        (("network_def", "in_channels"), 0, "network_def.in_channels must be 1 or more"),
        (("network_def", "out_channels"), 500, "network_def.out_channels must be at most 256"),
        (("network_def", "channels"), [4, 10**6, 8], "network_def.channels[1] must be at most"),
        (("network_def", "channels"), [4, 6], "must have 2 to 12 channels and one stride less"),
        (("network_def", "channels"), "many", "network_def.channels must be a list"),
        (("network_def", "channels"), [1000, 2000, 2000], "make a network larger than the weights"),
        (("network_def", "strides"), [2, [2, 2]], "network_def.strides[1] must be a list of 3"),
        (("network_def", "strides"), [2, 0], "network_def.strides[1] must be 1 or more"),
        (("network_def", "kernel_size"), 4, "network_def.kernel_size must be odd"),
        (("network_def", "num_res_units"), -1, "network_def.num_res_units must be a whole number"),
        (("network_def", "num_res_units"), 10**9, "network_def.num_res_units must be at most"),
        (("network_def", "act"), "swish", "network_def.act must be one of PRELU, RELU, LEAKYRELU"),
        (("network_def", "act"), ["prelu", {"num_parameters": 4}], "network_def.act[1].num_parameters must be 1"),
        (("network_def", "act"), ["leakyrelu", {"negative_slope": 0.2}], "act[1].negative_slope must be 0.01"),
        (("network_def", "act"), ["relu", 1], "network_def.act[1] must be an object"),
        (("network_def", "norm"), "group", "network_def.norm must be one of INSTANCE, BATCH"),
        (("network_def", "norm"), ["instance", {"affine": True}], "network_def.norm[1].affine must be False"),
        (("network_def", "norm"), ["batch", {"eps": 0.1}], "network_def.norm[1].eps must be 1e-05"),
        (("network_def", "norm"), ["batch", {"num_groups": 2}], "network_def.norm[1].num_groups is not known"),
        (("network_def", "dropout"), 1.5, "network_def.dropout must be from 0 to 1"),
        (("network_def", "adn_ordering"), "AND", "network_def.adn_ordering must be 'NDA'"),
        (("network_def", "bias"), 1, "network_def.bias must be true or false"),
        (("network_def", "extra"), 1, "network_def.extra is not known"),
        (("network_def", "_requires_"), "$print(1)", "network_def._requires_ is not known"),
        (("network_def", "_disabled_"), True, "network_def._disabled_ must be false"),
        (("preprocessing", "_target_"), "OneOf", "preprocessing._target_ must be Compose"),
        (("preprocessing", "unpack_items"), True, "preprocessing.unpack_items must be False"),
        (("preprocessing", "_disabled_"), True, "preprocessing._disabled_ must be false"),
        (("preprocessing",), 7, "preprocessing must be a list of transforms, got 7"),
        (("preprocessing", "transforms"), [], "preprocessing has no transform of the key 'image'"),
        (("preprocessing", "transforms", 1), 7, "preprocessing.transforms[1] must be an object with a _target_"),
        (("inferer", "_target_"), "SliceInferer", "inferer._target_ must be SlidingWindowInferer or SimpleInferer"),
        (("inferer", "roi_size"), [96, 96, -1], "inferer.roi_size[2] must be a whole number"),
        (("inferer", "roi_size"), [96, 96], "inferer.roi_size must be a list of 3"),
        (("inferer", "overlap"), 1, "inferer.overlap must be one number from 0 to below 1"),
        (("inferer", "overlap"), [0.5, 0.5, 0.25], "inferer.overlap must be one number"),
        (("inferer", "mode"), "triangle", "inferer.mode must be one of constant, gaussian"),
        (("inferer", "sigma_scale"), 0.5, "inferer.sigma_scale must be 0.125"),
        (("inferer", "padding_mode"), "reflect", "inferer.padding_mode must be 'constant'"),
        (("inferer", "cval"), -1, "inferer.cval must be 0"),
        (("inferer", "with_coord"), True, "inferer.with_coord must be False"),
        (("inferer", "_disabled_"), True, "inferer._disabled_ must be false"),
        (("postprocessing", "transforms"), [], "postprocessing must have AsDiscreted"),
        (("postprocessing", "transforms", 0, "softmax"), False, "must have softmax or sigmoid true"),
        (("postprocessing", "transforms", 0, "sigmoid"), True, "must have softmax or sigmoid true"),
        (("postprocessing", "transforms", 0, "other"), "tanh", "transforms[0].other must be null"),
        (("postprocessing", "transforms", 2, "threshold"), 0.5, "must have argmax true or a threshold"),
        (("postprocessing", "transforms", 2, "to_onehot"), 3, "transforms[2].to_onehot must be null or 2"),
        (("postprocessing", "transforms", 2, "rounding"), "torchrounding", "transforms[2].rounding must be null"),
        (("postprocessing", "transforms", 2, "dim"), 1, "transforms[2].dim is not known"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_file_key_and_reason(bundle, path, value, sentence):
    folder = bundle(setting(path, value))
    said = refusal(folder)
    assert sentence in said
    assert said.startswith(str(folder / "configs" / "inference.json"))
    assert "change that setting" in said


@pytest.mark.parametrize("key", ["network_def", "preprocessing", "inferer", "postprocessing"])
def test_a_part_that_is_missing_is_named(bundle, key):
    def change(content):
        content.pop(key)
        content.pop("network", None)

    assert f"key {key!r} is missing" in refusal(bundle(change))


@pytest.mark.parametrize(
    ("where", "key"),
    [*(("network_def", key) for key in ("spatial_dims", "channels", "strides")), ("inferer", "roi_size")],
)
def test_a_setting_that_is_missing_is_named(bundle, where, key):
    assert f"key {key!r} is missing in {where}" in refusal(bundle(lambda content: content[where].pop(key)))


def of_image(name, **arguments):
    return {"_target_": name, "keys": "image", **arguments}


SCORE = of_image("NormalizeIntensityd")


@pytest.mark.parametrize(
    ("listed", "sentence"),
    [
        ([of_image("CropForegroundd")], "[2]._target_ is 'CropForegroundd', which ThoraxSeg does not do"),
        ([of_image("RandFlipd")], "'RandFlipd', which ThoraxSeg does not do; known are LoadImaged"),
        ([of_image("Lambdad", func="$lambda x: x")], "'Lambdad', which ThoraxSeg does not do"),
        ([of_image("spacingd")], "'spacingd', which ThoraxSeg does not do"),
        ([TURN, TURN], "[3] turns the image a second time"),
        ([SPACING, TURN], "[3] turns the image after it was resampled"),
        ([of_image("Orientationd", axcodes="RAX")], "[2].axcodes"),
        ([of_image("Orientationd", axcodes="RA")], "[2].axcodes"),
        ([of_image("Orientationd")], "[2].axcodes must be text"),
        ([{**TURN, "labels": [["R", "L"], ["A", "P"], ["I", "S"]]}], "[2].labels must be null or [['L', 'R']"),
        ([TURN, {**SPACING, "pixdim": [1, 0, 1]}], "[3].pixdim must be positive"),
        ([TURN, {**SPACING, "pixdim": []}], "[3].pixdim must be one to three numbers"),
        ([TURN, {**SPACING, "pixdim": "1"}], "[3].pixdim must be a finite number"),
        ([TURN, of_image("Spacingd")], "[3].pixdim must be a finite number"),
        ([TURN, {**SPACING, "mode": "nearest"}], "[3].mode must be 'bilinear'"),
        ([TURN, {**SPACING, "mode": 3}], "[3].mode must be 'bilinear'"),
        ([TURN, {**SPACING, "diagonal": True}], "[3].diagonal must be False"),
        ([TURN, {**SPACING, "padding_mode": "zeros"}], "[3].padding_mode must be 'border'"),
        ([TURN, {**SPACING, "min_pixdim": [1, 1, 1]}], "[3].min_pixdim must be null"),
        ([{**RANGE, "a_max": -57}], "[2].a_min and a_max must be ascending"),
        ([{**RANGE, "b_max": 0}], "[2].b_min and b_max must be ascending"),
        ([{**RANGE, "b_max": None}], "[2] must have both b_min and b_max"),
        ([{**RANGE, "b_min": None, "b_max": None}], "[2] must have both b_min and b_max"),
        ([of_image("ScaleIntensityRanged", a_min=0)], "key 'a_max' is missing in preprocessing.transforms[2]"),
        ([{**RANGE, "a_min": True}], "[2].a_min must be a finite number"),
        ([{**RANGE, "clip": 1}], "[2].clip must be true or false"),
        ([{**RANGE, "dtype": "$np.int16"}], "[2].dtype must be float32 or float64"),
        ([{**RANGE, "dtype": "$__import__('os')"}], "[2].dtype must be float32 or float64"),
        ([of_image("ScaleIntensityd", factor=0.1)], "[2].factor must be null"),
        ([of_image("ScaleIntensityd", minv=None, maxv=None)], "[2].minv must be a finite number"),
        ([{**SCORE, "nonzero": True}], "[2].nonzero must be False, got True"),
        ([{**SCORE, "subtrahend": 1}], "[2] must have both subtrahend and divisor"),
        ([{**SCORE, "subtrahend": 1, "divisor": 0}], "[2].divisor must be positive"),
        ([{**SCORE, "subtrahend": [1, 2], "divisor": 1}], "[2].subtrahend must be one number"),
        ([of_image("EnsureTyped", track_meta=False)], "[2].track_meta must be null or True"),
        ([of_image("EnsureTyped", dtype="int16")], "[2].dtype must be float32 or float64"),
        ([of_image("EnsureChannelFirstd", channel_dim=3)], "[2].channel_dim must be null or 'no_channel'"),
        ([of_image("LoadImaged", reader="PILReader")], "[2].reader must be one of itkreader"),
        ([of_image("LoadImaged", affine_lps_to_ras=False)], "[2].affine_lps_to_ras is not known"),
        ([{**RANGE, "keys": 3}], "[2].keys must be text"),
        ([{**RANGE, "_disabled_": "yes"}], "[2]._disabled_ must be true or false"),
    ],
)  # fmt: skip
def test_a_transform_that_would_do_something_else_is_refused(bundle, listed, sentence):
    assert sentence in refusal(bundle(transforms(*listed)))


@pytest.mark.parametrize("transform", [SCORE, of_image("ScaleIntensityd")])
def test_several_channels_are_normalized_each_by_itself_or_not_at_all(bundle, transform):
    def change(channel_wise):
        def edit(content):
            transforms({**transform, "channel_wise": channel_wise})(content)
            content["network_def"]["in_channels"] = 2

        return edit

    assert "[2].channel_wise must be true for 2 channels" in refusal(bundle(change(False)))
    assert "channel_def of 0 to 1" in refusal(bundle(change(True)))  # that far it is read


@pytest.mark.parametrize(
    ("listed", "sentence"),
    [
        ([("AsDiscreted", {"threshold": 0.5})], "Activationsd with sigmoid before a threshold"),
        ([("Activationsd", {"softmax": True}), ("AsDiscreted", {"threshold": 0.5})], "with sigmoid before"),
        ([("Activationsd", {"sigmoid": True}), ("AsDiscreted", {"argmax": True})], "must have softmax and two"),
        ([("Activationsd", {"sigmoid": True}), ("AsDiscreted", {"threshold": 2})], "threshold between 0 and 1"),
        ([("Activationsd", {"sigmoid": True}), ("AsDiscreted", {})], "argmax true or a threshold, and not both"),
        ([("Activationsd", {"sigmoid": True})], "must have AsDiscreted"),
        ([("AsDiscreted", {"argmax": True}), ("Activationsd", {"softmax": True})], "[1] comes after the labels"),
        ([("KeepLargestConnectedComponentd", {})], "'KeepLargestConnectedComponentd', which ThoraxSeg does not do"),
    ],
)  # fmt: skip
def test_an_answer_that_is_decided_otherwise_is_refused(bundle, listed, sentence):
    steps = [{"_target_": name, "keys": "pred", **arguments} for name, arguments in listed]
    assert sentence in refusal(bundle(setting(("postprocessing", "transforms"), steps)))


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("name",), 3, "name must be text"),
        (("name",), "a\x1b[31m", "name must be at most"),
        (("description",), "x" * 20_000, "description must be at most"),
        (("references",), "one", "references must be a list"),
        (("network_data_format",), None, "network_data_format must be an object"),
        (("network_data_format", "outputs"), {}, "network_data_format.outputs.pred must be an object"),
        (("network_data_format", "outputs", "pred", "num_channels"), 3, "num_channels 2 and a channel_def of 0 to 1"),
        (("network_data_format", "outputs", "pred", "channel_def"), {"0": "a"}, "channel_def of 0 to 1"),
        (("network_data_format", "outputs", "pred", "channel_def"), {"1": "a", "2": "b"}, "channel_def of 0 to 1"),
        (("network_data_format", "outputs", "pred", "channel_def"), {"0": "a", "1": "a"}, "a name of its own"),
        (("network_data_format", "outputs", "pred", "channel_def"), {"0": "a", "1": " "}, "a name of its own"),
        (("network_data_format", "outputs", "pred", "channel_def"), {"0": "a", "1": 1}, "channel_def.1 must be text"),
        (("network_data_format", "inputs", "image", "channel_def"), {"0": "a", "1": "b"}, "channel_def of 0 to 0"),
        (("network_data_format", "inputs", "image", "modality"), ["CT"], "inputs.image.modality must be text"),
    ],
)  # fmt: skip
def test_metadata_that_do_not_fit_the_network_are_refused(bundle, path, value, sentence):
    folder = bundle(setting(path, value), "metadata")
    said = refusal(folder)
    assert sentence in said
    assert said.startswith(str(folder / "configs" / "metadata.json"))


# Files


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "expected JSON"),
        (b"<html>", "expected JSON"),
        (b"\xff\xfe", "expected JSON"),
        (b"[]", "a list instead of an object"),
        (b'{"a": 1, "a": 2}', "key 'a' is given twice"),
        (b'{"inferer": {"overlap": 0.5, "overlap": 0.25}}', "key 'overlap' is given twice"),
        (b'{"a": NaN}', "NaN is not a finite number"),
        (b'{"a": -Infinity}', "-Infinity is not a finite number"),
        (b"[" * 100_000, "expected JSON"),
        (b'{"a": "' + b"x" * (17 << 20) + b'"}', "larger than 16 MiB"),
    ],
)
@pytest.mark.parametrize("name", ["inference", "metadata"])
def test_json_is_read_strictly(bundle, name, content, sentence):
    path = bundle() / "configs" / f"{name}.json"
    path.write_bytes(content)
    said = refusal(path.parent.parent)
    assert sentence in said and str(path) in said


def test_a_number_that_is_too_large_is_refused(bundle):
    path = bundle() / "configs" / "inference.json"
    path.write_text(path.read_text().replace("-57", "-1e999"))
    assert "a_min must be a finite number" in refusal(path.parent.parent)


@pytest.mark.parametrize("name", ["inference", "metadata"])
@pytest.mark.parametrize("ending", ["yaml", "yml"])
def test_yaml_is_refused_in_a_sentence_and_not_read(bundle, name, ending):
    path = bundle() / "configs" / f"{name}.json"
    path.rename(path.with_suffix(f".{ending}"))
    said = refusal(path.parent.parent)
    assert f"{name}.{ending}: expected JSON, got YAML" in said and f"as {name}.json" in said


def test_files_that_are_missing_are_named(bundle):
    folder = bundle()
    (folder / "configs" / "inference.json").unlink()
    assert "inference.json: the file is missing" in refusal(folder)
    folder = bundle()
    (folder / "models" / "model.pt").unlink()
    assert "got no such file. Fetch models/model.pt" in refusal(folder)
    (folder / "models" / "model.ts").touch()
    assert "got model.ts, a TorchScript program, which would run code" in refusal(folder)


def test_a_bundle_is_found_below_its_folder_and_several_are_listed(bundle, tmp_path):
    folder = bundle()
    assert find_bundle(folder) == find_bundle(tmp_path) == folder
    assert read_monai_bundle(tmp_path).folder == folder
    assert find_bundle(folder / "models") is None
    assert find_bundle(tmp_path / "nowhere") is None
    (tmp_path / "other" / "configs").mkdir(parents=True)
    (tmp_path / "other" / "configs" / "metadata.json").touch()
    with pytest.raises(CheckpointError, match="2 MONAI bundles: lung_tumors, other"):
        find_bundle(tmp_path)


def test_a_folder_that_is_no_bundle_is_said_to_be_none(tmp_path):
    assert "expected a MONAI bundle" in refusal(tmp_path)


def test_reading_a_bundle_writes_and_changes_nothing(bundle):
    folder = bundle()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    read_monai_bundle(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
