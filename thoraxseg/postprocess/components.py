"""Connected components of a mask: which to keep."""

from __future__ import annotations

import numpy as np

from thoraxseg.segmentation import neighborhood


def drop_small_components(
    mask: np.ndarray, min_size_px: int, connectivity: int, in_slices: bool = False
) -> np.ndarray:
    """Return the bool mask `(K, J, I)` without components of fewer than `min_size_px` voxels.

    With `in_slices` every slice along k stands for itself.
    """
    from scipy.ndimage import label

    components, _ = label(mask, neighborhood(connectivity, in_slices))
    keep = np.bincount(components.ravel()) >= min_size_px
    keep[0] = False
    return keep[components]


def keep_largest(mask: np.ndarray, connectivity: int) -> np.ndarray:
    """Return the bool mask `(K, J, I)` with its largest component alone; of equally large ones all stay.

    Otherwise it would depend on how the array is turned which of them stays. nnU-Net keeps them all too.
    """
    from scipy.ndimage import label

    components, _ = label(mask, neighborhood(connectivity))
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return (sizes == max(sizes.max(), 1))[components]


def drop_border_components(mask: np.ndarray, connectivity: int = 6) -> np.ndarray:
    """Return the bool mask `(K, J, I)` without components that touch a side face (j or i border) of the image.

    Air around a body touches the sides; lungs that leave the field of view at its ends (k) stay.
    """
    from scipy.ndimage import label

    components, count = label(mask, neighborhood(connectivity))
    faces = (components[:, 0], components[:, -1], components[:, :, 0], components[:, :, -1])
    keep = np.ones(count + 1, dtype=bool)
    keep[0] = False
    for face in faces:
        keep[np.unique(face)] = False
    return keep[components]
