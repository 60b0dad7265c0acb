"""A v5p slice of 64 chips: the EmbeddingGemma-2-sized trunk, parameters sharded over all of it."""

from ml_collections import config_dict

from configs import cpu


def get_config() -> config_dict.ConfigDict:
    config = cpu.get_config()
    with config.ignore_type():
        config.update({"model": "base", "dtype": "bfloat16", "remat": True, "unroll": 1, "workers": 8, "save": 500})
    return config
