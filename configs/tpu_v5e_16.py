"""A v5e slice of 16 chips: EmbeddingGemma 2's size, parameters sharded over all of it."""

from ml_collections import config_dict

from configs import base


def get_config() -> config_dict.ConfigDict:
    config = base.get_config()
    with config.ignore_type():
        config.update({"model": "embeddinggemma2", "microbatch": 1 << 17})
        config.update({"dtype": "bfloat16", "remat": True, "workers": 8, "save": 500})
    return config
