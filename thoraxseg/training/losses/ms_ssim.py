"""Multi-scale structural similarity of probabilities and labels."""

from __future__ import annotations

import torch
from torch.nn import functional

from thoraxseg.training.losses.common import Compared, Loss

WINDOW, SIGMA = 11, 1.5
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
C1, C2 = 0.01**2, 0.03**2
FLOOR = 1e-8


class MultiScaleSSIM(Loss):
    """1 - MS-SSIM of p and y, each class of each image an image of its own, mean over all (Wang 2003).

    At every scale the mean of the contrast and structure term, at the coarsest that of the whole SSIM, each to the
    power of its weight. Between scales: mean of 2 voxels along each axis. There are as many scales as the window fits
    (4 at 128 pixels, 5 from 176), the weights renormalized to the sum 1; an axis shorter than the window cuts it.
    Ignored voxels are 0 in both images, so that they show no difference of their own; windows at their edge see them
    as background. Negative means, whose power is undefined, count as 1e-8, so that the other scales still learn.
    MONAI's metric is the same on one class, but refuses smaller images than its scales need, and an image with a
    negative mean teaches it nothing.
    """

    def value(self, compared: Compared) -> torch.Tensor:
        """Return the loss, 0 to 1."""
        size = compared.logits.shape[2:]
        p, y = (t.reshape(-1, 1, *size) for t in (compared.probabilities, compared.target))
        weights = SCALE_WEIGHTS[: count_scales(min(size))]
        similarity = p.new_ones(len(p))
        for scale, weight in enumerate(weights, start=1):
            ssim, contrast = _similarity(p, y)
            term = ssim if scale == len(weights) else contrast
            similarity = similarity * term.clamp_min(FLOOR) ** (weight / sum(weights))
            if scale < len(weights):
                p, y = _halved(p), _halved(y)
        return 1 - similarity.mean()


def count_scales(shortest: int) -> int:
    """Return how many scales, 1 to 5, leave room for the window in an image whose shortest axis is given."""
    return sum(shortest >> scale >= WINDOW for scale in range(len(SCALE_WEIGHTS))) or 1


def _halved(images: torch.Tensor) -> torch.Tensor:
    pool = functional.avg_pool2d if images.ndim == 4 else functional.avg_pool3d
    return pool(images, kernel_size=2)


def _similarity(p: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the means of SSIM and of its contrast and structure part, `(B,)` each, over all full windows."""
    # Around 0.5, since the variance is a difference of squares: smaller squares lose fewer digits.
    p, y = p - 0.5, y - 0.5
    mean_p, mean_y, pp, yy, py = _blurred(torch.cat([p, y, p * p, y * y, p * y], dim=1)).unbind(dim=1)
    variances = pp - mean_p**2 + yy - mean_y**2
    contrast = (2 * (py - mean_p * mean_y) + C2) / (variances + C2)
    mean_p, mean_y = mean_p + 0.5, mean_y + 0.5
    luminance = (2 * mean_p * mean_y + C1) / (mean_p**2 + mean_y**2 + C1)
    return (luminance * contrast).flatten(1).mean(dim=1), contrast.flatten(1).mean(dim=1)


def _blurred(images: torch.Tensor) -> torch.Tensor:
    """Return the Gaussian means of `(B, C, *S)` over all windows that fit, one axis after the other."""
    channels, axes = images.shape[1], images.ndim - 2
    convolve = functional.conv2d if axes == 2 else functional.conv3d
    for axis in range(axes):
        length = min(WINDOW, images.shape[2 + axis])
        offsets = torch.arange(length, dtype=torch.float64) - (length - 1) / 2
        kernel = torch.exp(-(offsets**2) / (2 * SIGMA**2))
        shape = [1] * axes
        shape[axis] = length
        kernel = (kernel / kernel.sum()).to(images).reshape(1, 1, *shape).expand(channels, 1, *shape)
        images = convolve(images, kernel, groups=channels)
    return images
