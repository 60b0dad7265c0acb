"""CPU: what the quickstart runs on, with two cores."""

from ml_collections import config_dict

from configs import base


def get_config() -> config_dict.ConfigDict:
    config = base.get_config()
    config.unroll = 6  # every layer of models of up to 6 groups of 6
    return config
