"""CPU: what the quickstart runs on, with two cores."""

from ml_collections import config_dict

from configs import base


def get_config() -> config_dict.ConfigDict:
    config = base.get_config()
    config.unroll = 4
    return config
