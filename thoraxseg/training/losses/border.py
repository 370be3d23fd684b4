"""Labels -> weights that are large between objects that nearly touch (Ronneberger 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thoraxseg.errors import InputError
from thoraxseg.training.batch import IGNORE
from thoraxseg.training.losses.values import class_numbers, number, positive


def border_weights(
    labels: np.ndarray, class_weights: Sequence[float], sigma: float = 5.0, w0: float = 10.0
) -> np.ndarray:
    """Return class weight + w0 · exp(-(d1 + d2)² / (2 sigma²)) of each voxel, float32, for labels `(*S)`, 2-D or 3-D.

    d1 and d2 are the distances, in voxels between centers, to the nearest two objects (0 inside one). An object is a
    connected part of one class other than the background; voxels that share an edge or a corner are connected. So
    borders between touching classes, such as a tumor in a lung, are heavy on both sides; with fewer than two objects
    there is no border. `IGNORE` is no object and weighs 0. Terms below w0 · 2e-8 are left out.
    Raises InputError for a label without a weight, OptionError for weights that are not positive numbers.
    """
    from scipy import ndimage

    weights = np.array(class_numbers("class_weights", list(class_weights), len(class_weights)))
    sigma, w0 = positive("sigma", sigma), number("w0", w0, low=0)
    known = labels != IGNORE
    if known.any() and not 0 <= labels[known].min() <= labels[known].max() < len(weights):
        raise InputError(
            f"labels: expected values from 0 to {len(weights) - 1}, as many as there are class weights, "
            f"got values from {labels[known].min()} to {labels[known].max()}."
        )
    # Farther than this the term is below the last digit of a float32, and an object need not be looked at.
    reach = 6 * sigma
    nearest, second = np.full((2, *labels.shape), np.inf)
    for value in np.unique(labels[known & (labels > 0)]):
        parts, _ = ndimage.label(labels == value, structure=np.ones((3,) * labels.ndim))
        for part, box in enumerate(ndimage.find_objects(parts), start=1):
            around = tuple(
                slice(max(0, side.start - int(reach) - 1), side.stop + int(reach) + 1) for side in box
            )
            distance = ndimage.distance_transform_edt(parts[around] != part)
            second[around] = np.minimum(second[around], np.maximum(nearest[around], distance))
            nearest[around] = np.minimum(nearest[around], distance)
    border = w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    of_class = weights[np.where(known, labels, 0)]
    return np.where(known, of_class + border, 0).astype(np.float32)
