"""Reads a compiled program's text (HLO): what it sends between devices, what it moves through a device's main memory
(HBM), and by how much it does not fit. The body of a loop counts once per iteration."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")
DTYPE_BYTES = {
    **dict.fromkeys(("token", "opaque"), 0),
    **dict.fromkeys(("pred", "s4", "u4", "s8", "u8", "f8e4m3", "f8e4m3fn", "f8e4m3b11fnuz", "f8e5m2", "f8e8m0fnu"), 1),
    **dict.fromkeys(("s16", "u16", "bf16", "f16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
    "c128": 16,
}
# Instructions that move no bytes themselves: names for existing buffers, and control flow, whose bodies count.
NO_TRAFFIC_OPS = (
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "iota",
    "after-all", "partition-id", "opt-barrier",
)  # fmt: skip
# (ROOT) %NAME = SHAPE OPCODE(OPERANDS)
INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)(?:,|$)")
CALLED_COMPUTATIONS = re.compile(
    r"(?:calls|body|branch_computations|called_computations)=\{?%?([\w.\-]+(?:, ?%[\w.\-]+)*)\}?"
)
TO_APPLY = re.compile(r"to_apply=%?([\w.\-]+)")  # followed for a call; that of a reduction moves no bytes

Computations = dict[str, tuple[str, list[str]]]  # name -> (header, lines of the body)


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """Return, per kind of collective, how many a device starts in one run and the bytes that it receives from them."""
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for line, _, times in _walk_instructions(_parse_computations(text), into_fusions=True):
        instruction = INSTRUCTION.match(line)
        if instruction and (opcode := instruction[4].removesuffix("-start")) in COLLECTIVES:
            totals[opcode][0] += times
            totals[opcode][1] += times * _received_bytes(instruction[4], instruction[3])
    return {opcode: (count, size) for opcode, (count, size) in sorted(totals.items())}


def hbm_bytes(text: str) -> int:
    """Return the bytes that one run reads from and writes to a device's main memory.

    Counts operands and results of every instruction outside fusions, except those in another memory (`S(1)` in a
    layout: a TPU's vector memory). Of arrays that are sliced or updated in place, only the part counts.
    """
    computations = _parse_computations(text)
    shapes = {name: _shapes_by_name(lines) for name, (_, lines) in computations.items()}
    total = 0
    for line, computation, times in _walk_instructions(computations, into_fusions=False):
        instruction = INSTRUCTION.match(line)
        if instruction is None:
            continue
        _, _, shape, opcode, arguments = instruction.groups()
        if opcode in NO_TRAFFIC_OPS or opcode.endswith("-done") or "AllocateBuffer" in line:
            continue
        operands = [shapes[computation].get(name, "") for name in _operand_names(arguments)]
        if opcode == "fusion":
            fused = computations[CALLED_COMPUTATIONS.search(line)[1]][1]  # type: ignore[index]
            total += times * _fusion_bytes(operands, shape, fused)
        else:
            total += times * _instruction_bytes(opcode, operands, shape)
    return total


def parse_overflow(error: Exception) -> tuple[float, float]:
    """Return the GiB that a device would need and has, from the compiler's out-of-memory error; raise any other one."""
    match = re.search(r"([\d.]+)G\)? (?:of|exceeds available HBM) \(?([\d.]+)G", str(error))
    if match is None:
        raise error
    return float(match[1]), float(match[2])


def _walk_instructions(computations: Computations, into_fusions: bool) -> Iterator[tuple[str, str, int]]:
    """Yield (line, name of its computation, how often it runs), from the entry computation on."""

    def walk(name: str, times: int) -> Iterator[tuple[str, str, int]]:
        for line in computations[name][1]:
            yield line, name, times
            instruction = INSTRUCTION.match(line)
            opcode = instruction[4] if instruction else ""
            if opcode == "fusion" and not into_fusions:
                continue
            inner = times * _trip_count(line, computations) if opcode == "while" else times
            for names in (TO_APPLY if opcode == "call" else CALLED_COMPUTATIONS).findall(line):
                for callee in re.split(r", ?%?", names):
                    if callee in computations:
                        yield from walk(callee, inner)

    yield from walk(next(name for name, (header, _) in computations.items() if header.startswith("ENTRY")), 1)


def _parse_computations(text: str) -> Computations:
    computations: Computations = {}
    name = ""
    for line in text.splitlines():
        header = re.match(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if header:
            name = header[1]
            computations[name] = (line, [])
        elif name:
            computations[name][1].append(line)
    return computations


def _trip_count(line: str, computations: Computations) -> int:
    """Return how often a while loop runs: the compiler's own count, or the bound that its condition compares with."""
    known = re.search(r'known_trip_count.{0,6}"n":"(\d+)"', line)
    if known:
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    if condition is None:
        return 1
    bounds = re.findall(r"s32\[\]\S* constant\((\d+)\)", "\n".join(computations[condition[1]][1]))
    return max(map(int, bounds), default=1)


def _operand_names(arguments: str) -> list[str]:
    return re.findall(r"%([\w.\-]+)", arguments)


def _shapes_by_name(lines: list[str]) -> dict[str, str]:
    return {match[2]: match[3] for line in lines if (match := INSTRUCTION.match(line))}


def _parse_arrays(shape: str) -> Iterator[tuple[int, bool]]:
    """Yield (bytes, is in main memory) of every array in a shape."""
    for dtype, dims, tiling in re.findall(r"(\w+)\[([\d,]*)\](\{[^}]*\})?", shape):
        yield DTYPE_BYTES[dtype] * math.prod(int(n) for n in dims.split(",") if n), "S(" not in tiling


def _hbm_size(shape: str) -> int:
    return sum(size for size, is_hbm in _parse_arrays(shape) if is_hbm)


def _received_bytes(opcode: str, shape: str) -> int:
    """Return the bytes of a collective's results.

    The shape of an asynchronous start, except an all-reduce's, holds the operands before the results, and may hold
    scalars of its state after them.
    """
    if not opcode.endswith("-start") or opcode == "all-reduce-start":
        return sum(size for size, _ in _parse_arrays(shape))
    sizes = [size for size, _ in _parse_arrays(re.sub(r"[us]32\[\]", "token[]", shape)) if size]
    return sum(sizes[len(sizes) // 2 :])


def _instruction_bytes(opcode: str, operands: list[str], shape: str) -> int:
    match opcode:
        case "dynamic-slice" | "slice" | "gather":
            return 2 * _hbm_size(shape)
        case "dynamic-update-slice":
            return 2 * _hbm_size(operands[1])
    return sum(map(_hbm_size, operands)) + _hbm_size(shape)


def _fusion_bytes(operands: list[str], shape: str, lines: list[str]) -> int:
    """Return the bytes that a fusion reads and writes.

    Of an operand that it only slices, the slices count; of a result that it updates in place, the updates.
    """
    shapes = _shapes_by_name(lines)
    instructions = [match for line in lines if (match := INSTRUCTION.match(line))]
    read = 0
    written = _hbm_size(shape)
    for instruction in instructions:
        _, name, inner_shape, opcode, arguments = instruction.groups()
        if opcode == "parameter":
            users = [user for user in instructions if name in _operand_names(user[5])]
            # The first argument is what is sliced or updated; the others are indices and the update.
            opcodes = {user[4] if _operand_names(user[5]).index(name) == 0 else "" for user in users}
            outer_shape = operands[int(arguments)] if int(arguments) < len(operands) else inner_shape
            if opcodes and opcodes <= {"dynamic-slice", "slice", "gather"}:
                slices = sum(size for user in users for size, _ in _parse_arrays(user[3]))
                read += slices if _hbm_size(outer_shape) else 0
            elif opcodes != {"dynamic-update-slice"}:
                read += _hbm_size(outer_shape)
        elif opcode == "dynamic-update-slice" and _hbm_size(inner_shape):
            update = _operand_names(arguments)[1]
            written += sum(size for size, _ in _parse_arrays(shapes[update])) - _hbm_size(inner_shape)
    return read + max(written, 0)
