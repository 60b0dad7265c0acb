"""Which accelerators this host has."""

import importlib.util
import os
import pathlib

import jax

TPU_VARIABLES = ("TPU_WORKER_HOSTNAMES", "TPU_ACCELERATOR_TYPE", "EMBED_POD")  # of a TPU VM or a pod's container


def has_tpu() -> bool:
    """Return whether this host has a TPU chip, or is configured as if it had."""
    chips = [*pathlib.Path("/dev").glob("accel*"), *pathlib.Path("/dev").glob("vfio/[0-9]*")]
    return bool(chips) or any(name in os.environ for name in TPU_VARIABLES)


def skip_absent_tpu() -> None:
    """Keep JAX from starting an installed libtpu on a host without a TPU, which fails with a page of errors.

    Call it before the first use of a device. It changes nothing where JAX_PLATFORMS is set or an NVIDIA GPU is present.
    """
    has_libtpu = importlib.util.find_spec("libtpu") is not None
    has_gpu = pathlib.Path("/dev/nvidiactl").exists()
    if has_libtpu and not has_tpu() and not has_gpu and not getattr(jax.config, "jax_platforms", ""):
        jax.config.update("jax_platforms", "cpu")
