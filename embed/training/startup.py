"""What a program does before its first line: joins the pod, checks its folders, sets up logs and the compile cache."""

import logging
import os

import jax
from absl import logging as absl_logging
from ml_collections import ConfigDict

from embed.distributed import storage
from embed.distributed.devices import skip_absent_tpu


def set_up_logging() -> None:
    """Log with the time of day, without what libraries say of their own work."""
    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(absl_logging.INFO)
    absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for library in (
        "orbax",
        "absl",
        "fsspec",
        "httpx",
        "httpx2",
        "jax._src.xla_bridge",
    ):  # the last one tries every kind of device
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # orbax's reads, whose errors are raised as well


def set_up_jax(workdir: str) -> None:
    """Join the other hosts of a pod, and keep compiled programs so that stages and restarts do not compile twice.

    Raises StorageError where `workdir` is in a bucket that cannot be used.
    """
    skip_absent_tpu()
    join_pod()
    storage.check_access(storage.path(workdir))
    jax.config.update("jax_compilation_cache_dir", storage.absolute(storage.path(workdir) / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def check_folders(config: ConfigDict) -> None:
    """Raise StorageError where one of a config's folders is in a bucket that cannot be used."""
    for name in (config.workdir, config.data, config.pairs):
        storage.check_access(storage.path(name))


def join_pod() -> None:
    """Join the other hosts of a pod; does nothing on a single host."""
    if "JAX_COORDINATOR_ADDRESS" in os.environ:  # launch/simulate.sh, or a cluster that JAX does not know
        jax.distributed.initialize(
            os.environ["JAX_COORDINATOR_ADDRESS"],
            int(os.environ["JAX_NUM_PROCESSES"]),
            int(os.environ["JAX_PROCESS_ID"]),
        )
    elif "EMBED_POD" in os.environ or os.environ.get("TPU_WORKER_HOSTNAMES", "").count(","):
        # Set by launch/worker.sh or by GKE. JAX finds the other hosts in the environment or in a TPU VM's metadata.
        jax.distributed.initialize()
