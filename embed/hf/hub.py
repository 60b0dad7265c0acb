"""Where a model is: a local folder, a GGUF file, or a repository of the Hugging Face hub at a fixed commit."""

import contextlib
import importlib.util
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

from embed.distributed import storage
from embed.hf.fields import HubError

PINNED = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)@(?P<commit>[0-9a-f]{40})")
GGUF = ".gguf"
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
    if path.suffix == GGUF and path.is_file():
        raise HubError(
            f"{name} is a GGUF file: import it once with python -m embed import {name} RUN, and give that run"
        )
    pinned = PINNED.fullmatch(str(name))
    if pinned is None:
        raise HubError(f"no folder {name}; a model of the hub is named owner/model@COMMIT, with the commit's 40 digits")
    try:
        folder = snapshot_download(pinned["repository"], revision=pinned["commit"], allow_patterns=list(NEEDED))
    except GatedRepoError as error:
        page = f"https://huggingface.co/{pinned['repository']}"
        raise HubError(
            f"{name} is gated: accept its terms of use on {page}, then log in with `hf auth login`"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise HubError(f"{name} cannot be fetched ({type(error).__name__}: {error}); give a local folder") from error
    return pathlib.Path(folder)


@contextlib.contextmanager
def open_model(name: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yield the folder of a published model: as `resolve` does, or a GGUF file's, converted, until the block ends.

    Raises HubError as `resolve` and `convert_gguf` do, OSError where a file cannot be read.
    """
    path = storage.path(name)
    if path.suffix != GGUF or path.is_dir():
        yield resolve(name)
        return
    require_gguf()
    from embed.hf.gguf import convert_gguf

    storage.cache().mkdir(parents=True, exist_ok=True)  # on disk, where /tmp may be memory
    with tempfile.TemporaryDirectory(dir=storage.cache()) as scratch:
        folder = pathlib.Path(scratch, path.stem)
        folder.mkdir()
        with storage.translate_disk_full(storage.cache()):
            convert_gguf(storage.local(path), folder)
        yield folder


def require_gguf() -> None:
    """Raise HubError where the package that reads GGUF files is not installed."""
    if importlib.util.find_spec("gguf") is None:
        raise HubError("GGUF files are read by the gguf package, which is not installed: pip install 'embed[gguf]'")
