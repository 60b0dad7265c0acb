"""The tensors of a model's folder by name, and the files that hold them. Corrupt and pickled files are refused."""

import contextlib
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from embed.hf.fields import HubError, check_downloaded, read_json

log = logging.getLogger(__name__)
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
DTYPES = ("F64", "F32", "F16", "BF16")  # as safetensors names them
PICKLE_STARTS = (b"PK\x03\x04", b"\x80")  # of torch.save: a zip of one, or as before version 1.6

Tensors = dict[str, tuple[pathlib.Path, str]]  # a tensor's name -> its file, and its name there


def find_tensors(folder: pathlib.Path) -> Tensors:
    """Find every tensor of the model: in the files that its index names, else model.safetensors, else all safetensors.

    The log names the safetensors files that are not read. Raises HubError where a file is missing or of another format,
    and where it is ambiguous which files are the model.
    """
    listed = _read_index(folder)
    present = sorted(path.name for path in folder.glob("*.safetensors"))
    if not listed and not present:
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
        convert = f"only pickled weights, which can run code: convert {', '.join(pickled)} to safetensors"
        raise HubError(f"no .safetensors file in {folder}" + (f"; {convert}" if pickled else ""))
    if listed and SINGLE in present and SINGLE not in listed.values():
        raise HubError(f"{folder} has {SINGLE} and an {INDEX} of other files: remove what is not the model")
    chosen = sorted(set(listed.values())) or ([SINGLE] if SINGLE in present else present)
    if stray := [name for name in present if name not in chosen]:
        log.warning("%s: not of the model, and not read: %s", folder, ", ".join(stray))
    tensors: Tensors = {}
    for file in chosen:
        for name in read_names(folder / file):
            if listed.get(name, file) != file:
                continue  # the index has it in another file
            if name in tensors:
                raise HubError(f"{folder}: {name} is both in {tensors[name][0].name} and in {file}")
            tensors[name] = folder / file, name
    if missing := sorted(listed.keys() - tensors.keys()):
        raise HubError(f"{folder / INDEX}: {missing[0]} is not in {listed[missing[0]]}; {len(missing)} such in all")
    return tensors


def _read_index(folder: pathlib.Path) -> dict[str, str]:
    """Tensor -> file of the index; {} without an index."""
    path = folder / INDEX
    if not path.exists():
        return {}
    listed = read_json(path).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise HubError(f"{path}: no weight_map of tensors and their files")
    for name, file in listed.items():
        if not isinstance(file, str) or pathlib.PurePath(file).name != file or not file.endswith(".safetensors"):
            raise HubError(f"{path}: {name} in {file!r}, which is no .safetensors file of this folder")
    if missing := sorted(file for file in set(listed.values()) if not (folder / file).exists()):
        raise HubError(f"{path} names {', '.join(missing)}, not in the folder: download what is missing")
    return listed


def read_names(path: pathlib.Path) -> list[str]:
    """The names of a file's tensors. Raises HubError as `open_tensors`."""
    with open_tensors(path) as file:
        return list(file.keys())


def read_tensor(path: pathlib.Path, name: str) -> np.ndarray:
    """Read one tensor of a file. Raises HubError where its dtype is not a floating-point one of `DTYPES`."""
    with open_tensors(path) as file:
        dtype = file.get_slice(name).get_dtype()
        if dtype not in DTYPES:
            meaning = "float8" if dtype.startswith("F8") else "quantized or no weights"
            known = ", ".join(DTYPES)
            raise HubError(
                f"{path}: {name} is {dtype} ({meaning}), not one of {known}: give the model before quantisation"
            )
        return file.get_tensor(name)


@contextlib.contextmanager
def open_tensors(path: pathlib.Path) -> Iterator[Any]:
    """Open a safetensors file. Raises HubError where it is of another format, or corrupt."""
    check_downloaded(path)
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        with path.open("rb") as opened:
            start = opened.read(9)
        # a safetensors file starts with eight bytes of its header's length, which may look like a pickle's
        if start.startswith(PICKLE_STARTS) and not start.endswith(b"\0{"):
            raise HubError(f"{path} is a pickle, which can run code: convert it to safetensors") from error
        raise HubError(f"{path} is not a whole safetensors file: {error}") from error
