"""Every field of a config with its default.

A config is size and hardware alone; experiments say what is trained and how. Other configs change fields of this one;
`--config.FIELD=VALUE` changes one for a single command.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    return config_dict.create(
        model="tiny",  # preset in embed/model/presets.py
        mesh=(1, -1, 1),  # devices by axis: replica, data (-1: all remaining), model
        dtype="float32",  # of activations; parameters and optimizer state are float32
        remat=False,  # recompute each layer in the backward pass: less memory, more time
        unroll=1,  # layer groups, and layers of a group, unrolled in the compiled loops: faster steps, slower compiling
        microbatch=1 << 18,  # tokens, patches and audio frames encoded at a time; smaller needs less memory
        workers=0,  # processes that read data; 0 = threads
        workdir="runs",  # where runs, soups and pages are written
        data="runs/data",  # where the built-in corpora and the tokenizer are, or are built
        pairs="",  # a folder of your own datasets: the recipe trains and evaluates on them too
        pretrained="",  # a published model to start from: its folder, or owner/model@COMMIT
        trust="",  # encoder classes outside `embed` that checkpoints may name, as module:Class, by comma
        eval=100,  # steps between dev scores during training; 0 = never
        save=50,  # steps between checkpoints
        keep=3,  # checkpoints of a run that are kept
        log=10,  # steps between log lines
        steps=0,  # stop every stage after this many steps; 0 = the experiment's own number
    )
