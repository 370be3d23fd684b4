"""Several checkpoints as one: the parts, what each counts, and a card that speaks for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from thoraxseg.checkpoints.card import Cleanup
from thoraxseg.checkpoints.catalog import Checkpoint
from thoraxseg.errors import CheckpointError, OptionError

SPACES = ("probabilities", "logits")


def ensemble_of(
    members: Sequence[Checkpoint], shares: Sequence[float] | None = None, space: str = "probabilities"
) -> Checkpoint:
    """Return the ensemble of checkpoints that find the same structures under the same labels.

    `shares` are what each counts, not negative; they are divided by their sum, and equal by default. Raises
    OptionError for wrong shares, CheckpointError for members that do not belong together.
    """
    shares = [1.0] * len(members) if shares is None else [float(share) for share in shares]
    if len(members) < 2:
        raise OptionError("an ensemble needs two or more checkpoints: give --checkpoint several times.")
    if len(shares) != len(members):
        raise OptionError(
            f"--shares: expected {len(members)} numbers, one for each checkpoint, got {len(shares)}."
        )
    if not all(0 <= share < 1e6 for share in shares) or sum(shares) == 0:
        raise OptionError(f"--shares: expected numbers of 0 and more, one of them above 0, got {shares}.")
    if space not in SPACES:
        raise OptionError(f"--ensemble-on: expected {' or '.join(SPACES)}, got {space!r}.")
    first = members[0].card
    for member in members:
        if member.card.nnunet is not None and member.card.nnunet.regions_class_order is not None:
            raise CheckpointError(
                f"checkpoint {member.card.name}: its outputs are overlapping regions, which cannot be averaged with "
                "others. Leave it out of the ensemble."
            )
        labels = [{label: item.key for label, item in card.labels.items()} for card in (first, member.card)]
        if labels[0] != labels[1]:
            raise CheckpointError(
                f"checkpoints {first.name} and {member.card.name} find different structures ({labels[0]} and "
                f"{labels[1]}), so they cannot be averaged."
            )
    total = sum(shares)
    names = [member.card.name for member in members]
    widest = max((member.card for member in members), key=lambda card: len(card.channels))
    card = replace(
        first,
        name=" + ".join(names),
        title=f"Ensemble of {', '.join(names)}",
        description=f"The weighted average of {len(members)} checkpoints, on {space}.",
        channels=widest.channels,
        license="; ".join(dict.fromkeys(member.card.license for member in members)),
        citation="; ".join(dict.fromkeys(member.card.citation for member in members)),
        validation="None by ThoraxSeg.",
        inference=replace(first.inference, mode="whole", temperature=1.0),
        nnunet=None,
        previous=None,
        postprocess=Cleanup((), ()),
        weights=(),
        samples=(),
        assumed=(),  # the members tell what theirs is
    )
    return Checkpoint(
        card, (), members=tuple(members), shares=tuple(share / total for share in shares), space=space
    )
