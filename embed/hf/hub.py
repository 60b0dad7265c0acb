"""Where a model is: a local folder, or a repository of the Hugging Face hub at a fixed commit."""

import os
import pathlib
import re

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from embed.distributed import storage
from embed.hf.fields import HubError

PINNED = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)@(?P<commit>[0-9a-f]{40})")
NEEDED = ("*.json", "*.safetensors", "*/*.json", "*/*.safetensors")  # no code, nothing pickled


def resolve(name: str | os.PathLike) -> pathlib.Path:
    """Return the folder `name`, or download "owner/model@COMMIT" from the hub, once.

    The commit has all 40 digits: a branch may be another model tomorrow. Raises HubError where there is no such folder
    or model, or the hub cannot be reached.
    """
    path = storage.path(name)
    if not isinstance(path, pathlib.Path):
        raise HubError(
            f"{name}: a published model is read from a local folder: import it into the bucket once with "
            "python -m embed import FOLDER gs://BUCKET/RUN, and start from that run"
        )
    if path.is_dir():
        return path
    pinned = PINNED.fullmatch(str(name))
    if pinned is None:
        raise HubError(f"no folder {name}; a model of the hub is named owner/model@COMMIT, with the commit's 40 digits")
    try:
        folder = snapshot_download(pinned["repository"], revision=pinned["commit"], allow_patterns=list(NEEDED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise HubError(f"{name} cannot be fetched ({type(error).__name__}: {error}); give a local folder") from error
    return pathlib.Path(folder)
