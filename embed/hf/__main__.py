"""Models in and out of the Hugging Face layout.

`python -m embed.hf import FOLDER RUN`         a published model as a checkpoint: to train, average, score, embed with
`python -m embed.hf export CHECKPOINT FOLDER`  a run or soup as a folder for transformers and sentence-transformers
"""

import argparse
import logging
import sys

from embed.hf import hub
from embed.hf.export import export
from embed.hf.load import import_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m embed.hf", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("import", help="read a model's folder into a checkpoint")
    command.add_argument("folder", help="of config.json, safetensors, tokenizer.json; or owner/model@COMMIT")
    command.add_argument("run", help="where to")
    command.set_defaults(do=lambda given: import_checkpoint(hub.resolve(given.folder), given.run))
    command = commands.add_parser("export", help="write a checkpoint in the Hugging Face layout")
    command.add_argument("checkpoint", help="a run's or soup's folder, or one checkpoints/STEP of it")
    command.add_argument("folder", help="where to: new, or an empty folder, which is replaced when all is written")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    command.set_defaults(do=lambda given: export(given.checkpoint, given.folder, given.dtype))
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("embed").setLevel(logging.INFO)  # what was dropped, what is new
    try:
        given.do(given)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
