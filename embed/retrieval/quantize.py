"""Quantize embeddings for a smaller index: one byte or one bit per dimension."""

import numpy as np


def to_int8(x: np.ndarray) -> np.ndarray:
    """f32[n,e] -> i8[n,e]: each vector scaled by its own largest magnitude, which keeps cosines, and rounded."""
    largest = np.abs(x).max(axis=1, keepdims=True)
    return np.rint(127 * x / np.maximum(largest, np.finfo(np.float32).tiny)).astype(np.int8)


def to_binary(x: np.ndarray) -> np.ndarray:
    """f32[n,e] -> i8[n,e] of signs, -1 and 1; cosine is 1 - 2 · Hamming distance / e. np.packbits(x > 0) packs them."""
    return np.where(x > 0, 1, -1).astype(np.int8)
