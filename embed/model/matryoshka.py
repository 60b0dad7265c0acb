"""Matryoshka embeddings (arXiv 2205.13147): prefixes of a vector are embeddings too, once renormalized."""

import numpy as np


def truncate_dim(vectors: np.ndarray, width: int) -> np.ndarray:
    """f32[n,e] -> f32[n,width]: the first `width` dimensions at unit norm; a zero prefix stays zero.

    Raises ValueError where width is not in 1..e, or a value is not finite.
    """
    if not 1 <= width <= vectors.shape[1]:
        raise ValueError(f"cannot truncate vectors of {vectors.shape[1]} dimensions to {width}")
    prefix = np.asarray(vectors[:, :width], np.float32)
    finite = np.isfinite(prefix).all(axis=1)
    if not finite.all():
        raise ValueError(f"{np.count_nonzero(~finite)} of {len(prefix)} embedding vectors are not finite")
    norm = np.linalg.norm(prefix.astype(np.float64), axis=1, keepdims=True)  # squares of small floats underflow in f32
    return np.divide(prefix, norm, out=np.zeros_like(prefix), where=norm > 0, casting="same_kind")
