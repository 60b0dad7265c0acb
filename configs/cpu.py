"""Two CPU cores: what the quickstart runs on."""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    return config_dict.create(
        model="tiny",  # preset in embed/model/presets.py
        mesh=(1, -1, 1),  # replica, data (-1 = the devices that are left), model
        dtype="float32",  # of activations
        remat=False,  # recompute layers in the backward pass: memory for time
        unroll=4,  # groups, and layers of a group, written out in the compiled loops
        microbatch=1 << 18,  # tokens, and patches and frames of towers, encoded at a time (encoder.rows_within)
        workers=0,  # reading processes; 0 = threads
        workdir="runs",
        data="runs/data",  # where the corpora are, or are built
        pairs="",  # a folder of your own datasets (see README.md), trained and evaluated on as well
        checkpoint="",  # what evaluate reads
        like="",  # FOLDER:NAME,... that published scores by the protocol of one of the report's benchmarks
        mteb="",  # what evaluate scores instead of the recipe's tasks: tasks of mteb by comma, or one of its benchmarks
        dim=0,  # the Matryoshka width of that; 0 = all
        forks="",  # which forks of finetune (or pairs) findings runs, by comma; none = all with a hypothesis
        pretrained="",  # a published model for finetune__from_gemma: its folder, or owner/model@COMMIT
        save=50,  # steps between checkpoints
        keep=3,
        log=10,
        steps=0,  # stop every stage after so many steps; 0 = as the experiment says
    )
