"""A v5p slice of 64 chips (accelerator type v5p-128): Gemma 4 E2B or E4B, parameters sharded over all of it."""

from ml_collections import config_dict

from configs import base


def get_config() -> config_dict.ConfigDict:
    config = base.get_config()
    with config.ignore_type():
        config.update({"model": "gemma4_e2b", "microbatch": 1 << 19})
        config.update({"dtype": "bfloat16", "remat": True, "workers": 8, "save": 500})
    return config
