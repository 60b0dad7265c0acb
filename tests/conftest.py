"""Eight CPU devices, a mesh for every test, and a small world to run in."""

import dataclasses
import importlib.metadata
import importlib.util
import logging
import os
import pathlib
import signal

# Most of a test's time is compiling: leave the code unoptimised, and share what is compiled between the workers. The
# second flag: a program that is read from the cache may start its collectives in another order on every device, and
# wait for ever (as loss/test_extras.py did with jax 0.10.2 and 0.12.0). The third leaves 0.4 to 0.6 of the rest; a
# version that does not know a flag would not start.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] += " --xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
if importlib.metadata.version("jaxlib") == "0.10.2":
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

import jax

COMPILED = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "compiled"
jax.config.update("jax_compilation_cache_dir", str(COMPILED))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_num_cpu_devices", int(os.environ.get("JAX_NUM_CPU_DEVICES", 8)))
jax.config.update("jax_numpy_rank_promotion", "raise")

import pytest  # noqa: E402
from absl import flags  # noqa: E402
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402

from embed.data.preprocess import Preprocessor  # noqa: E402
from embed.data.tokenizer import Tokenizer, train_tokenizer  # noqa: E402
from embed.distributed.mesh import make_mesh  # noqa: E402
from embed.model.config import AttentionSpec  # noqa: E402
from embed.model.presets import TINY  # noqa: E402

# A shell that runs the tests in the background has them ignore Ctrl-C, and so every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
flags.FLAGS.mark_as_parsed()  # grain's worker processes read absl flags

if importlib.util.find_spec("torchvision"):  # for the processors of transformers, which use its Python part alone
    import torch

    try:
        import torchvision
    except RuntimeError:  # its compiled part is not of this torch: name the operators it would have brought
        operators = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401

SENTENCES = ["a red square on the left", "def f(x): return x", "größer als <|image|>"] * 20  # for a tokenizer

# Every feature of the architecture, as small as the meshes allow.
ARCH = dataclasses.replace(
    TINY,
    vocab_size=512,
    d_model=32,
    d_ff=64,
    layer_groups=2,
    per_layer_dim=8,
    local_attention=AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=8, rope_theta=1e4, window=4),
    global_attention=AttentionSpec(num_heads=4, num_kv_heads=1, head_dim=16, rope_theta=1e6, partial_rotary_factor=0.5),
    matryoshka_dims=(8, 16, 32),
)


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(make_mesh((1, 1, 1))):
        yield


@pytest.fixture
def process_state():
    """Puts back what a command sets for its process: the folder of compiled programs, and who logs where."""
    root, folder = logging.getLogger(), jax.config.jax_compilation_cache_dir
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(SENTENCES, ARCH.vocab_size)


@pytest.fixture
def preprocessor(tokenizer) -> Preprocessor:
    return Preprocessor(tokenizer, ARCH.media)


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    return pathlib.Path(__file__).parent.parent
