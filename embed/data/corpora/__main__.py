"""python -m embed.data.corpora FOLDER: builds every corpus there."""

import logging
import pathlib
import sys

from embed.data.corpora import build

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(pathlib.Path(sys.argv[1]))
