"""What the compiler says, read from its text: what a program sends between devices and moves through a device's memory,
and by how much it does not fit. Loops count as often as they run."""

import collections
import math
import re
from collections.abc import Iterator

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")
SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
# Operations that move nothing: names for what is there, loops (whose bodies count), and the ends of what was started.
STILL = (
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "iota",
    "after-all", "partition-id", "opt-barrier",
)  # fmt: skip
OPERATION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)(?:,|$)")
CALLED = re.compile(r"(?:calls|body|branch_computations|called_computations)=\{?%?([\w.\-]+(?:, ?%[\w.\-]+)*)\}?")
APPLIED = re.compile(r"to_apply=%?([\w.\-]+)")  # by a call; a reduction's is no work of its own

Computations = dict[str, tuple[str, list[str]]]  # name -> (first line, the lines within)


def traffic(text: str) -> dict[str, tuple[int, int]]:
    """Of each kind of collective: how many a run starts on a device, and the bytes they bring to it."""
    found: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for line, _, times in _executed(_computations(text), into_fusions=True):
        operation = OPERATION.match(line)
        if operation and (kind := operation[4].removesuffix("-start")) in KINDS:
            found[kind][0] += times
            found[kind][1] += times * _received(operation[3], operation[4].endswith("-start"))
    return {kind: (count, size) for kind, (count, size) in sorted(found.items())}


def moved(text: str) -> int:
    """Bytes that a run reads from and writes to a device's main memory.

    Operands and results of every operation outside fusions, where they are not in a memory of their own (`S(1)` in a
    layout: a TPU's vector memory); of what is sliced or updated in place, the part alone.
    """
    bodies, total = _computations(text), 0
    shapes = {name: _shapes(lines) for name, (_, lines) in bodies.items()}
    for line, where, times in _executed(bodies, into_fusions=False):
        operation = OPERATION.match(line)
        if operation is None or operation[4] in STILL or operation[4].endswith("-done") or "AllocateBuffer" in line:
            continue
        _, _, shape, kind, arguments = operation.groups()
        operands = [shapes[where].get(name, "") for name in re.findall(r"%([\w.\-]+)", arguments)]
        if kind == "fusion":
            fused = bodies[CALLED.search(line)[1]][1]  # type: ignore[index]
            total += times * _fusion(operands, shape, fused)
        else:
            total += times * _plain(kind, operands, shape)
    return total


def overflow(error: Exception) -> tuple[float, float]:
    """GiB that a chip would need and those it has, of the compiler's error. Raises it again where it is another one."""
    found = re.search(r"([\d.]+)G\)? (?:of|exceeds available HBM) \(?([\d.]+)G", str(error))
    if found is None:
        raise error
    return float(found[1]), float(found[2])


def _executed(bodies: Computations, into_fusions: bool) -> Iterator[tuple[str, str, int]]:
    """(line, its computation, how often it runs) from the entry on."""

    def walk(name: str, times: int) -> Iterator[tuple[str, str, int]]:
        for line in bodies[name][1]:
            yield line, name, times
            operation = OPERATION.match(line)
            kind = operation[4] if operation else ""
            if kind == "fusion" and not into_fusions:
                continue
            inner = times * _trips(line, bodies) if kind == "while" else times
            for called in (APPLIED if kind == "call" else CALLED).findall(line):
                for one in re.split(r", ?%?", called):
                    if one in bodies:
                        yield from walk(one, inner)

    yield from walk(next(name for name, (header, _) in bodies.items() if header.startswith("ENTRY")), 1)


def _computations(text: str) -> Computations:
    bodies: Computations = {}
    name = ""
    for line in text.splitlines():
        start = re.match(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if start:
            name = start[1]
            bodies[name] = (line, [])
        elif name:
            bodies[name][1].append(line)
    return bodies


def _trips(line: str, bodies: Computations) -> int:
    """How often a while loop runs: the compiler's own count, else the bound its condition compares with."""
    known = re.search(r'known_trip_count.{0,6}"n":"(\d+)"', line)
    if known:
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    bounds = re.findall(r"s32\[\]\S* constant\((\d+)\)", "\n".join(bodies[condition[1]][1])) if condition else []
    return max(map(int, bounds), default=1)


def _shapes(lines: list[str]) -> dict[str, str]:
    """Name -> shape of every operation of a computation."""
    return {found[2]: found[3] for line in lines if (found := OPERATION.match(line))}


def _arrays(shape: str) -> Iterator[tuple[int, bool]]:
    """(bytes, whether in main memory) of every array in a shape."""
    for kind, sizes, layout in re.findall(r"(\w+)\[([\d,]*)\](\{[^}]*\})?", shape):
        yield SIZES.get(kind, 4) * math.prod(int(n) for n in sizes.split(",") if n), "S(" not in layout


def _main(shape: str) -> int:
    return sum(size for size, main in _arrays(shape) if main)


def _received(shape: str, started: bool) -> int:
    """Of the result; a started operation's shape holds its operand first."""
    parts = [size for size, _ in _arrays(shape)]
    return parts[1] if started and len(parts) > 1 else sum(parts)


def _plain(kind: str, operands: list[str], shape: str) -> int:
    match kind:
        case "dynamic-slice" | "slice" | "gather":
            return 2 * _main(shape)
        case "dynamic-update-slice":
            return 2 * _main(operands[1])
    return sum(map(_main, operands)) + _main(shape)


def _fusion(operands: list[str], shape: str, lines: list[str]) -> int:
    """What a fusion reads and writes: of operands that it only slices the slices, of results that it updates the
    updates."""
    inside, found = _shapes(lines), [match for line in lines if (match := OPERATION.match(line))]
    total, written = 0, _main(shape)
    for operation in found:
        _, name, whole, kind, arguments = operation.groups()
        if kind == "parameter":
            users = [user for user in found if re.search(rf"%{re.escape(name)}\b(?![.\-])", user[5])]
            kinds = {user[4] for user in users}
            outside = operands[int(arguments)] if int(arguments) < len(operands) else whole
            if kinds and kinds <= {"dynamic-slice", "slice", "gather"}:
                share = sum(size for user in users for size, _ in _arrays(user[3]))
                total += share if _main(outside) else 0
            elif kinds != {"dynamic-update-slice"}:
                total += _main(outside)
        elif kind == "dynamic-update-slice" and _main(whole):
            update = re.findall(r"%([\w.\-]+)", arguments)[1]
            written += sum(size for size, _ in _arrays(inside[update])) - _main(whole)
    return total + max(written, 0)
