"""The devices of a TPU slice, on a host without one, to compile for. Needs libtpu: pip install -e ".[tpu]"."""

import importlib.util
import os
import re

import jax
from jax.experimental import topologies

from embed.training.config_check import ConfigError

# libtpu reads these when it is loaded. Without them it looks for this host's TPU, and complains that there is none.
os.environ |= {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}

jax.config.update("jax_platforms", "cpu")  # whatever else this host has
CHOICES = "v5e:4x4, v5p:4x4x4, v6e:16x16 and other shapes of v5e, v5p and v6e"


def slice_devices(topology: str) -> list[jax.Device]:
    """Return the devices of a slice. Raises ConfigError where there is no such slice, or no libtpu."""
    if not re.fullmatch(r"v(5e|5p|6e):\d+x\d+(x\d+)?", topology):
        raise ConfigError(f"--topology={topology}: not a TPU slice; choices: {CHOICES}")
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError('compiling for a TPU needs libtpu: pip install -e ".[tpu]"')
    try:
        return topologies.get_topology_desc(topology, platform="tpu").devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise ConfigError(f"--topology={topology}: {reason}; choices: {CHOICES}") from error
