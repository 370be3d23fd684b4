"""The card of a model that came without one: from its plan, its bundle or its tensors, and what the user says."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from thoraxseg.checkpoints import structures
from thoraxseg.checkpoints.card import (
    MODALITIES,
    SCHEMA,
    SPECIES,
    TASKS,
    Card,
    CardFile,
    Cleanup,
    ExpectedInput,
    Inference,
    InputChannel,
    Source,
    Step,
)
from thoraxseg.checkpoints.monai_bundle import MonaiBundle
from thoraxseg.checkpoints.nnunet_plan import NnunetPlan, Origin
from thoraxseg.errors import CheckpointError, InputError, OptionError
from thoraxseg.files import sha256_file
from thoraxseg.segmentation import Structure
from thoraxseg.volume import directions_from_codes

REORIENTED = "RAS"
"""Where the axes i, j, k run to after the readers of nnU-Net that reorient."""
LOCAL = Source("local", "", "")
_RESAMPLED_TOLERANCE = 2.0
"""nnU-Net resamples to its own spacing; only voxels three times as large or as small are worth a warning."""


@dataclass(frozen=True)
class About:
    """What the user, or a published entry, says of a model whose files do not tell it; None: nothing."""

    name: str | None = None
    title: str | None = None
    description: str | None = None
    task: str | None = None
    species: str | None = None
    modality: str | None = None
    labels: Mapping[int, str] | None = None
    orientation: str | None = None
    """Where the axes i, j, k of the training images ran to, as in `LPS`."""
    license: str | None = None
    citation: str | None = None

    def __post_init__(self) -> None:
        for what, known in (("species", SPECIES), ("modality", MODALITIES), ("task", TASKS)):
            value = getattr(self, what)
            if value is not None and value not in known:
                raise OptionError(f"--{what}: expected one of {', '.join(known)}, got {value!r}.")

        if self.orientation is not None:
            try:
                directions_from_codes(self.orientation)
            except InputError as error:
                raise OptionError(f"--orientation: {error}") from error

    def over(self, other: About) -> About:
        """Return this, and what the other says where this says nothing."""
        mine = {name: value for name, value in vars(self).items() if value is not None}
        return replace(other, **mine)


def parse_labels(text: str) -> dict[int, str]:
    """Return label -> name from text such as `1=heart,2=spinal cord`; raises OptionError for anything else."""
    found: dict[int, str] = {}
    for part in text.split(","):
        number, _, name = part.partition("=")
        if not re.fullmatch(r"\s*\d{1,3}\s*", number, re.ASCII) or not name.strip() or {*"=;"} & {*name}:
            raise OptionError(f"--labels: expected pairs such as 1=heart,2=spinal cord, got {text!r}.")
        if int(number) in found:
            raise OptionError(f"--labels: label {int(number)} is named twice in {text!r}.")
        found[int(number)] = name.strip()
    return found


def with_words(card: Card, about: About) -> Card:
    """Return the card with what is said about it; raises OptionError for labels that it does not have."""
    words = {
        key: value
        for key, value in vars(about).items()
        if key not in ("labels", "name", "orientation") and value is not None
    }
    labels = dict(card.labels)
    if about.labels is not None:
        if unknown := sorted(set(about.labels) - set(labels)):
            raise OptionError(
                f"--labels: {card.name} has the labels {', '.join(map(str, sorted(labels)))}, not "
                f"{', '.join(map(str, unknown))}."
            )
        named = {label: structures.named(name, label) for label, name in about.labels.items()}
        labels = {**labels, **named}
        if len({structure.key for structure in labels.values()}) < len(labels):
            raise OptionError("--labels: two labels would be the same structure; give them different names.")
        card = _without_rules_for(card, {n for n in named if labels[n].key != card.labels[n].key}, about)
    name = card.name if about.name is None else checked_name(about.name)
    if about.orientation is not None:
        if card.nnunet is not None and card.nnunet.reader.endswith("WithReorient"):
            raise OptionError(
                f"--orientation: {card.name} was trained with a reader that turns every image to {REORIENTED}, and so "
                "is it done here. Leave --orientation away."
            )
        words["input"] = replace(card.input, orientation=about.orientation)
    return replace(card, name=name, labels=labels, **words)


def _without_rules_for(card: Card, renamed: set[int], about: About) -> Card:
    """Return the card without clean-up and tumor rules where they speak of labels that now mean something else."""
    used = {label for region in card.postprocess.regions for label in (*region.labels, region.write)}
    if card.tumors is not None:
        used |= {card.tumors.label, card.tumors.host_label}
    if not used & renamed:
        return card
    return replace(card, postprocess=Cleanup((), ()), tumors=None, task=about.task or "other")


def checked_name(name: str) -> str:
    """Return a name for a checkpoint; raises OptionError unless it is a plain file name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name, re.ASCII):
        raise OptionError(
            f"--name: expected letters, digits, '.', '_' and '-', at most 80 of them, got {name!r:.100}."
        )
    return name


def plain_name(text: str) -> str:
    """Return a name for a checkpoint made of any text: lower case, hyphens between words."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9.]+", "-", ascii_text).strip("-.")[:80] or "model"


def files_of(paths: Mapping[str, Path]) -> tuple[CardFile, ...]:
    """Return weights as a card lists them, by name; they are hashed. Raises CheckpointError when one is gone."""
    found = []
    for name, path in paths.items():
        try:
            found.append(CardFile(name, sha256_file(path), path.stat().st_size, ""))
        except OSError as error:
            raise CheckpointError(
                f"{path}: the weights cannot be read: {error.strerror or error}."
            ) from error
    return tuple(found)


def fold_name(fold: str, path: Path) -> str:
    """Return the name under which a card lists the weights of a fold."""
    return f"fold_{fold}{path.suffix}"


def card_of_plan(plan: NnunetPlan, previous: str | None) -> Card:
    """Return the card of an nnU-Net model; `previous` is the folder of a cascade's first stage."""
    version = {Origin.V1: "1", Origin.V2: "2"}[plan.origin]
    channels = tuple(InputChannel(channel.name[:80] or "image", "image") for channel in plan.channels)
    spacing = plan.spacing_mm
    names = ", ".join(structure.name.lower() for structure in labels_of(plan).values())
    return Card(
        schema=SCHEMA,
        name=plain_name(f"{plan.name} {plan.configuration}"),
        title=f"{plan.name}, {plan.configuration} (nnU-Net {version})"[:200],
        description=f"A model of nnU-Net {version}, trained by {plan.trainer}: {names}. Its files state neither "
        "species, license nor the orientation of the training images."[:2000],
        task="other",
        species="not stated",
        modality=_modality(plan),
        labels=labels_of(plan),
        channels=channels,
        architecture=Step(plan.architecture, dict(plan.architecture_arguments)),
        input=ExpectedInput(
            orientation=REORIENTED if plan.reader.endswith("WithReorient") else "ijk",
            spacing_mm=tuple(spacing[a] for a in plan.transpose_backward) if len(spacing) == 3 else None,
            spacing_tolerance=_RESAMPLED_TOLERANCE,
            side_known=True,
            stack_spacing_mm=None,
            stack_shape=None,
            intensity=(),
        ),
        preprocess=(),
        inference=Inference(
            mode="nnunet",
            patch_size=None,
            step=0.5,
            blending="gaussian",
            averaging="probabilities" if plan.origin is Origin.V1 else "logits",
            temperature=1.0,
            temperature_reason="none",
        ),
        nnunet=replace(plan, folds={}),
        previous=previous,
        lungs_from=None,
        postprocess=Cleanup((), ()),
        tumors=None,
        weights=(),
        samples=(),
        source=LOCAL,
        license="not stated",
        citation="not stated",
        validation="None by ThoraxSeg.",
        assumed=(),
    )


def card_of_bundle(bundle: MonaiBundle) -> Card:
    """Return the card of a MONAI bundle, still without weights; raises CheckpointError for overlapping outputs."""
    outputs = int(bundle.architecture_arguments["classes"])
    if bundle.activation == "sigmoid" and (outputs > 1 or bundle.threshold != 0.5):
        raise CheckpointError(
            f"{bundle.folder}: its {outputs} output(s) are each by itself above {bundle.threshold}; known are one such "
            "output above 0.5, or several of which the largest wins."
        )
    labels = {
        label: structures.named(bundle.labels[label], label) for label in sorted(bundle.labels) if label
    }
    if bundle.activation == "sigmoid":  # its only output is label 1
        labels = {1: structures.named(next(iter(bundle.labels.values()), "label 1"), 1)}
    return Card(
        schema=SCHEMA,
        name=plain_name(bundle.name),
        title=f"{bundle.name} {bundle.version} (MONAI bundle)"[:200],
        description=bundle.description[:2000],
        task="other",
        species="not stated",
        modality=bundle.modality if bundle.modality in MODALITIES else "not stated",
        labels=structures.all_different(labels),
        channels=tuple(InputChannel(name[:80] or "image", "image") for name in bundle.channels),
        architecture=Step(bundle.architecture, dict(bundle.architecture_arguments)),
        input=ExpectedInput(
            orientation=bundle.orientation or "kji",
            spacing_mm=None,
            spacing_tolerance=_RESAMPLED_TOLERANCE,
            side_known=True,
            stack_spacing_mm=None,
            stack_shape=None,
            intensity=(),
        ),
        preprocess=tuple(
            Step(step["name"], {key: value for key, value in step.items() if key != "name"})
            for step in bundle.steps
        ),
        inference=Inference(
            mode="whole" if bundle.patch_size is None else "sliding-window",
            patch_size=bundle.patch_size,
            step=1 - bundle.overlap,
            blending=bundle.blending,
            averaging="logits",
            temperature=1.0,
            temperature_reason="none",
        ),
        nnunet=None,
        previous=None,
        lungs_from=None,
        postprocess=Cleanup((), ()),
        tumors=None,
        weights=(),
        samples=(),
        source=LOCAL,
        license=bundle.license or "see the bundle's LICENSE",
        citation=bundle.citation or bundle.copyright or "not stated",
        validation="None by ThoraxSeg.",
        assumed=bundle.notes,
    )


def labels_of(plan: NnunetPlan) -> dict[int, Structure]:
    """Return what each label that the model writes stands for, by the model's own names."""
    if plan.regions_class_order is None:
        pairs = [(values[0], name) for name, values in plan.labels.items()]
        return structures.all_different({label: structures.named(name, label) for label, name in pairs})
    # Regions overlap; a label is what its region keeps when later ones have been written over it.
    names, found = list(plan.labels), {}
    for index, (name, label) in enumerate(zip(names, plan.regions_class_order, strict=True)):
        inside = set(plan.labels[name])
        over = [later for later in names[index + 1 :] if inside & set(plan.labels[later])]
        told = f"{name} without {' and '.join(over)}" if over else name
        found[label] = structures.other(told, label) if over else structures.named(name, label)
    return structures.all_different(dict(sorted(found.items())))


def _modality(plan: NnunetPlan) -> str:
    """Return `MRI` where the first channel says so; one called CT may be micro-CT, so nothing else."""
    words = re.findall(r"[a-z0-9]+", plan.channels[0].name.lower())
    return "MRI" if {"mri", "mr", "t1", "t2", "flair"} & set(words) else "not stated"


def chosen_folds(card: Card, folds: Sequence[str] | None) -> list[int]:
    """Return which of the card's weights are the folds wanted, by default all; raises CheckpointError."""
    if folds is None:
        return list(range(len(card.weights)))
    names = {re.sub(r"^fold_|\.[A-Za-z]+$", "", file.name): index for index, file in enumerate(card.weights)}
    if missing := [fold for fold in folds if fold not in names]:
        raise CheckpointError(
            f"checkpoint {card.name}: has no fold {', '.join(missing)}; its folds are {', '.join(names)}."
        )
    return [names[fold] for fold in folds]
