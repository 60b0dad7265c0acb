"""Evaluate checkpoints: on the suite and datasets of your own (`evaluate_checkpoints`), or on tasks of mteb."""

import json
import logging
from collections.abc import Collection, Sequence

from embed.distributed import hosts, storage
from embed.embedder import Embedder
from embed.eval import suite
from embed.eval.benchmarks import Results
from embed.eval.precision import evaluate_precisions
from embed.training import checkpoint

log = logging.getLogger(__name__)


def evaluate_checkpoints(
    paths: Sequence[str | storage.Path], test_sets: Sequence[suite.TestSet], *, trust: Collection[str] = ()
) -> dict[str, Results]:
    """Score checkpoints on what `suite.read_test_sets` read.

    Returns name -> results, in order, with those of quantized vectors; those of a run are also written to
    RUN/results.json. Raises CheckpointError where a checkpoint cannot be read.
    """
    columns: dict[str, Results] = {}
    prepared: dict[str, list[suite.PreparedBenchmark]] = {}  # by input spec
    for path in paths:
        embedder = Embedder.load(path, trust=trust)
        input_spec = json.dumps(embedder.preprocessor.input_spec(), sort_keys=True)
        if input_spec not in prepared:
            prepared[input_spec] = suite.prepare_suite(embedder, test_sets)
        vectors = suite.encode_suite(embedder, embedder.params, prepared[input_spec])
        results = evaluate_precisions(prepared[input_spec], vectors, embedder.encoder.arch.matryoshka_dims)
        name = _name(path)
        columns[name] = results
        log.info("%s: %s", name, suite.describe_means(results))
        if hosts.is_primary() and _is_run(path):
            (checkpoint.locate(storage.path(path))[0] / "results.json").write_text(json.dumps(results, indent=1))
    return columns


def _is_run(path: str | storage.Path) -> bool:
    """Whether it is a checkpoint of this package, not a published model."""
    return "@" not in str(path) and not (storage.path(path) / "config.json").exists()


def _name(path: str | storage.Path) -> str:
    """RUN, or RUN/STEP of one of its checkpoints."""
    parts = [part for part in str(path).rstrip("/").split("/") if part]
    return "/".join([parts[-3], parts[-1]]) if parts[-2:-1] == ["checkpoints"] and len(parts) > 2 else parts[-1]


def run_mteb(
    path: str | storage.Path, names: str, dim: int | None, folder: storage.Path, *, trust: Collection[str] = ()
) -> str:
    """Score a checkpoint on tasks of mteb by its protocol; results in its own form go to `folder`.

    `names` is a list of tasks by comma or a benchmark, `dim` a Matryoshka width (None: all dimensions). Returns a
    Markdown table, followed by the tasks that could not be loaded. Raises ModuleNotFoundError without the extra [eval],
    ValueError for a task that mteb does not have or a width that the model does not have.
    """
    try:
        import mteb

        from embed.eval.mteb import MtebModel, find_tasks
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"mteb's tasks need the extra [eval] ({error}): pip install -e '.[eval]'") from error
    embedder = Embedder.load(path, trust=trust)
    try:
        model = MtebModel(embedder, _name(path).replace("/", "-"), dim)
    except ValueError as error:
        raise ValueError(f"dim={dim}: {error}") from error
    try:
        tasks = find_tasks(names)
    except KeyError as error:
        raise ValueError(f"mteb={names}: {error.args[0]}") from error
    results = mteb.evaluate(model, tasks, cache=mteb.ResultCache(str(folder)), raise_error=False)
    lines = ["| task | metric | score |", "|---|---|---|"]
    for result in results.task_results:
        lines.append(f"| {result.task_name} | {result.task.metadata.main_score} | {result.get_score():.4f} |")
    for failed in results.exceptions or ():
        reason = (failed.exception.strip().splitlines() or ["no reason given"])[-1]
        lines.append(f"not scored: {failed.task_name}: {reason}")
    return "\n".join(lines)
