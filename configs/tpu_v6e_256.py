"""A v6e slice of 256 chips: EmbeddingGemma 2's size, 16 copies of the parameters, each sharded over 16 chips."""

from ml_collections import config_dict

from configs import base


def get_config() -> config_dict.ConfigDict:
    config = base.get_config()
    with config.ignore_type():
        config.update({"model": "embeddinggemma2", "mesh": (16, 16, 1), "microbatch": 1 << 21})
        config.update({"dtype": "bfloat16", "remat": True, "workers": 8, "save": 500})
    return config
