"""What the compiler says, read from its text: what a program sends between devices, by how much it does not fit."""

import collections
import math
import re

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")
SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
OPERATION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\(")
CALLED = re.compile(
    r"(?:calls|to_apply|body|branch_computations|called_computations)=\{?%?([\w.\-]+(?:, ?%[\w.\-]+)*)\}?"
)


def traffic(text: str) -> dict[str, tuple[int, int]]:
    """Of each kind of collective: how many a run starts on a device, and the bytes they bring to it."""
    bodies = _computations(text)
    entry = next(name for name, (header, _) in bodies.items() if header.startswith("ENTRY"))
    found: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])

    def walk(name: str, times: int) -> None:
        for line in bodies[name][1]:
            operation = OPERATION.match(line)
            if operation is None:
                continue
            shape, kind = operation[1], operation[2].removesuffix("-start")
            if kind in KINDS:
                found[kind][0] += times
                found[kind][1] += times * _bytes(shape, operation[2].endswith("-start"))
            inner = times * _trips(line, bodies) if kind == "while" else times
            for called in CALLED.findall(line):
                for one in re.split(r", ?%?", called):
                    if one in bodies:
                        walk(one, inner)

    walk(entry, 1)
    return {kind: (count, size) for kind, (count, size) in sorted(found.items())}


def overflow(error: Exception) -> tuple[float, float]:
    """GiB that a chip would need and those it has, of the compiler's error. Raises it again where it is another one."""
    found = re.search(r"([\d.]+)G\)? (?:of|exceeds available HBM) \(?([\d.]+)G", str(error))
    if found is None:
        raise error
    return float(found[1]), float(found[2])


def _computations(text: str) -> dict[str, tuple[str, list[str]]]:
    """Name -> (first line, the lines within)."""
    bodies: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for line in text.splitlines():
        start = re.match(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if start:
            name = start[1]
            bodies[name] = (line, [])
        elif name:
            bodies[name][1].append(line)
    return bodies


def _trips(line: str, bodies: dict[str, tuple[str, list[str]]]) -> int:
    """How often a while loop runs: the compiler's own count, else the bound its condition compares with."""
    known = re.search(r'known_trip_count.{0,6}"n":"(\d+)"', line)
    if known:
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    bounds = re.findall(r"s32\[\]\S* constant\((\d+)\)", "\n".join(bodies[condition[1]][1])) if condition else []
    return max(map(int, bounds), default=1)


def _bytes(shape: str, started: bool) -> int:
    """Of the result; a started operation's shape holds its operand first."""
    parts = [
        SIZES.get(kind, 4) * math.prod(int(n) for n in sizes.split(",") if n)
        for kind, sizes in re.findall(r"(\w+)\[([\d,]*)\]", shape)
    ]
    return parts[1] if started and len(parts) > 1 else sum(parts)
