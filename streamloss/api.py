"""The Python interface: `evaluate`, `Evaluator`, `merge` and plain functions over arrays."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from streamloss import jit
from streamloss.errors import DataError, StreamlossError, UsageError
from streamloss.files import write_atomically
from streamloss.memory import budgeted
from streamloss.options import DISPLAY, PREDICTIONS, ROLES, TARGETS, Options
from streamloss.reading.resident import columns
from streamloss.reading.source import Input, Plan, Reader, convert, open_input
from streamloss.reporting.comparing import summarize_comparison
from streamloss.reporting.gates import judge, parse_all
from streamloss.reporting.report import Report
from streamloss.reporting.rules import Gate
from streamloss.reporting.summary import summarize
from streamloss.reporting.temperature import Temperatures
from streamloss.running import comparing, engines
from streamloss.running.budget import fit
from streamloss.running.calibrating import look
from streamloss.running.devices import Device, accumulator, chosen, moved
from streamloss.running.engines import Engine, Way
from streamloss.running.local import Watcher, run, thread_count
from streamloss.running.measure import Accumulator
from streamloss.state import State
from streamloss.state import merge as merge_states

if TYPE_CHECKING:
    from streamloss.running.device import OnDevice


@budgeted
def evaluate(
    paths: Any,
    *,
    threads: int | None = None,
    batch_rows: int | None = None,
    max_memory: int | str | None = None,
    reader: Reader = "auto",
    progress: Watcher | None = None,
    save_state: str | Path | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float | None = None,
    cache: str | Path | None = None,
    device: Device = "cpu",
    engine: Engine = "local",
    scheduler: str | None = None,
    executor: Executor | None = None,
    fail_if: str | Sequence[str] = (),
    **options: Any,
) -> Report:
    """Evaluates predictions and returns the report.

    paths: a path, folder, glob or URI of Parquet files, or a list of them; '-' for an Arrow IPC stream on standard input;
        an Arrow table, record batch or reader; or a dict of NumPy arrays, (n,) or (n, K).
    threads: threads that decode and add up (default: the cores of this process); the result does not depend on them.
    batch_rows: rows per chunk (default: about 8 MiB); the result does not depend on it.
    max_memory: bytes, or a size such as '2GiB', that this process may hold, all in all, and each of its workers. Batches and
        threads are made to fit; what does not fit raises a `StreamlossError` before the memory is taken. The result does not
        depend on it. (glibc's malloc gives large arrays back at once from then on, in this process.)
    reader: 'pages', our reader of Parquet pages, or an error where it cannot; 'arrow', pyarrow; 'auto' (default), pages where
        it can and pyarrow elsewhere. The result does not depend on it.
    progress: called with a `Progress` about ten times a second.
    save_state: a file for the exact state, which `merge` and `streamloss report` read.
    checkpoint: a file for the state and what is done, written every `checkpoint_every` seconds (5 by default) and when the run
        is stopped; a run with the same input and options goes on from there, and one with others is refused.
    cache: a folder for the states of parts; what is there need not be read again, whatever else has come to the input.
    device: 'cpu', 'cuda', or 'auto', a CUDA device where there is one: how fast it is, and never another result.
    engine: 'local', threads of this process, or 'dask', workers of the scheduler at `scheduler`, or else of a cluster of
        `threads` processes on this machine.
    executor: any `concurrent.futures.Executor`, whose workers measure the parts; processes of it have to be spawned.
    fail_if: rules such as 'upper(cross_entropy) > 0.35' that say what is not good enough; `Report.gates` has their outcomes.
    options: the command line's options with underscores, e.g. logits='z', label='y', unit='bit' (see `Options`).

    Values are in `unit` (nat by default). Raises `DataError` for bad data, `UsageError` for wrong options, and warns
    (`UserWarning`) of a checkpoint or a cache that cannot be written.
    """
    asked = Options.of(**options)
    gates = parse_all(fail_if)
    count = thread_count(threads)
    way = Way(
        threads=count,
        device=device if engine != "local" or executor is not None else chosen(device),
        engine=engine,
        scheduler=scheduler,
        executor=executor,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        cache=cache,
    )
    clock = _Clock()
    source: Input = open_input(paths, asked, batch_rows, reader)
    way = way.fitted(source, asked, chosen=batch_rows is not None)
    count = way.threads
    state, known = engines.run(source, asked, way, progress)
    ran = clock.facts(state.rows_read, source.bytes, count, known) | {"device": way.device, "engine": way.name}
    if save_state is not None:
        write_atomically(Path(save_state), state.to_bytes())
    return _judged(summarize(state, **ran), gates)


class _Clock:
    """How long a run takes, apart from compiling."""

    def __init__(self) -> None:
        self._started, self._compiled = time.perf_counter(), jit.compile_seconds()

    def facts(self, rows: int, size: int | None, threads: int, known: int = 0) -> dict[str, Any]:
        """What `run` says in the report, of rows of which some were known and not read."""
        compiling = jit.compile_seconds() - self._compiled
        seconds = time.perf_counter() - self._started - compiling
        return {
            "seconds": seconds,
            "compile_seconds": compiling,
            "rows_per_second": (rows - known) / seconds,
            "bytes_per_second": None if size is None else size * (1 - known / rows) / seconds,
            "device": "cpu",
            "threads": threads,
            "engine": "local",
            **({"known_rows": known} if known else {}),
        }


def _judged(report: Report, gates: Sequence[Gate]) -> Report:
    return replace(report, gates=tuple(judge(gates, report.to_dict()))) if gates else report


@budgeted
def compare(
    paths: Any,
    *,
    baseline: Any = None,
    key: str | None = None,
    threads: int | None = None,
    batch_rows: int | None = None,
    max_memory: int | str | None = None,
    reader: Reader = "auto",
    progress: Watcher | None = None,
    fail_if: str | Sequence[str] = (),
    **options: Any,
) -> Report:
    """Compares two models on the same rows and returns the report.

    paths: the rows with the new model's predictions, as in `evaluate`.
    baseline: the rows with the old model's predictions in the same order; without it they are in `paths` too.
    key: a column that both have and that must be equal row by row, which proves the order.
    options: those of `evaluate`, and for the old model `baseline_logits`, `baseline_probs`, …, `baseline_temperature`.

    Raises `DataError` for bad data and for rows that do not belong together, `UsageError` for wrong options.
    """
    asked, old_asked = compared_options(options, same=baseline is None)
    gates = parse_all(fail_if)
    count = thread_count(threads)
    clock = _Clock()
    keys = () if key is None else (key,)
    source = open_input(paths, asked, batch_rows, reader, keys=keys)
    old_source = open_input(paths if baseline is None else baseline, old_asked, batch_rows, reader, keys=keys)
    count = fit([source, old_source], asked, count, chosen=batch_rows is not None, sums=False)
    found = comparing.compare(source, old_source, asked, old_asked, key, count, progress)
    size = None if source.bytes is None or old_source.bytes is None else sum(entry["bytes"] or 0 for entry in found.inputs)
    ran = clock.facts(int(found.whole.new.arrays["ledger"][:, :14].sum()), size, count)
    return _judged(summarize_comparison(found, asked, **ran), gates)


@budgeted
def calibrate(
    paths: Any,
    *,
    threads: int | None = None,
    batch_rows: int | None = None,
    max_memory: int | str | None = None,
    reader: Reader = "auto",
    progress: Watcher | None = None,
    fail_if: str | Sequence[str] = (),
    **options: Any,
) -> Report:
    """Finds the temperature that logits should be divided by and returns the report, with the curve and what it would save.

    The rows are read once for the curve and a few times more for the best temperature, of all rows and of every slice. The
    metrics are those at `temperature`; `Report.metrics["best_temperature"]` is what was found, and "temperature" in
    `Report.to_dict()` has the loss there.

    paths: as in `evaluate`, but not what can be read only once: standard input or an Arrow reader.
    options: those of `evaluate`; `temperatures` is the curve's grid.

    Raises `DataError` for bad data, `UsageError` for wrong options, for predictions that are no logits, and without a truth.
    """
    asked = Options.of(**{"temperature_sweep": True} | options)
    gates = parse_all(fail_if)
    count = thread_count(threads)
    clock = _Clock()
    source = open_input(paths, asked, batch_rows, reader)
    if source.rows is None:
        raise UsageError("calibrate reads its input several times: give files, a table or arrays, not a stream")
    count = fit([source], asked, count, chosen=batch_rows is not None)
    state = run(source, asked, count, progress)
    found = Temperatures(state, asked)
    while (wanted := found.wanted()) is not None:
        if source.is_stream:
            source = open_input(paths, asked, source.plan.batch_rows, reader)
        found.learn(wanted, look(source, asked, wanted, count, progress))
    ran = clock.facts(state.rows_read, source.bytes, count) | {"passes": 1 + found.looks}
    return _judged(summarize(state, command="calibrate", temperatures=found, **ran), gates)


COMPARED = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)  # quantiles of a comparison


def compared_options(options: dict[str, Any], *, same: bool) -> tuple[Options, Options]:
    """The options of the new model and of the old one, from those of `compare`; `same`: both are columns of the same rows.

    Raises `UsageError` when they make no sense.
    """
    old = {name.removeprefix("baseline_"): value for name, value in options.items() if name.startswith("baseline_")}
    own = {name: value for name, value in options.items() if value is not None and not name.startswith("baseline_")}
    asked = Options.of(**{"quantiles": COMPARED} | own)
    if asked.convention:
        raise UsageError("--convention tells of one model: evaluate each of the two")
    if asked.sweep:
        raise UsageError("a sweep of temperatures is of one model: evaluate or calibrate each of the two")
    return asked, _old_options(asked, old, same)


def _old_options(asked: Options, old: dict[str, Any], same: bool) -> Options:
    """The options of the old model: its own prediction, and of the new model's all that is no column.

    The truth, weights and slices are the new model's. `same`: both predictions are columns of the same rows.
    """
    if unknown := [name for name in old if name not in (*PREDICTIONS, "temperature")]:
        raise UsageError(f"no option 'baseline_{unknown[0]}': of the old model a prediction and its temperature can be given")
    if same and not any(old.get(role) for role in PREDICTIONS):
        raise UsageError("which column has the old model's prediction? Give --baseline-logits or its like, or --baseline FILE")
    own = {role: getattr(asked, role) for role in PREDICTIONS if not any(old.get(each) for each in PREDICTIONS)}
    aside = dict.fromkeys(("label", "weight", "mask", "bytes", *TARGETS), "")
    given = {"temperature": asked.temperature} | own | {name: value for name, value in old.items() if value is not None}
    not_its = (*ROLES, "by", "cluster", "ignore_index", "class_weights", "temperature")
    new = {name: value for name, value in asked.to_dict().items() if name not in not_its}
    return Options.of(**new | aside | given)


def merge(
    states: Sequence[str | Path],
    *,
    unit: str | None = None,
    quantiles: Any = None,
    confidence: float | None = None,
    min_slice_rows: int | None = None,
    fail_if: str | Sequence[str] = (),
) -> Report:
    """The report of saved states together, in any order; `fail_if` as in `evaluate`.

    Raises `DataError` for a file that is no state, for states of different options or columns, and for states that overlap
    (an input that stands in two of them would count twice).
    """
    if not states:
        raise UsageError("no states were given")
    gates = parse_all(fail_if)
    loaded = [(str(path), State.read(path)) for path in states]
    first_path, first = loaded[0]
    seen: dict[str, str] = {}
    for path, state in loaded:
        check_same(first_path, first, path, state)
        for mark in state.marks:
            if mark in seen:
                what = f"both hold {mark}" if seen[mark] != path else f"{mark} stands in it twice"
                raise DataError(f"states overlap: {seen[mark]} and {path}: {what}; it would count twice")
            seen[mark] = path
    shown = {"unit": unit, "quantiles": quantiles, "confidence": confidence, "min_slice_rows": min_slice_rows}
    own = {k: v for k, v in first.options.to_dict().items() if k not in DISPLAY or shown[k] is None}
    options = Options.of(**own, **{k: v for k, v in shown.items() if v is not None})
    return _judged(summarize(merge_states([state for _, state in loaded]), options, command="report"), gates)


def check_same(first_path: str, first: State, path: str, state: State) -> None:
    """Raises `DataError` naming the first difference between two states' definitions, options or columns."""
    for name, mine, theirs in first.differences(state):
        raise DataError(f"states differ in {name!r}: {first_path} has {mine!r}, {path} has {theirs!r}")


WHOLE = 1 << 18  # rows of an update that are looked at before any of them is counted; larger ones are counted aside first


class Evaluator:
    """Adds batches as they come and reports at any moment.

    update takes Arrow record batches or tables, or dicts of arrays: (n, K) for K-class predictions, (n,) otherwise. Arrays are
    NumPy's, or lie on a CUDA device and say so by DLPack or `__cuda_array_interface__` (torch, CuPy, JAX): these are read where
    they lie. The first batch decides what the columns are. Evaluators of equal options merge; the order never matters.

    device: where arrays of the host are computed on, as in `evaluate`; those on a device are computed there in any case.
    """

    def __init__(self, *, threads: int | None = None, device: Device = "cpu", **options: Any) -> None:
        self.options = Options.of(**options)
        self.threads = thread_count(threads)
        self._device = chosen(device)
        self._plan: Plan | None = None
        self._accumulator: Accumulator | None = None
        self._on: OnDevice | None = None
        self._merged: State | None = None
        self._rows = 0

    def update(self, batch: Any) -> Self:
        """Adds a batch. Raises `DataError` for a bad row (the batch is then not counted), `UsageError` for bad options."""
        there = columns(batch)
        if self._plan is None:
            self._plan = open_input(batch, self.options).plan if there is None else there.plan(self.options)
            self._check_merged()
        jit.use_threads(self.threads)
        if there is None:
            piece = convert(batch, self._plan, path=None, first_row=self._rows)
        else:
            there.check(self._plan)
            if not there.n:
                return self
            piece = self._on_device(self._plan).take(there, self._plan, self._rows)
        if self._accumulator is None:
            self._accumulator = accumulator(self._device, self._plan.task, self.options, self.threads)
        # On a device a large batch costs no more than several small ones, and taking it back the same.
        step = self._accumulator.most_rows if piece.resident else WHOLE
        if len(piece) <= step and not self.options.by:
            self._accumulator.add(piece)
        else:
            fresh = self._accumulator.another(self.threads)
            for start in range(0, len(piece), step):
                fresh.add(piece.rows(start, start + step))
            self._accumulator.absorb(fresh)
        self._rows += len(piece)
        return self

    def _on_device(self, plan: Plan) -> OnDevice:
        """The accumulator, on a device from now on."""
        if self._on is None or self._on is not self._accumulator:
            self._accumulator = self._on = moved(self._accumulator, plan.task, self.options, self.threads)
        return self._on

    def _check_merged(self) -> None:
        assert self._plan is not None
        if self._merged is not None and self._merged.task != self._plan.task:
            raise StreamlossError("the batch is of another task than the states that were merged")

    def state(self) -> State:
        """The exact state so far. Raises `DataError` before the first batch, when the task is not known."""
        own = None if self._accumulator is None else self._accumulator.state()
        if own is not None and self._plan is not None:
            own.columns = dict(self._plan.roles)
        known = [state for state in (self._merged, own) if state is not None]
        if not known:
            raise DataError("no rows yet: update the evaluator with a batch first")
        return merge_states(known)

    def merge(self, other: Evaluator) -> Self:
        """Adds everything that another evaluator has counted; the other does not change."""
        if other._accumulator is None and other._merged is None:
            return self
        state = other.state()
        if self._accumulator is None and self._merged is None:
            self.state_from(state)
        else:
            own = self.state()
            check_same("this evaluator", own, "the other", state)
            self.state_from(own.merged(state))
        return self

    def state_from(self, state: State) -> None:
        """Goes on from a state."""
        self._merged, self._accumulator = state, None

    def report(self, *, fail_if: str | Sequence[str] = ()) -> Report:
        """The report so far; `fail_if` as in `evaluate`."""
        gates = parse_all(fail_if)
        return _judged(summarize(self.state(), self.options), gates)

    def to_bytes(self) -> bytes:
        """The exact state as bytes, for `from_bytes` and `streamloss report`."""
        return self.state().to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes, *, threads: int | None = None) -> Evaluator:
        """An evaluator that goes on from `to_bytes`. Raises `DataError` when the bytes are no state."""
        state = State.from_bytes(data)
        evaluator = cls(threads=threads)
        evaluator.options = state.options
        evaluator.state_from(state)
        return evaluator
