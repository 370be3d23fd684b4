"""Before a run: traffic lights for a volume, what can be corrected on a copy, and the region of interest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from slicer.i18n import tr as _

from thoraxseg.errors import CheckpointError, InputError, OptionError, ThoraxSegError
from thoraxseg.mrml import volume_from_node, volume_to_node
from thoraxseg.mrml.grids import class_name, from_vtk, grid_of, local_to_world, node_name
from thoraxseg.precheck import FIXES, Light, lights, lights_without
from thoraxseg.volume import MAX_SPACING_MM, MIN_SPACING_MM, Box
from ThoraxSegLib import Nodes

if TYPE_CHECKING:
    from thoraxseg.checkpoints import Card
    from ThoraxSegLib.Logic import ThoraxSegLogic

ROUNDING_VOXELS = 1e-6
"""A region that ends this close to an edge of a voxel ends at the edge."""


class Preflight:
    """What can be told about a volume before it is run, and corrected on a copy."""

    def __init__(self, logic: ThoraxSegLogic) -> None:
        self.logic = logic
        self._latest: tuple[tuple, list[Light]] | None = None

    def lights(
        self, volumeNode, checkpointName: str, roiNode=None, device: str = "auto", channelNodes: Sequence = ()
    ) -> list[Light]:
        """Return one light for each of `thoraxseg.precheck.KEYS`; a volume that cannot be used is red with the reason.

        The same question about an unchanged volume is answered from memory, so that panels may ask often. Nothing is
        raised for a wrong volume, checkpoint or region; OptionError for an unknown device only.
        """
        try:
            card, problem = self.logic.catalog.card(checkpointName), ""
        except CheckpointError as error:
            card, problem = None, str(error)
        nodes = (volumeNode, roiNode, *channelNodes)
        asked = (card.sha256 if card is not None else problem, device, *map(Nodes.stateOf, nodes))
        if self._latest is None or self._latest[0] != asked:
            self._latest = (asked, self._look(card, problem, volumeNode, roiNode, device, channelNodes))
        return list(self._latest[1])

    def _look(
        self, card: Card | None, problem: str, volumeNode, roiNode, device: str, channelNodes: Sequence
    ) -> list[Light]:
        if volumeNode is not None and volumeNode.IsA("vtkMRMLLabelMapVolumeNode"):
            said = _("{name} is a label map, not an image. Choose the image.").format(
                name=volumeNode.GetName()
            )
            return lights_without(said, "intensity")
        try:
            volume = volume_from_node(volumeNode)
        except InputError as error:
            return lights_without(str(error), _lightOfUnusable(volumeNode))
        if card is None:
            return lights_without(problem)
        try:
            others = [volume_from_node(node) for node in channelNodes]
        except InputError as error:
            return lights_without(str(error))
        try:
            box = self.boxOf(roiNode, volumeNode)
        except ThoraxSegError as error:
            return lights_without(str(error), "field_of_view")
        return lights(volume, card, device, box, others)

    def fix(self, volumeNode, key: str, **arguments):
        """Return a new volume node with a light's fix applied: "mouse (spacing set)", beside the user's volume.

        `key` is one of `thoraxseg.precheck.FIXES`, `arguments` are what it asks for. The user's volume is not altered.
        What was done is kept with the new node, and so in the record of its results. It is true of the patient, the
        parent transform included: the new volume has the same parent, unless that stretches (then none). Raises
        OptionError for an unknown fix or wrong arguments, InputError for a volume that cannot be used.
        """
        if key not in FIXES:
            raise OptionError(
                _("Unknown fix {key}; known are {known}.").format(key=repr(key), known=", ".join(FIXES))
            )
        fix = FIXES[key]
        if set(arguments) != set(fix.parameters):
            raise OptionError(
                _("{title}: expected {wanted}, got {given}.").format(
                    title=fix.title,
                    wanted=", ".join(f"{name} ({what})" for name, what in fix.parameters.items())
                    or _("nothing"),
                    given=", ".join(arguments) or _("nothing"),
                )
            )
        corrected = fix.apply(volume_from_node(volumeNode), **arguments)
        name = Nodes.savableName(f"{volumeNode.GetName()} ({fix.done})")
        node = volume_to_node(corrected, volumeNode, name=name)
        Nodes.placeBeside(node, volumeNode)
        return node

    def boxOf(self, roiNode, volumeNode) -> Box | None:
        """Return the voxels that a region of interest touches, `((k0, k1), (j0, j1), (i0, i1))` half open.

        None stands for the whole volume. A turned region (or a volume turned against it, by its axes or by transforms)
        gives the smallest box of voxels around all its corners. Parts outside the volume are left out. Raises
        OptionError when nothing is left, or the node is no region or has not been placed; InputError for a volume that
        cannot be used.
        """
        if roiNode is None:
            return None
        name = node_name(roiNode)
        if not (hasattr(roiNode, "IsA") and roiNode.IsA("vtkMRMLMarkupsROINode")):
            raise OptionError(
                _("{name}: expected a region of interest, got {kind}. Choose a Markups ROI.").format(
                    name=name, kind=class_name(roiNode)
                )
            )
        if not all(size > 0 for size in roiNode.GetSize()):
            raise OptionError(
                _("The region {name} has not been placed. Place it around the chest, or choose none.").format(
                    name=name
                )
            )
        grid = grid_of(volumeNode)
        local_to_world(roiNode)  # refuses a transform that no box survives
        half = np.divide(roiNode.GetSize(), 2)
        corners = np.array([(*np.multiply(signs, half), 1.0) for signs in product((-1, 1), repeat=3)])
        ijk = np.linalg.solve(grid.world, from_vtk(roiNode.GetObjectToWorldMatrix()) @ corners.T)[:3]
        # A voxel reaches half a step to either side of its center.
        first = np.floor(ijk.min(axis=1) + 0.5 + ROUNDING_VOXELS)[::-1].astype(int)
        last = np.ceil(ijk.max(axis=1) + 0.5 - ROUNDING_VOXELS)[::-1].astype(int)
        box = tuple(
            (max(0, int(low)), min(size, int(high)))
            for low, high, size in zip(first, last, grid.shape, strict=True)
        )
        if any(low >= high for low, high in box):
            raise OptionError(
                _(
                    "The region {name} lies outside of {volume}. Move it onto the volume, or choose none."
                ).format(name=name, volume=node_name(volumeNode))
            )
        return box


def _lightOfUnusable(volumeNode) -> str:
    """Return which light tells that a volume cannot be used: what it holds, how large its voxels are, or its axes."""
    image = volumeNode.GetImageData() if hasattr(volumeNode, "GetImageData") else None
    scalars = image.GetPointData().GetScalars() if image is not None else None
    if scalars is None or scalars.GetNumberOfTuples() == 0 or scalars.GetNumberOfComponents() != 1:
        return "channels"
    isOdd = not all(MIN_SPACING_MM <= spacing <= MAX_SPACING_MM for spacing in volumeNode.GetSpacing())
    return "spacing" if isOdd else "orientation"
