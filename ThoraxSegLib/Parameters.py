"""What is chosen in the panels and saved with the scene: a typed view of the module's parameter node.

A widget is bound to a parameter by the dynamic property `SlicerParameterName` of its .ui file; a member of a pack is
named like `options.device`. The packs are made from the dataclasses of the engine, so an option is added there.
"""

from __future__ import annotations

import types
from dataclasses import fields
from enum import Enum
from typing import Annotated, Any

import slicer
from slicer.parameterNodeWrapper import Default, WithinRange, parameterNodeWrapper, parameterPack

from thoraxseg.options import SegmentOptions
from thoraxseg.postprocess.cleaning import Cleaning

DEFAULT_OPACITY = 0.6
"""How opaque the overlay of doubt is at first."""


def packFrom(engineClass: type, name: str) -> type:
    """Return a parameter pack with the members, defaults and ranges of a frozen dataclass of the engine."""
    annotations: dict[str, Any] = {}
    for field in fields(engineClass):
        kind = list[str] if isinstance(field.default, tuple) else type(field.default)
        notes = [Default(list(field.default) if isinstance(field.default, tuple) else field.default)]
        if "low" in field.metadata:
            notes.append(WithinRange(field.metadata["low"], field.metadata["high"]))
        annotations[field.name] = Annotated[(kind, *notes)]
    body = {"__annotations__": annotations, "__doc__": engineClass.__doc__, "__module__": __name__}
    return parameterPack(types.new_class(name, exec_body=lambda namespace: namespace.update(body)))


def fromPack(engineClass: type, pack):
    """Return the engine's dataclass with the values of a pack; raises OptionError for values that do not fit."""
    values = {field.name: getattr(pack, field.name) for field in fields(engineClass)}
    return engineClass(
        **{
            name: value if isinstance(value, (Enum, str, int, float)) else tuple(value)
            for name, value in values.items()
        }
    )


def helpOf(engineClass: type, member: str) -> str:
    """Return the help text of a member, as the command line shows it."""
    return next(field.metadata["help"] for field in fields(engineClass) if field.name == member)


OptionsPack = packFrom(SegmentOptions, "OptionsPack")
CleaningPack = packFrom(Cleaning, "CleaningPack")


@parameterNodeWrapper
class ThoraxSegParameterNode:
    """The parameters of the module."""

    # What is contoured, with what, where
    inputVolume: slicer.vtkMRMLScalarVolumeNode
    checkpoint: str
    regionOfInterest: slicer.vtkMRMLMarkupsROINode
    options: OptionsPack
    # The result that is looked at
    segmentation: slicer.vtkMRMLSegmentationNode
    showUncertainty: bool = True
    uncertaintyOpacity: Annotated[float, WithinRange(0, 1)] = DEFAULT_OPACITY
    cleaning: CleaningPack
    # Who looks at it; 0 minutes: nobody said how long it takes by hand
    operatorName: str
    animalName: str
    manualReferenceMinutes: Annotated[float, WithinRange(0, 10000)] = 0.0
    # What is compared
    observerSegmentations: list[slicer.vtkMRMLSegmentationNode]
    mergeLungs: bool = False
    resampleObservers: bool = False
