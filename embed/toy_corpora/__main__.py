"""Build every toy corpus in a folder: python -m embed.toy_corpora FOLDER"""

import logging
import sys

from embed.distributed import storage
from embed.toy_corpora import build

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    # force: absl, which grain imports, has already configured the root logger
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    build(storage.path(sys.argv[1]))
