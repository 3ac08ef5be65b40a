"""INT4 tensors as checkpoints store them unpack exactly: rows of the identity meet one weight a
group, whose sum q - z and product with s are exact in f32, whatever order the linear sums in."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from dream_r import _core
from int4 import AWQ, PACKED, Int4, awq_words, packed_zeros, random_int4, words

ops = _core.ops


def unpacked(weight) -> np.ndarray:
    """W[n, k], by multiplying with the identity."""
    return ops.linear(ops.Stream(1), np.eye(weight.k, dtype=np.float32), weight).T


@pytest.mark.parametrize("group", [32, 64, 128])
def test_awq_words_unpack_exactly(group):
    w = random_int4(24, 2 * group, group)
    ours = ops.pack_w4(ops.Stream(1), AWQ, awq_words(w.q), w.s.T, awq_words(w.z), group)
    assert np.array_equal(unpacked(ours), w.dense())


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("symmetric", [True, False])
def test_packed_words_unpack_exactly(group, symmetric):
    w = random_int4(21, 2 * group, group, symmetric)
    zeros = None if symmetric else packed_zeros(w.z)
    ours = ops.pack_w4(ops.Stream(1), PACKED, words(w.q), w.s, zeros, group)
    assert np.array_equal(unpacked(ours), w.dense())


@pytest.fixture(scope="module")
def autoawq():
    """Its packing_utils alone: the package imports models that newer transformers have not."""
    spec = importlib.util.find_spec("awq")
    if spec is None:
        pytest.skip("autoawq is not installed (pip install --no-deps autoawq==0.2.9)")
    path = Path(spec.submodule_search_locations[0]) / "utils" / "packing_utils.py"
    spec = importlib.util.spec_from_file_location("packing_utils", path)
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    return library


@pytest.mark.parametrize("group", [32, 64, 128])
def test_any_awq_words_unpack_as_the_library_unpacks_them(autoawq, group):
    rng = np.random.default_rng(group)
    limits = np.iinfo(np.int32)
    any_words = lambda *shape: rng.integers(limits.min, limits.max, shape, np.int32, True)  # noqa: E731
    q, z = any_words(4 * group, 5), any_words(4, 5)
    s = random_int4(40, 4 * group, group).s.T.copy()
    ours = ops.pack_w4(ops.Stream(1), AWQ, q, s, z, group)
    theirs = autoawq.dequantize_gemm(*map(torch.from_numpy, (q, z, s)), 4, group)
    assert np.array_equal(unpacked(ours), theirs.numpy().T)


def test_awq_words_are_written_as_the_library_reads_them(autoawq):
    w = random_int4(24, 256, 128)
    arrays = (torch.from_numpy(a) for a in (awq_words(w.q), awq_words(w.z), w.s.T.copy()))
    assert np.array_equal(autoawq.dequantize_gemm(*arrays, 4, 128).numpy().T, w.dense())


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_librarys_packed_tensors_unpack_exactly(symmetric):
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    w = random_int4(24, 192, 64, symmetric)
    args = QuantizationArgs(num_bits=4, strategy="group", group_size=64, symmetric=symmetric)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    state = {
        "weight": torch.from_numpy(w.dense()),
        "weight_scale": torch.from_numpy(w.s),
        "weight_zero_point": torch.from_numpy(w.z - 8).to(torch.int8),
    }
    state = PackedQuantizationCompressor.compress(state, scheme)
    zeros = None if symmetric else state["weight_zero_point"].numpy()
    scales = state["weight_scale"].numpy()
    ours = ops.pack_w4(ops.Stream(1), PACKED, state["weight_packed"].numpy(), scales, zeros, 64)
    theirs = PackedQuantizationCompressor.decompress(state, scheme)["weight"].numpy()
    assert np.array_equal(unpacked(ours), theirs)
    assert np.array_equal(theirs, w.dense())


def test_small_oracle_spreads_what_it_quantises():
    w = Int4(np.array([[0, 15] * 16]), np.array([[3]]), np.array([[0.5]], dtype=np.float32))
    assert w.dense()[0, :2].tolist() == [-1.5, 6.0]
