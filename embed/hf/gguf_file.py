"""A GGUF file: its fields and its tensors, read and dequantized by llama.cpp's `gguf` package (the extra `[gguf]`).

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, ReaderTensor, dequantize

from embed.hf.fields import HubError, check_downloaded

MAX_ITEMS = 2**21  # of an array: eight of Gemma's vocabularies
UNREADABLE = (ValueError, IndexError, KeyError, OverflowError, TypeError, OSError)  # what the package raises


class GGUFFile:
    """The fields and tensors of a file. Raises HubError where it is of another format, truncated or corrupt."""

    def __init__(self, path: pathlib.Path):
        check_downloaded(path)
        self.path = path
        try:
            reader = Reader(path)
            self.fields = {name: _read_value(field.parts, field.types) for name, field in reader.fields.items()}
        except UNREADABLE as error:
            raise HubError(f"{path} is not a complete GGUF file: {error or type(error).__name__}") from error
        self.used: set[str] = set()  # names of the fields that were asked for
        self.tensors: dict[str, ReaderTensor] = {tensor.name: tensor for tensor in reader.tensors}

    def get(self, name: str, is_valid: Callable[[Any], bool], expected: str, default: Any = None) -> Any:
        """A field's value, or `default`. Raises HubError where it is missing without a default, or not as expected."""
        self.used.add(name)
        value = self.fields.get(name, default)
        if value is None:
            raise HubError(f"{self.path}: no field {name}")
        if not is_valid(value):
            raise HubError(f"{self.path}: {name} is {str(value)[:80]!r}; expected {expected}")
        return value

    def get_int(self, name: str, default: int | None = None) -> int:
        return self.get(name, lambda x: type(x) is int and 1 <= x < 2**31, "a number of 1 or more", default)

    def get_float(self, name: str, default: float | None = None) -> float:
        """A number as it was before float32 rounded it: 1e-06, not 9.999999974752427e-07."""
        value = self.get(name, lambda x: type(x) in (int, float) and np.isfinite(x), "a number", default)
        return float(str(np.float32(value)))

    def get_bool(self, name: str, default: bool) -> bool:
        return self.get(name, lambda x: isinstance(x, bool), "true or false", default)

    def get_str(self, name: str, default: str | None = None) -> str:
        return self.get(name, lambda x: isinstance(x, str), "a string", default)

    def get_id(self, token: str) -> int:
        """The id of a special token, such as "bos"."""
        size = len(self.get_tokens())
        expected = f"an id below {size:,}"
        return self.get(f"tokenizer.ggml.{token}_token_id", lambda x: type(x) is int and 0 <= x < size, expected)

    def get_tokens(self) -> list[str]:
        return self.get("tokenizer.ggml.tokens", lambda x: isinstance(x, list) and len(x) > 0, "a list of strings")

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, rows first: GGUF lists the contiguous dimension first."""
        return tuple(int(size) for size in reversed(self.tensors[name].shape))

    def read(self, name: str) -> np.ndarray:
        """Dequantize a tensor to f32. Raises HubError where the package cannot, or the result is not finite."""
        tensor = self.tensors[name]
        quantization = GGMLQuantizationType(tensor.tensor_type).name
        try:
            with np.errstate(all="ignore"):  # what is not finite is refused below
                value = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        except NotImplementedError as error:
            raise HubError(f"{self.path}: {name}: the gguf package cannot dequantize {quantization}") from error
        if not np.isfinite(value).all():
            raise HubError(f"{self.path}: {name} ({quantization}) holds NaN or infinity: the file is corrupt")
        return value.reshape(self.shape(name))


class Reader(GGUFReader):
    """The package's reader, with bounded sizes; it reads an array at once, not item by item."""

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> np.ndarray:
        if offset + np.dtype(dtype).itemsize * int(count) > self.data.size:
            raise ValueError(f"it ends at byte {self.data.size:,}, before its contents do")
        return super()._get(offset, dtype, count, override_order)

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[GGUFValueType]]:
        if self.byte_order != "I":
            raise ValueError(f"it is not {sys.byteorder}-endian")
        if GGUFValueType(raw_type) != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        item_type = GGUFValueType(self._get(orig_offs, np.uint32)[0])
        length = int(self._get(orig_offs + 4, np.uint64)[0])
        start = orig_offs + 12
        if length > MAX_ITEMS:
            raise ValueError(f"an array of {length:,} items; at most {MAX_ITEMS:,} are read")
        types = [GGUFValueType.ARRAY, item_type]
        if item_type in self.gguf_scalar_to_np:
            values = self._get(start, self.gguf_scalar_to_np[item_type], length)
            return start + values.nbytes - orig_offs, [values], [0], types
        if item_type != GGUFValueType.STRING:
            raise ValueError("an array of arrays")
        strings, end = [], start
        for _ in range(length):
            size = int.from_bytes(self.data[end : end + 8].tobytes(), sys.byteorder)
            if end + 8 + size > self.data.size:
                raise ValueError(f"it ends at byte {self.data.size:,}, before its contents do")
            strings.append(self.data[end + 8 : end + 8 + size].tobytes().decode())
            end += 8 + size
        return end - orig_offs, [strings], [0], types


def _read_value(parts: list[Any], types: list[GGUFValueType]) -> Any:
    """A field's value: an array of numbers as such, a list of strings, a number, a string."""
    if types[0] == GGUFValueType.ARRAY:
        return parts[-1]
    return parts[-1].tobytes().decode() if types[0] == GGUFValueType.STRING else parts[-1][0].item()
