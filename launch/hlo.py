"""What the compiler says, read from its text: what a program sends between devices and moves through a device's memory,
and by how much it does not fit. Loops count as often as they run."""

import collections
import math
import re
from collections.abc import Iterator

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")
SIZES = {
    **dict.fromkeys(("token", "opaque"), 0),
    **dict.fromkeys(("pred", "s4", "u4", "s8", "u8", "f8e4m3", "f8e4m3fn", "f8e4m3b11fnuz", "f8e5m2", "f8e8m0fnu"), 1),
    **dict.fromkeys(("s16", "u16", "bf16", "f16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
    "c128": 16,
}
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
            found[kind][1] += times * _received(operation[4], operation[3])
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
        operands = [shapes[where].get(name, "") for name in _names(arguments)]
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


def _names(arguments: str) -> list[str]:
    """Of the operations that an operation takes, in order."""
    return re.findall(r"%([\w.\-]+)", arguments)


def _shapes(lines: list[str]) -> dict[str, str]:
    """Name -> shape of every operation of a computation."""
    return {found[2]: found[3] for line in lines if (found := OPERATION.match(line))}


def _arrays(shape: str) -> Iterator[tuple[int, bool]]:
    """(bytes, whether in main memory) of every array in a shape."""
    for kind, sizes, layout in re.findall(r"(\w+)\[([\d,]*)\](\{[^}]*\})?", shape):
        yield SIZES[kind] * math.prod(int(n) for n in sizes.split(",") if n), "S(" not in layout


def _main(shape: str) -> int:
    return sum(size for size, main in _arrays(shape) if main)


def _received(kind: str, shape: str) -> int:
    """Of the results. The shape of a started operation holds its operands before them, but for an all-reduce, and may
    hold scalars that are its state after them."""
    if not kind.endswith("-start") or kind == "all-reduce-start":
        return sum(size for size, _ in _arrays(shape))
    sizes = [size for size, _ in _arrays(re.sub(r"[us]32\[\]", "token[]", shape)) if size]
    return sum(sizes[len(sizes) // 2 :])


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
            users = [user for user in found if name in _names(user[5])]
            # What is sliced or updated is the first argument; the others are indices and the update.
            kinds = {user[4] if _names(user[5]).index(name) == 0 else "" for user in users}
            outside = operands[int(arguments)] if int(arguments) < len(operands) else whole
            if kinds and kinds <= {"dynamic-slice", "slice", "gather"}:
                share = sum(size for user in users for size, _ in _arrays(user[3]))
                total += share if _main(outside) else 0
            elif kinds != {"dynamic-update-slice"}:
                total += _main(outside)
        elif kind == "dynamic-update-slice" and _main(whole):
            update = _names(arguments)[1]
            written += sum(size for size, _ in _arrays(inside[update])) - _main(whole)
    return total + max(written, 0)
