"""Builds every corpus in a folder: python -m embed.data.corpora FOLDER"""

import logging
import pathlib
import sys

from embed.data.corpora import build

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    # force: absl, which grain imports, has already taken the root logger
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    build(pathlib.Path(sys.argv[1]))
