"""Train small nnU-Net v2 models on phantoms, with nnU-Net's own code and on the CPU: `nnunet_training.py OUTPUT`.

OUTPUT gets nnU-Net's three folders (`raw`, `preprocessed`, `results`), the export zips (`exports`), and for
held-out cases the images (`images`) and nnU-Net's own answers (`answers`, labels and probabilities).

Everything from fingerprint to export is what a user of nnU-Net runs; only the plans are edited, as its guide
"Modifying the nnU-Net Configurations" describes, so that the networks and their patches are small.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np

MOUSE_CT, MOUSE_MR = "Dataset701_MouseCT", "Dataset702_MouseMR"
CT_LABELS = {"background": 0, "heart": 1, "spinal_cord": 2, "right_lung": 3, "left_lung": 4}
MR_REGIONS = {"background": 0, "body": [1, 2], "lungs": 2}
MR_CHANNELS = {"0": "bSSFP", "1": "T2"}
CASES = 5
"""nnU-Net splits the training cases into five folds, so it needs five at least."""

# Spacings are those of slices, rows and columns in mm, (superior, anterior, right) in MR. The largest does not come
# first, so nnU-Net exchanges axes: transpose_forward is 2, 0, 1 and 1, 0, 2. Held-out images have another spacing.
CT_SPACING, CT_NEW_SPACING = (0.56, 0.5, 0.62), (0.5, 0.58, 0.74)
MR_SPACING, MR_NEW_SPACING = (0.6, 0.7, 0.55), (0.66, 0.58, 0.5)
MR_ZEROS = 4
"""Voxels without signal on every side of the MR images: they are cropped, and normalization leaves them out."""
LEARNING_RATE, EPOCHS, ITERATIONS, SEED = 0.2, 2, 100, 2
"""Large steps, few of them: after them some structures are found, which is all that a comparison needs."""

CT_PLANS = "nnUNetPlans"
MR_PLANNER, MR_PLANS = "nnUNetPlannerResEncL_torchres", "nnUNetResEncUNetLPlans_torchres"


def main(output: Path, part: str | None = None) -> None:
    """Do all the work below `output`, a folder that need not exist, or one part of it."""
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(output / name)
    # nnU-Net's helpers cost more than they bring on so little data, but its planner asks for one.
    helpers = "1" if part in (ct_preparation.__name__, mr_preparation.__name__) else "0"
    os.environ.update(
        nnUNet_def_n_proc="1", nnUNet_n_proc_DA=helpers, nnUNet_compile="f", OMP_NUM_THREADS="1"
    )
    if part is not None:
        # nnU-Net starts a process or more for every step, and each imports torch first; threads do the same work.
        multiprocessing.get_context = lambda method: SimpleNamespace(Pool=ThreadPool)
        start = time.perf_counter()
        PARTS[part](output)
        sys.stdout.write(f"### {part}: {time.perf_counter() - start:.0f} s\n")
        return
    for side_by_side in (("ct_preparation", "mr_preparation"), ("ct_full", "ct_rest", "mr_full")):
        command = [sys.executable, __file__, str(output)]
        started = [subprocess.Popen([*command, name]) for name in side_by_side]
        statuses = [process.wait() for process in started]
        if any(statuses):
            sys.exit(f"{side_by_side} ended with {statuses}")


def ct_preparation(output: Path) -> None:
    """One channel and plain labels."""
    content = {"channel_names": {"0": "CT"}, "labels": CT_LABELS}
    write_dataset(output, MOUSE_CT, content, write_ct)
    prepare(output, MOUSE_CT, "ExperimentPlanner", edit_ct_plans)
    split(output, MOUSE_CT)


def mr_preparation(output: Path) -> None:
    """Two channels, regions that overlap, a residual encoder, resampling by torch, images that are reoriented."""
    content = {"channel_names": MR_CHANNELS, "labels": MR_REGIONS, "regions_class_order": [1, 2]}
    content["overwrite_image_reader_writer"] = "NibabelIOWithReorient"
    write_dataset(output, MOUSE_MR, content, write_mr)
    prepare(output, MOUSE_MR, MR_PLANNER, edit_mr_plans)


def ct_full(output: Path) -> None:
    """3-D, two folds, and the clean-up that nnU-Net finds in their validation."""
    model = Model(output, MOUSE_CT, CT_PLANS, "3d_fullres")
    for fold in (0, 1):
        model.train(fold)
    model.find_clean_up((0, 1))
    share(output / "exports" / "full.zip", (model,), (0, 1))
    model.answer("full", (0, 1))
    model.answer("full_fold_1", (1,))
    model.answer("full_best", (0,), checkpoint="checkpoint_best.pth")


def ct_rest(output: Path) -> None:
    """2-D, and a cascade.

    A cascade's second stage learns from the first stage's answers to all its training cases. With fold `all` one
    training gives them; five folds would have to be trained otherwise.
    """
    flat = Model(output, MOUSE_CT, CT_PLANS, "2d")
    first = Model(output, MOUSE_CT, CT_PLANS, "3d_lowres")
    second = Model(output, MOUSE_CT, CT_PLANS, "3d_cascade_fullres")
    for model, fold in ((flat, 0), (first, "all"), (second, "all")):
        model.train(fold)
    share(output / "exports" / "cascade.zip", (first, second), ("all",))
    flat.answer("2d", (0,))
    first.answer("low", ("all",))
    second.answer("cascade", ("all",), previous="low")


def mr_full(output: Path) -> None:
    """3-D with regions."""
    model = Model(output, MOUSE_MR, MR_PLANS, "3d_fullres")
    model.train("all")
    share(output / "exports" / "regions.zip", (model,), ("all",))
    model.answer("regions", ("all",))


PARTS = {part.__name__: part for part in (ct_preparation, mr_preparation, ct_full, ct_rest, mr_full)}


# Images


def write_dataset(output: Path, name: str, content: dict, write: Callable[[Path, int, bool], None]) -> None:
    """Write a dataset as nnU-Net wants it, and one more case that it does not get."""
    for number in range(CASES + 1):
        write(output, number, number == CASES)
    content = {**content, "numTraining": CASES, "file_ending": ".nii.gz"}
    (output / "raw" / name / "dataset.json").write_text(json.dumps(content), encoding="utf-8")


def write_ct(output: Path, number: int, held_out: bool) -> None:
    """Write one mouse CT with its labels."""
    from thoraxseg.phantoms import mouse_micro_ct

    phantom = mouse_micro_ct(seed=number, spacing_mm=CT_NEW_SPACING if held_out else CT_SPACING)
    matrix, truth = phantom.volume.ijk_to_ras, phantom.truth.labels
    save_case(output, MOUSE_CT, number, held_out, [phantom.volume.array], truth, matrix)


def write_mr(output: Path, number: int, held_out: bool) -> None:
    """Write one mouse MR of two channels, stored along other axes from case to case."""
    from scipy.ndimage import binary_fill_holes, gaussian_filter

    from thoraxseg.phantoms import mouse_mri

    codes = ("LPS", "RIA", "ASR")[number % 3]
    # The spacing belongs to the anatomy: each case gives that of its own axes, k first.
    by_axis = dict(zip("SARIPL", (MR_NEW_SPACING if held_out else MR_SPACING) * 2, strict=True))
    spacing = [by_axis[code] for code in reversed(codes)]
    phantom = mouse_mri(seed=number, spacing_mm=spacing, axis_codes=codes, tumors=0)
    first, lungs = phantom.volume.array, phantom.truth.labels > 0
    body = binary_fill_holes(gaussian_filter(first.astype(np.float32), 1) > 14) | lungs
    second = 12 * np.sqrt(first) + np.random.default_rng(number).normal(0, 4, first.shape)
    truth = np.where(lungs, 2, body).astype(np.uint8)
    arrays = [np.pad(array, MR_ZEROS) for array in (first, second.astype(np.float32), truth)]
    matrix = phantom.volume.ijk_to_ras.copy()
    matrix[:3, 3] -= matrix[:3, :3] @ np.full(3, MR_ZEROS)
    save_case(output, MOUSE_MR, number, held_out, arrays[:-1], arrays[-1], matrix)


def save_case(
    output: Path,
    dataset: str,
    number: int,
    held_out: bool,
    channels: Sequence[np.ndarray],
    truth: np.ndarray,
    matrix: np.ndarray,
) -> None:
    """Write channels and labels `(k, j, i)` under nnU-Net's names; a held-out case goes to its own folder."""
    name = "new" if held_out else f"mouse_{number}"
    images = output / "images" / dataset if held_out else output / "raw" / dataset / "imagesTr"
    labels = output / "truth" / dataset if held_out else output / "raw" / dataset / "labelsTr"
    for index, channel in enumerate(channels):
        save(images / f"{name}_{index:04}.nii.gz", channel, matrix)
        if held_out and len(channels) > 1:
            save(images / f"turned_{index:04}.nii.gz", *turned(channel, matrix))
    save(labels / f"{name}.nii.gz", truth, matrix)


def turned(array: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the same image stored along other axes: i, j, k become k, i and j backwards."""
    to_old = np.zeros((4, 4))
    to_old[[0, 1, 2, 3], [1, 2, 0, 3]] = 1
    to_old[1] = [0, 0, -1, array.shape[1] - 1]
    return np.ascontiguousarray(array[:, ::-1].transpose(1, 2, 0)), matrix @ to_old


def save(path: Path, array: np.ndarray, matrix: np.ndarray) -> None:
    """Write an array `(k, j, i)` as NIfTI."""
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(np.ascontiguousarray(array.T), matrix)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


# Planning


def prepare(output: Path, dataset: str, planner: str, edit: Callable[[dict], None]) -> None:
    """Extract the fingerprint, plan, edit the plans, preprocess."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as nnunet

    number = int(dataset[7:10])
    nnunet.extract_fingerprints([number], num_processes=1, show_progress_bar=False)
    identifier = nnunet.plan_experiments([number], experiment_planner_class_name=planner)
    path = output / "preprocessed" / dataset / f"{identifier}.json"
    plans = json.loads(path.read_text("utf-8"))
    edit(plans)
    path.write_text(json.dumps(plans, indent=2), encoding="utf-8")
    own = [name for name in plans["configurations"] if name != "3d_cascade_fullres"]  # it uses 3d_fullres's
    nnunet.preprocess([number], identifier, own, num_processes=[1] * len(own), show_progress_bar=False)


def split(output: Path, dataset: str) -> None:
    """Write the folds, as nnU-Net draws them.

    Its trainer would write the file where there is none; `ct_full` and `ct_rest` train at the same time, and one of
    them could read what the other has begun to write.
    """
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    names = sorted(f"mouse_{number}" for number in range(CASES))
    folds = generate_crossval_split(names, seed=12345, n_splits=5)
    (output / "preprocessed" / dataset / "splits_final.json").write_text(json.dumps(folds), encoding="utf-8")


def edit_ct_plans(plans: dict) -> None:
    """Make the networks small and add the cascade.

    nnU-Net plans a cascade only where a patch covers less than a quarter of an image. These images fit into
    one patch, so the two configurations are written by hand, in the words that nnU-Net would use.
    """
    configurations = plans["configurations"]
    full = configurations["3d_fullres"]
    shrink(configurations["2d"], (32, 24), (8, 16, 32), "n_conv_per_stage")
    shrink(full, (20, 24, 24), (6, 12, 24), "n_conv_per_stage")
    full["batch_dice"] = True
    configurations["3d_lowres"] = {
        "inherits_from": "3d_fullres",
        "data_identifier": f"{plans['plans_name']}_3d_lowres",
        "spacing": [1.4 * spacing for spacing in full["spacing"]],
        "median_image_size_in_voxels": [size / 1.4 for size in full["median_image_size_in_voxels"]],
        "patch_size": [20, 20, 20],
        "batch_dice": False,
        "next_stage": "3d_cascade_fullres",
    }
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}


def edit_mr_plans(plans: dict) -> None:
    """Make the network small; leave out the configuration that is not trained."""
    del plans["configurations"]["2d"]
    shrink(plans["configurations"]["3d_fullres"], (24, 20, 24), (6, 12, 24), "n_blocks_per_stage")


def shrink(configuration: dict, patch: Sequence[int], features: Sequence[int], blocks: str) -> None:
    """Give a configuration a small patch and a small network of as many stages as there are `features`."""
    stages, ones, twos = len(features), [1] * len(patch), [2] * len(patch)
    configuration |= {"patch_size": list(patch), "batch_size": 4 if len(patch) == 3 else 16}
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": stages,
        "features_per_stage": list(features),
        "kernel_sizes": [[3] * len(patch)] * stages,
        "strides": [ones, *[twos] * (stages - 1)],
        blocks: [1] * stages,
        "n_conv_per_stage_decoder": [1] * (stages - 1),
    }


# Training and predicting


@dataclass(frozen=True)
class Model:
    """One trained configuration, and what nnU-Net makes with it."""

    output: Path
    dataset: str
    plans: str
    configuration: str

    @property
    def folder(self) -> Path:
        """The folder that a user would be given."""
        name = f"nnUNetTrainer__{self.plans}__{self.configuration}"
        return self.output / "results" / self.dataset / name

    def train(self, fold: int | str) -> None:
        """Train one fold and let nnU-Net validate it, which also gives a cascade's second stage its input."""
        import torch
        from nnunetv2.run.run_training import get_trainer_from_args

        torch.set_num_threads(1)
        torch.manual_seed(SEED)
        np.random.seed(SEED)  # noqa: NPY002 - the generator that nnU-Net draws its patches with
        random.seed(SEED)
        trainer = get_trainer_from_args(
            self.dataset, self.configuration, fold, plans_identifier=self.plans, device=torch.device("cpu")
        )
        trainer.num_epochs, trainer.num_iterations_per_epoch = EPOCHS, ITERATIONS
        trainer.num_val_iterations_per_epoch, trainer.initial_lr = 1, LEARNING_RATE
        end_epoch = trainer.on_epoch_end

        def end_epoch_with_the_best_score() -> None:
            """Let no later epoch seem better than the first, so that the best checkpoint is not the final one."""
            end_epoch()
            trainer._best_ema = 1.0

        trainer.on_epoch_end = end_epoch_with_the_best_score
        trainer.run_training()
        trainer.perform_actual_validation()

    def answer(
        self,
        name: str,
        folds: Sequence[int | str],
        checkpoint: str = "checkpoint_final.pth",
        previous: str | None = None,
    ) -> None:
        """Write labels and probabilities of the held-out cases to `answers/name`."""
        import torch
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(
            perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
        )
        predictor.initialize_from_trained_model_folder(str(self.folder), tuple(folds), checkpoint)
        folder = self.output / "answers" / name
        folder.mkdir(parents=True)
        predictor.predict_from_files_sequential(
            str(self.output / "images" / self.dataset),
            str(folder),
            save_probabilities=True,
            folder_with_segs_from_prev_stage=previous and str(folder.parent / previous),
        )

    def find_clean_up(self, folds: Sequence[int | str]) -> None:
        """Let nnU-Net find in its own validation which components are better left out."""
        from nnunetv2.evaluation.accumulate_cv_results import accumulate_cv_results
        from nnunetv2.postprocessing.remove_connected_components import determine_postprocessing

        merged = str(self.folder / f"crossval_results_folds_{'_'.join(map(str, folds))}")
        accumulate_cv_results(str(self.folder), merged, folds)
        truth = str(self.output / "raw" / self.dataset / "labelsTr")
        determine_postprocessing(merged, truth, None, None, keep_postprocessed_files=False)


def share(path: Path, models: Sequence[Model], folds: Sequence[int | str]) -> None:
    """Zip configurations of one dataset as nnU-Net shares them: all with the same folds."""
    from nnunetv2.model_sharing.model_export import export_pretrained_model

    path.parent.mkdir(exist_ok=True)
    export_pretrained_model(
        models[0].dataset,
        str(path),
        tuple(model.configuration for model in models),
        plans_identifier=models[0].plans,
        folds=tuple(folds),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
