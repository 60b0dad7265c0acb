import numpy as np

from embed.retrieval.quantize import to_binary, to_int8


def test_a_byte_a_number_keeps_cosines_and_ignores_length():
    x = np.random.default_rng(0).normal(size=(50, 256)).astype(np.float32)
    coarse = to_int8(x)
    assert coarse.dtype == np.int8 and np.abs(coarse).max(axis=1).tolist() == [127] * 50
    assert np.array_equal(to_int8(1000 * x), coarse)
    exact, rounded = x.astype(float), coarse.astype(float)
    cosines = [(a @ a.T) / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(a, axis=1)) for a in (exact, rounded)]
    assert np.abs(cosines[0] - cosines[1]).max() < 5e-3
    assert not to_int8(np.zeros((1, 4), np.float32)).any()


def test_signs_give_hamming_distances():
    x, y = np.random.default_rng(1).normal(size=(2, 40, 64)).astype(np.float32)
    hamming = np.bitwise_count(np.packbits(x > 0, axis=1) ^ np.packbits(y > 0, axis=1)).sum(axis=1)
    cosine = (to_binary(x).astype(float) * to_binary(y)).sum(axis=1) / 64
    assert np.allclose(cosine, 1 - 2 * hamming / 64)
