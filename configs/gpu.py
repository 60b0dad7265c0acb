"""One GPU of 40 GiB or more: EmbeddingGemma 2's size in bfloat16. Set --config.microbatch lower for less memory."""

from ml_collections import config_dict

from configs import base


def get_config() -> config_dict.ConfigDict:
    config = base.get_config()
    config.update({"model": "embeddinggemma2", "dtype": "bfloat16", "remat": True, "microbatch": 1 << 15})
    config.update({"workers": 8, "save": 500})
    return config
