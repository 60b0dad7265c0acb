"""A v5p slice of 128 chips (accelerator type v5p-256): Gemma 4 12B, parameters sharded over all of it."""

from ml_collections import config_dict

from configs import base


def get_config() -> config_dict.ConfigDict:
    config = base.get_config()
    with config.ignore_type():
        config.update({"model": "gemma4_12b", "microbatch": 1 << 20})
        config.update({"dtype": "bfloat16", "remat": True, "workers": 8, "save": 500})
    return config
