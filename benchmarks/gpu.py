"""The training step on a CUDA GPU: is it correct, does it keep the GPU busy, how fast is it?

The checks compare with the same step on the CPU in float64. float32 is checked without TF32; the
measurements allow TF32, as PyTorch does by default. Large differences of the gradients are normal,
because rounding errors grow on their way through twenty blocks of batch norm.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.loops import loop_settings, measured_loops
from benchmarks.measure import milliseconds, percent, ratio, spread, times_in_turn
from benchmarks.step import Loss, MakeOptimizer, Recipe, Step, Way, differences, reason
from softfeat.data.datamodule import SegmentationData
from softfeat.models.extractor import Extractor
from softfeat.training.graphed_step import warm_up
from softfeat.training.soft_features import SoftFeatureModule

CHECKED = {
    "eager": Way(),
    "bf16": Way(bf16=True),
    "compiled, bf16": Way(bf16=True, compile="default"),
}
MEASURED = {
    "eager, contiguous": Way(channels_last=False),
    "eager": Way(),
    "bf16": Way(bf16=True),
    "compiled, bf16": Way(bf16=True, compile="default"),
}
LOOPS = {"eager, bf16": False, "passes in one CUDA graph, bf16": True}
_GRAPH = "whole step in one CUDA graph, bf16"
_REFERENCE = "eager, contiguous"
_PAPER_STEPS = 60_000  # at batch size 4; 12 hours on a Titan Xp
_WARM_UP = 20  # uncounted steps of a loop; graphs are recorded within the first few
# Largest allowed differences, relative to the largest value; the keys say whether bf16 is used.
_ALLOWED = {
    False: {"loss": 1e-3, "features": 1e-2, "gradients": 5e-2},
    True: {"loss": 5e-2, "features": 6e-1, "gradients": 3e-1},
}
_SATURATED = 1.05  # the search ends when a doubled batch gains less


def gpu(
    extractor: Extractor,
    loss: Loss,
    optimizer: MakeOptimizer,
    data: SegmentationData,
    repeats: int = 10,
    steps: int = 20,
    loop_steps: int = 300,
    loop_rounds: int = 3,
    largest_batch: int = 512,
    compiled: bool = True,
    device: str = "cuda",
) -> dict[str, Any]:
    """Checks and measures the step. Parts that fail or run out of memory are noted and left out.

    Args:
        extractor: Network; its weights do not matter here.
        loss: Loss function.
        optimizer: Constructor of the optimiser; on a GPU also called with `capturable=True`.
        data: Data of the trainings. Single steps use its batch size (except where batches grow),
            photo size and number of superpixels.
        repeats: Number of counted rounds of single steps.
        steps: Number of steps in a round.
        loop_steps: Number of counted steps of a training.
        loop_rounds: Number of trainings in each loop.
        largest_batch: Batch size at which the growth of batches ends.
        compiled: Whether to check and measure `torch.compile` too.
        device: "cuda", or "cpu" to run everything that needs no GPU.

    Returns:
        Result with one row per way of computing a step.

    Raises:
        ValueError: There is no such device.
    """
    on_gpu = device == "cuda"
    _require(device)
    recipe = Recipe(extractor, loss, optimizer, data.image_size, data.superpixels.count)
    make = partial(_step, recipe, device, data.batch_size)
    checks = _checks(make, compiled, on_gpu)
    ways = {name: way for name, way in MEASURED.items() if compiled or way.compile is None}
    seconds, failures = speeds(make, ways, repeats, steps, on_gpu)
    growth = _growth(make, on_gpu, data.batch_size, largest_batch, repeats, steps)
    module = partial(recipe.module, device=device)
    loops, waits, loop_failures = training_loops(module, data, loop_steps, loop_rounds)
    return {
        "name": "gpu_" + _slug(torch.cuda.get_device_name() if on_gpu else device),
        "title": "The training step on a GPU",
        "settings": {
            **loop_settings(data, loop_steps, loop_rounds),
            "rounds": f"{repeats} of {steps} steps",
            **({} if compiled else {"torch.compile": "not measured"}),
            **failures,
            **loop_failures,
        },
        "rows": _rows("step", seconds),
        "tables": {"Checks": checks, "Loops, the loader included": _loop_rows(loops), **growth},
        "ratios": _ratios(seconds, waits),
    }


def _require(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "suite=gpu needs a CUDA GPU and a PyTorch built for it, and torch.cuda.is_available() "
            "is False. On a machine with a GPU, run nvidia-smi and install PyTorch from PyPI "
            "(without TORCH= in make); without one, python -m benchmarks suite=train_step "
            "measures the CPU"
        )


def _checks(make: Callable[..., Step], compiled: bool, on_gpu: bool) -> list[dict[str, str]]:
    names = [name for name, way in CHECKED.items() if compiled or way.compile is None]
    rows = compare(make, names) + synchronisations(make, on_gpu)
    return rows + replays(make) if on_gpu else rows


def _growth(
    make: Callable[..., Step], on_gpu: bool, smallest: int, largest: int, repeats: int, steps: int
) -> dict[str, list[dict[str, object]]]:
    def of_batch(batch: int) -> Callable[[], None]:
        step = make(Way(bf16=True), batch)
        return captured(step) if on_gpu else step

    way = _GRAPH if on_gpu else "eager, bf16"
    return {f"Batches, {way}": images_per_second(of_batch, smallest, largest, repeats, steps)}


def _step(
    recipe: Recipe,
    device: str,
    batch_size: int,
    way: Way,
    batch: int | None = None,
    to: str | None = None,
    double: bool = False,
) -> Step:
    """Makes a step on `batch` photos (default: `batch_size`) on `to` (default: `device`)."""
    if to not in (None, device):
        # The optimiser of the suite may need the GPU.
        recipe = replace(recipe, optimizer=torch.optim.SGD)
    elif device == "cuda":
        # A step that is captured keeps its number of steps on the device.
        recipe = replace(recipe, optimizer=partial(recipe.optimizer, capturable=True))
    return recipe.step(recipe.batch(batch or batch_size, to or device, double), way)


def _rows(name: str, seconds: Mapping[str, list[float]]) -> list[dict[str, object]]:
    rows = [
        {name: key, **milliseconds(values), "steps/s": round(1 / median(values), 1)}
        for key, values in seconds.items()
    ]
    return rows or [{name: "none ran"}]


def _loop_rows(seconds: Mapping[str, list[float]]) -> list[dict[str, object]]:
    rows = _rows("loop", seconds)
    for row, values in zip(rows, seconds.values(), strict=False):  # no loop may have run
        minutes = _PAPER_STEPS * median(values) / 60
        row[f"{_PAPER_STEPS} steps, minutes"] = round(minutes, 1)
    return rows


def _ratios(
    seconds: Mapping[str, list[float]], waits: Mapping[str, list[float]]
) -> dict[str, dict[str, float]]:
    return {
        f"time, {_REFERENCE} / {name}": ratio(seconds[_REFERENCE], values)
        for name, values in seconds.items()
        if _REFERENCE in seconds and name != _REFERENCE
    } | {
        f"waiting for data, % of the time of Lightning, {name}": percent(spread(shares))
        for name, shares in waits.items()
    }


def _slug(name: str) -> str:
    return "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _list(values: dict[str, float], form: str) -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def compare(make: Callable[..., Step], names: Sequence[str]) -> list[dict[str, str]]:
    """Compares loss, pooled features and gradients of one step with the CPU in float64.

    Args:
        make: Constructor of a step from its way: on the device, or the reference with `to="cpu",
            double=True`.
        names: Ways of CHECKED.

    Returns:
        One row per way. Its "result" is "within bounds", "out of bounds" or the error.
    """
    expected = make(Way(), to="cpu", double=True).gradients()
    rows = []
    for name in names:
        allowed = _ALLOWED[CHECKED[name].bf16]
        row = {"check": f"{name}, as float64 on the CPU", "allowed": _list(allowed, ".0e")}
        try:
            with _without_tf32():
                relative = differences(make(CHECKED[name]).gradients(), expected)
            row["differences"] = _list(relative, ".1e")
            # NaN is not below its bound.
            equal = all(relative[key] <= allowed[key] for key in allowed)
            row["result"] = "within bounds" if equal else "out of bounds"
        except Exception as error:  # the other parts are still of use
            row |= {"differences": "", "result": reason(error)}
        rows.append(row)
    return rows


@contextlib.contextmanager
def _no_synchronisation() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def synchronisations(make: Callable[..., Step], on_gpu: bool) -> list[dict[str, str]]:
    """Checks that a step lets the host run ahead: nothing in it may wait for the GPU."""
    guard = _no_synchronisation if on_gpu else contextlib.nullcontext
    rows = []
    for name, way in {"eager": Way(), "bf16": Way(bf16=True)}.items():
        try:
            step = make(way)
            step()  # allocates the optimiser's state
            with guard():
                step()
                step()
            result = "none" if on_gpu else "not looked for without a GPU"
        except Exception as error:
            result = reason(error)
        check = f"{name}, the host waits for the GPU"
        rows.append({"check": check, "allowed": "", "differences": "", "result": result})
    return rows


def replays(make: Callable[..., Step]) -> list[dict[str, str]]:
    """Checks that a step replayed from a CUDA graph trains like an eager one."""
    row = {"check": "loss after four steps, captured and eager", "allowed": "1e-01"}
    try:
        eager, graphed = make(Way()), make(Way())
        for _ in range(4):
            eager()
        captured(graphed)()  # three steps before the capture, one replayed
        expected, replayed = (step.forward()[0].item() for step in (eager, graphed))
        difference = abs(replayed - expected) / abs(expected)
        row["differences"] = f"{difference:.1e}"
        row["result"] = "within bounds" if difference <= 0.1 else "out of bounds"
    except Exception as error:
        row |= {"differences": "", "result": reason(error)}
    return [row]


def captured(step: Step) -> Callable[[], None]:
    """Captures the whole step in one CUDA graph: forward, pooling, loss, backward, optimiser.

    The graph always uses the same batch and learning rate. A training that replays one would copy
    each batch into the captured tensors, and keep the rate in a tensor.
    """
    warm_up(step, 3)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    return partial(_replay, graph, step)


def _replay(graph: torch.cuda.CUDAGraph, step: Step) -> None:  # noqa: ARG001
    graph.replay()  # reads the tensors of the step, which the argument keeps alive


def speeds(
    make: Callable[..., Step], ways: dict[str, Way], repeats: int, steps: int, on_gpu: bool
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Times the steps of all ways alternately, on a GPU also the whole step in one graph.

    Args:
        make: Constructor of a step from its way.
        ways: Ways by name.
        repeats: Number of counted rounds.
        steps: Number of steps in a round.
        on_gpu: Whether CUDA graphs can be used.

    Returns:
        seconds: Seconds per step in every round, by name.
        failures: Errors of the ways that failed, by name.
    """
    makers: dict[str, Callable[[], Callable[[], None]]] = {
        name: partial(make, way) for name, way in ways.items()
    }
    if on_gpu:
        makers[_GRAPH] = lambda: captured(make(Way(bf16=True)))
    running: dict[str, Callable[[], None]] = {}
    failures = {}
    for name, maker in makers.items():
        try:
            function = maker()
            for _ in range(3):  # compiles, and allocates
                function()
            running[name] = function
        except Exception as error:
            failures[name] = f"left out ({reason(error)})"
    seconds = times_in_turn({n: _repeated(f, steps) for n, f in running.items()}, repeats)
    return {name: [s / steps for s in values] for name, values in seconds.items()}, failures


def training_loops(
    make: Callable[[int, bool], SoftFeatureModule],
    data: SegmentationData,
    steps: int,
    rounds: int,
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, str]]:
    """Times bfloat16 trainings in a bare PyTorch loop and with Lightning, loading included.

    Args:
        make: Constructor of a module, from whether to replay a CUDA graph.
        data: Data of the trainings.
        steps: Number of counted steps.
        rounds: Number of trainings in each loop.

    Returns:
        seconds: Seconds per step, by loop and way.
        waits: Shares in [0,1] of their time that Lightning's steps waited for data, by way.
        failures: Errors of the ways that failed, by way.
    """
    seconds: dict[str, list[float]] = {}
    waits, failures = {}, {}
    for name, cuda_graph in LOOPS.items():
        module = partial(make, cuda_graph)
        try:
            measured = measured_loops(module, data, steps, rounds, _WARM_UP, bf16=True)
        except Exception as error:  # the other parts are still of use
            failures[f"loops, {name}"] = f"left out ({reason(error)})"
            continue
        waits[name] = measured["waits"]
        for loop in ("bare PyTorch", "Lightning"):
            seconds[f"{loop}, {name}"] = [s / steps for s in measured[loop]]
    return seconds, waits, failures


def _repeated(function: Callable[[], None], steps: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(steps):
            function()

    return run


def images_per_second(
    make: Callable[[int], Callable[[], None]], smallest: int, largest: int, repeats: int, steps: int
) -> list[dict[str, object]]:
    """Measures throughput at growing batch sizes until it is saturated or the memory is full.

    Args:
        make: Constructor of a step from a batch size.
        smallest: First batch size; each further one is twice as large.
        largest: Largest batch size.
        repeats: Number of counted rounds.
        steps: Number of steps in a round.

    Returns:
        One row per batch size; the last one may say that the memory is full.
    """
    rows: list[dict[str, object]] = []
    best, batch = 0.0, smallest
    while batch <= largest:
        try:
            # No variable keeps a measured batch alive, because the next one may need its memory.
            seconds = times_in_turn({"run": _repeated(make(batch), steps)}, repeats)["run"]
        except torch.OutOfMemoryError:
            rows.append({"batch": batch, "images/s": "out of memory"})
            break
        rate = batch * steps / median(seconds)
        rows.append({"batch": batch, "images/s": round(rate, 1)})
        if rate < _SATURATED * best:
            break
        best, batch = rate, 2 * batch
    return rows
