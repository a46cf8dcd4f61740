"""The training step on a CUDA GPU: is it right, does it keep the GPU busy, and how fast is it?

The reference of the checks is the same step on the CPU in float64. float32 is checked without
TF32, which the measurements allow, as PyTorch does by default. Differences of the gradients are
large by nature: rounding grows on its way through twenty blocks of batch norm.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.loops import measured_loops
from benchmarks.measure import milliseconds, ratio, times_in_turn
from benchmarks.photos import photo_batch
from benchmarks.step import (
    Loss,
    MakeOptimizer,
    Step,
    Way,
    batch_to,
    differences,
    reason,
    step_batch,
)
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
_PAPER_STEPS = 60_000  # of batch 4: 12 hours on a Titan Xp
_WARM_UP = 20  # steps of a loop before those that count: graphs are recorded within the first few
# Largest differences, relative to the largest value.
_ALLOWED = {
    False: {"loss": 1e-3, "features": 1e-2, "gradients": 5e-2},
    True: {"loss": 5e-2, "features": 6e-1, "gradients": 3e-1},  # bf16
}
_SATURATED = 1.05  # a doubled batch that gains less ends the search


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
    """Checks and measures; what fails or does not fit into memory is noted, and the rest goes on.

    Args:
        extractor: the network; its weights do not matter here.
        loss: of features and labels.
        optimizer: made from the parameters; for single steps on a GPU given `capturable=True`, too.
        data: what the loops read; its batch size, photo size and number of superpixels hold for
            the single steps, too, but where batches grow.
        repeats: counted rounds of single steps.
        steps: of each round, in a row.
        loop_steps: counted steps of a loop.
        loop_rounds: of each loop.
        largest_batch: where the batch stops growing.
        compiled: check and measure `torch.compile`, too.
        device: "cpu" runs all of it that needs no GPU.

    Returns:
        Name (of the result's file), title, settings, `rows` (one a way), `tables` and ratios.

    Raises:
        ValueError: no such device.
    """
    on_gpu = device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise ValueError(
            "suite=gpu needs a CUDA GPU and a PyTorch built for it, and torch.cuda.is_available() "
            "is False. On a machine with a GPU, look at nvidia-smi and install PyTorch from PyPI "
            "(without TORCH= in make); without one, python -m benchmarks suite=train_step "
            "measures the CPU"
        )
    # A step that is captured keeps its count of steps on the device.
    capturable = partial(optimizer, capturable=True) if on_gpu else optimizer
    batch_size, image_size = data.batch_size, data.image_size
    num_superpixels = data.superpixels.count
    sizes = extractor.level_sizes(image_size)

    def make(way: Way, batch: int = batch_size, to: str = device, double: bool = False) -> Step:
        images, superpixels = photo_batch(batch, image_size, num_superpixels)
        images = images.double() if double else images
        values = step_batch(images, superpixels, num_superpixels, sizes)
        network = copy.deepcopy(extractor).double() if double else extractor
        made_by = capturable if to == device else torch.optim.SGD
        return Step(network, loss, made_by, batch_to(values, to), num_superpixels, way)

    checks = [
        *compare(make, [n for n in CHECKED if compiled or CHECKED[n].compile is None]),
        *synchronisations(make, on_gpu),
        *(replays(make) if on_gpu else []),
    ]
    measured = {n: w for n, w in MEASURED.items() if compiled or w.compile is None}
    seconds, failures = speeds(make, measured, repeats, steps, on_gpu)

    def of_batch(batch: int) -> Callable[[], None]:
        step = make(Way(bf16=True), batch)
        return captured(step) if on_gpu else step

    growth = images_per_second(of_batch, batch_size, largest_batch, repeats, steps)

    def module(cuda_graph: bool) -> SoftFeatureModule:
        return SoftFeatureModule(
            copy.deepcopy(extractor),
            loss,
            optimizer,
            num_superpixels,
            cuda_graph=cuda_graph,
        ).to(device)

    loops, waits, failed = loops_of(module, data, loop_steps, loop_rounds)
    reference = "eager, contiguous"
    return {
        "name": "gpu_" + _slug(torch.cuda.get_device_name() if on_gpu else device),
        "title": "The training step on a GPU",
        "settings": {
            "batch": batch_size,
            "image": "x".join(map(str, image_size)),
            "superpixels": num_superpixels,
            "rounds": f"{repeats} of {steps} steps",
            "loops": f"{loop_rounds} times {loop_steps} steps each on "
            f"{data.layout.__class__.__name__}{', packed' if data.pack else ''}, "
            f"{data.num_workers} loader processes",
            **({} if compiled else {"torch.compile": "not measured"}),
            **failures,
            **failed,
        },
        "rows": [
            {"step": name, **milliseconds(s), "steps/s": round(1 / median(s), 1)}
            for name, s in seconds.items()
        ]
        or [{"step": "none ran"}],
        "tables": {
            "Checks": checks,
            "Loops, the loader included": [
                {
                    "loop": name,
                    **milliseconds(s),
                    "steps/s": round(1 / median(s), 1),
                    f"{_PAPER_STEPS} steps, minutes": round(_PAPER_STEPS * median(s) / 60, 1),
                }
                for name, s in loops.items()
            ]
            or [{"loop": "none ran"}],
            f"Batches, {_GRAPH if on_gpu else 'eager, bf16'}": growth,
        },
        "ratios": {
            f"time, {reference} / {name}": ratio(seconds[reference], s)
            for name, s in seconds.items()
            if reference in seconds and name != reference
        }
        | {
            f"waiting for data, % of the time of Lightning, {name}": {
                "median": 100 * median(shares),
                "min": 100 * min(shares),
                "max": 100 * max(shares),
            }
            for name, shares in waits.items()
        },
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
    """Loss, pooled features and gradients of one step beside those on the CPU in float64.

    Args:
        make: a step of a way, on the device or (`to="cpu", double=True`) as the reference.
        names: of ways in CHECKED.

    Returns:
        A row a way, whose `result` is "within bounds", "out of bounds" or why there is none.
    """
    expected = make(Way(), to="cpu", double=True).gradients()
    rows = []
    for name in names:
        allowed = _ALLOWED[CHECKED[name].bf16]
        row = {"check": f"{name}, as float64 on the CPU", "allowed": _list(allowed, ".0e")}
        try:
            with _without_tf32():
                found = differences(make(CHECKED[name]).gradients(), expected)
            row["differences"] = _list(found, ".1e")
            # a value that is no number is not below its bound
            equal = all(found[key] <= allowed[key] for key in allowed)
            row["result"] = "within bounds" if equal else "out of bounds"
        except Exception as error:  # the other parts still tell something
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
    """Whether a step lets the host run ahead: nothing in it may wait for the GPU."""
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
    """Whether a step that is replayed from a CUDA graph trains as an eager one does."""
    row = {"check": "loss after four steps, captured and eager", "allowed": "1e-01"}
    try:
        eager, graphed = make(Way()), make(Way())
        for _ in range(4):
            eager()
        captured(graphed)()  # three steps before the capture, one replayed
        expected, found = (step.forward()[0].item() for step in (eager, graphed))
        difference = abs(found - expected) / abs(expected)
        row["differences"] = f"{difference:.1e}"
        row["result"] = "within bounds" if difference <= 0.1 else "out of bounds"
    except Exception as error:
        row |= {"differences": "", "result": reason(error)}
    return [row]


def captured(step: Step) -> Callable[[], None]:
    """The whole step as one CUDA graph: forward, pooling, loss, backward, optimiser.

    The graph holds its batch and its learning rate as they are; a training that replays one
    copies each batch into the captured tensors, and holds the rate in a tensor.
    """
    warm_up(step, 3)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    return partial(_replay, graph, step)


def _replay(graph: torch.cuda.CUDAGraph, step: Step) -> None:  # noqa: ARG001
    graph.replay()  # reads the tensors of the step, and does not keep them


def speeds(
    make: Callable[..., Step], ways: dict[str, Way], repeats: int, steps: int, on_gpu: bool
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds a step of every way, in turn, and on a GPU of the whole step in one graph.

    Args:
        make: a step of a way.
        ways: by name.
        repeats: counted rounds.
        steps: of each round.
        on_gpu: whether there are graphs.

    Returns:
        Seconds a step by name, and why by the names of the ways that failed.
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


def loops_of(
    make: Callable[..., SoftFeatureModule],
    data: SegmentationData,
    steps: int,
    rounds: int,
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, str]]:
    """Trainings in bfloat16 with their loader: a bare PyTorch loop and Lightning, of every way.

    Args:
        make: Makes a module, given whether it replays a CUDA graph.
        data: what they read.
        steps: counted steps of a loop.
        rounds: of each loop.

    Returns:
        Seconds a step by loop and way; shares of Lightning's time in [0,1] that it waited for data
        by way; why by the names of the ways that failed.
    """
    seconds: dict[str, list[float]] = {}
    waits, failures = {}, {}
    for name, cuda_graph in LOOPS.items():
        module = partial(make, cuda_graph)
        try:
            found = measured_loops(module, data, steps, rounds, _WARM_UP, bf16=True)
        except Exception as error:  # the other parts still tell something
            failures[f"loops, {name}"] = f"left out ({reason(error)})"
            continue
        waits[name] = found["waits"]
        for loop in ("bare PyTorch", "Lightning"):
            seconds[f"{loop}, {name}"] = [s / steps for s in found[loop]]
    return seconds, waits, failures


def _repeated(function: Callable[[], None], steps: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(steps):
            function()

    return run


def images_per_second(
    make: Callable[[int], Callable[[], None]], smallest: int, largest: int, repeats: int, steps: int
) -> list[dict[str, object]]:
    """Throughput of batches that double, until it is saturated or the memory is full.

    Args:
        make: a step of a batch size.
        smallest: batch.
        largest: batch.
        repeats: counted rounds.
        steps: of each round.

    Returns:
        A row a batch size; the last one may hold why it ended.
    """
    rows: list[dict[str, object]] = []
    best, batch = 0.0, smallest
    while batch <= largest:
        try:
            # Nothing holds on to a batch that is done with: the next may need its memory.
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
