"""A 2-D network over a stack, slice by slice along k."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np

from thoraxseg.progress import Progress, each, silent

Scores = Callable[[np.ndarray], np.ndarray]


def predict_slices(
    scores: Scores, image: np.ndarray, batch: int, cores: int, progress: Progress = silent
) -> np.ndarray:
    """Return `(L, K, J, I)` float32 scores of `image` `(C, K, J, I)`.

    `scores` maps `(N, C, J, I)` to `(N, L, J, I)` for N up to `batch`, and may be called from `cores`
    threads at once, each of which computes on one core.
    """
    starts = range(0, image.shape[1], batch)
    out: np.ndarray | None = None
    batches = [np.ascontiguousarray(image[:, start : start + batch].swapaxes(0, 1)) for start in starts]
    # Closing ends the threads when progress cancels; else they would go on until the error is forgotten.
    with closing(_answers(scores, batches, cores)) as answers:
        for start in each(starts, progress, "Looking at slices"):
            answer = next(answers)
            if out is None:
                out = np.empty((answer.shape[1], *image.shape[1:]), dtype=np.float32)
            out[:, start : start + batch] = answer.swapaxes(0, 1)
    return out


def _answers(scores: Scores, batches: list[np.ndarray], cores: int) -> Iterator[np.ndarray]:
    """Yield the scores of each batch in order.

    One slice a core beats all cores on one slice: nobody waits at the end of every layer, which on a
    busy machine costs several times the work, and the sums do not depend on the number of cores.
    """
    if cores == 1:
        yield from map(scores, batches)
        return
    pool = ThreadPoolExecutor(cores, initializer=_use_cores, initargs=(1,))
    try:
        yield from pool.map(scores, batches)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        _use_cores(cores)  # the setting reaches beyond the threads of the pool


def _use_cores(cores: int) -> None:
    import torch

    torch.set_num_threads(cores)
