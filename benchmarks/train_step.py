"""A training step: how it is computed, what Lightning and the loader add, where its time goes.

The floor that the step is held against is the sum of two times:

    arithmetic = 3 * B * FLOPs(forward pass of one photo) / rate
    memory     = bytes / bandwidth

The backward pass of a convolution is two convolutions of the same size, hence 3; what is computed
anew to save memory does not count. `rate` is the best of a product of two square float32 matrices
and of a large 3x3 convolution: either library may be the slower one on a processor.
`bytes` counts, for every operator of the step that is neither a view nor a convolution or matrix
product, its inputs and outputs once each; `bandwidth` is that of a copy that reads and writes a
tensor larger than the caches. What stays in the caches from one operator to the next may be faster
than that.
"""

import copy
import time
from collections import defaultdict
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.loops import measured_loops
from benchmarks.measure import milliseconds, peak_memory, ratio, times_in_turn
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
from softfeat.models.flops import model_size
from softfeat.training.machine import bf16_instructions
from softfeat.training.soft_features import SoftFeatureModule

NAIVE, NATIVE = "full-resolution map", "native"
_BF16, _KEPT = ", bf16", ", all kept"
WAYS = {
    NAIVE: Way(full_map=True),
    NATIVE: Way(),
    NAIVE + _BF16: Way(full_map=True, bf16=True),
    NATIVE + _BF16: Way(bf16=True),
    NAIVE + _KEPT: Way(full_map=True, keep=True),
    NATIVE + _KEPT: Way(keep=True),
    "native, contiguous": Way(channels_last=False),
    "native, contiguous, bf16": Way(channels_last=False, bf16=True),
}
COMPILED = {"native, compiled": Way(compile="default")}
CUDA_GRAPHS = {"native, compiled, CUDA graphs": Way(compile="reduce-overhead")}


def train_step(
    extractor: Extractor,
    loss: Loss,
    optimizer: MakeOptimizer,
    data: SegmentationData,
    repeats: int = 10,
    steps: int = 20,
    rounds: int = 3,
    compiled: bool = True,
    name: str = "train_step",
) -> dict[str, Any]:
    """Measures training steps on real photos, and loops of them on `data`.

    Args:
        extractor: the network; its weights do not matter here.
        loss: of features and labels.
        optimizer: made from the parameters.
        data: what the loops read; its batch size, photo size and number of superpixels hold for
            the single steps, too.
        repeats: counted rounds of the single steps.
        steps: counted steps of a loop; one more goes before them.
        rounds: of each loop.
        compiled: measure `torch.compile`, too.
        name: of the result files.

    Returns:
        Name, title, settings, `rows` (one a way of computing a step), `tables` and ratios.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size, count = data.image_size, data.superpixels.count
    images, superpixels = photo_batch(data.batch_size, size, count)
    sizes = extractor.level_sizes(size)
    batch = batch_to(step_batch(images, superpixels, count, sizes), device)

    def step(way: Way) -> Step:
        return Step(extractor, loss, optimizer, batch, count, way)

    ways = {name: step(way) for name, way in WAYS.items()}
    notes = {"bf16 instructions": bf16_instructions(device)}
    for kind, way in {**COMPILED, **(CUDA_GRAPHS if device == "cuda" else {})}.items():
        if compiled:
            candidate = step(way)
            works, notes[kind] = compiles(candidate)
            if works:
                ways[kind] = candidate
    seconds = times_in_turn(ways, repeats)
    memory = {name: peak_memory(way) for name, way in ways.items()}

    double = batch_to(step_batch(images.double(), superpixels, count, sizes), device)
    (exact, full), (single, single_full) = (
        [
            Step(network, loss, optimizer, values, count, WAYS[name]).gradients()
            for name in (NATIVE, NAIVE)
        ]
        for network, values in ((copy.deepcopy(extractor).double(), double), (extractor, batch))
    )
    gradients = {
        "float64": differences(full, exact)["gradients"],
        "float32": differences(single_full, single)["gradients"],
    }

    def module() -> SoftFeatureModule:
        network = copy.deepcopy(extractor)
        return SoftFeatureModule(network, loss, optimizer, count).to(device)

    loops = measured_loops(module, data, steps, rounds)
    shares = time_by_part(ways[NATIVE], repeats=3)
    floor = floor_of(
        ways[NATIVE + _KEPT], model_size(extractor, size)["model/gflops"] * len(images)
    )
    native = median(seconds[NATIVE])
    sides = [(kind, NAIVE + kind, NATIVE + kind) for kind in ("", _BF16, _KEPT)]
    return {
        "name": name,
        "title": "A training step",
        "settings": {
            "batch": len(images),
            "image": "x".join(map(str, size)),
            "superpixels": count,
            "rounds": repeats,
            "largest relative difference of the gradients, full map and native": ", ".join(
                f"{value:.1e} ({name})" for name, value in gradients.items()
            ),
            **notes,
            "loops": f"{rounds} times {steps} steps each on {data.layout.__class__.__name__}, "
            f"{data.num_workers} loader processes",
            "largest difference of the weights after either loop": f"{loops['difference']:.1e}",
        },
        "rows": [
            {"step": name, **milliseconds(seconds[name]), "peak MB": round(memory[name] / 1e6, 1)}
            for name in ways
        ],
        "tables": {
            "Loops, the loader included": [
                {"loop": name, **milliseconds([s / steps for s in loops[name]])}
                for name in ("bare PyTorch", "Lightning")
            ],
            "Where the native step's time goes": [
                {"part": name, "ms": round(1e3 * s, 2), "%": round(100 * s / sum(shares.values()))}
                for name, s in sorted(shares.items(), key=lambda item: -item[1])
            ],
            "The floor": [
                *floor["rows"],
                {"what": "native step", "amount": "", "rate": "", "ms": round(1e3 * native, 2)},
            ],
        },
        "ratios": {
            **{
                f"time, full map / native{kind}": ratio(seconds[full], seconds[ours])
                for kind, full, ours in sides
            },
            **{
                f"memory, full map / native{kind}": {"median": memory[full] / memory[ours]}
                for kind, full, ours in sides
            },
            **{
                f"time, {name}, in % of native": _percent(ratio(seconds[name], seconds[NATIVE]))
                for name in ways
                if name != NATIVE and not name.startswith(NAIVE)
            },
            "time, Lightning in % of bare PyTorch": _percent(
                ratio(loops["Lightning"], loops["bare PyTorch"])
            ),
            "waiting for data, % of Lightning's time": _percent(
                {
                    "median": median(loops["waits"]),
                    "min": min(loops["waits"]),
                    "max": max(loops["waits"]),
                }
            ),
            "time, native / floor": {"median": native / floor["seconds"]},
        },
    }


def _percent(values: dict[str, float]) -> dict[str, float]:
    return {name: 100 * value for name, value in values.items()}


def compiles(step: Step) -> tuple[bool, str]:
    """Compiles a step: whether that works, and how long it took, or why it failed."""
    started = time.perf_counter()
    try:
        step()
    except Exception as error:  # of the compiler, or because there is none
        return False, f"left out ({reason(error)})"
    return True, f"{time.perf_counter() - started:.0f} s to compile"


# The part of an operator is that of the innermost scope that has one of these in its name: its own,
# that of the operator it runs in, or of the node of the backward pass.
_PARTS = {
    "convolution, backward": ("convolution_backward", "conv2d_backward", "ConvolutionBackward"),
    "convolution, forward": ("aten::convolution", "aten::_convolution", "aten::conv2d"),
    "batch norm": ("batch_norm", "BatchNormBackward"),
    "ReLU, addition": ("aten::relu", "aten::clamp_min", "aten::threshold", "aten::add"),
}
# But all that one of these runs or derives belongs to it.
_SCOPES = ("pooling", "loss", "optimiser")


def time_by_part(step: Step, repeats: int) -> dict[str, float]:
    """Seconds a step, by part, summed from the profiler's self-times of all operators.

    "other" is max pooling, scaling, adding up gradients, and what the host does between operators.

    Args:
        step: an eager one with native pooling.
        repeats: profiled steps.
    """
    activities = [ProfilerActivity.CPU]
    if step.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        for _ in range(repeats):
            levels = step.extractor.pyramid(step.batch["image"])
            with record_function("pooling"):
                pooled = step.module.superpixel_features(step.batch, lambda _, x=levels: x)  # type: ignore[misc]
            with record_function("loss"):
                loss = step.module.loss(*pooled)
            loss.backward()
            with record_function("optimiser"):
                step.optimizer.step()
                step.optimizer.zero_grad()
    events = [e for e in profiler.events() if e.device_type.name == "CPU"]  # not the kernels
    lines = {event.id: list(_lineage(event)) for event in events}
    # A node of the backward pass bears the number of the operator that it derives.
    scopes = {
        event.sequence_nr: line[-1].name
        for event in events
        if event.sequence_nr >= 0 and (line := lines[event.id])[-1].name in _SCOPES
    }
    seconds: dict[str, float] = defaultdict(float)
    for event in events:
        line = lines[event.id]
        outer = line[-1].name
        scope = outer if outer in _SCOPES else scopes.get(line[-1].sequence_nr)
        found = (
            part
            for ancestor in line
            for part, marks in _PARTS.items()
            if any(mark in ancestor.name for mark in marks)
        )
        on_gpu = step.device.type == "cuda"
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        seconds[scope or next(found, "other")] += spent / 1e6 / repeats
    return dict(seconds)


def _lineage(event: Any) -> Iterator[Any]:
    """A profiled event and those it runs in, outwards."""
    while event is not None:
        yield event
        event = event.cpu_parent


class _Traffic(TorchDispatchMode):
    """Counts the bytes of what operators read and write, but convolutions and matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(func)
        if not (func.is_view or any(n in name for n in ("convolution", "mm", "empty", "detach"))):
            tensors = tree_leaves((args, kwargs, result))
            self.bytes += sum(t.nbytes for t in tensors if isinstance(t, Tensor))
        return result


def floor_of(step: Step, gflops: float) -> dict[str, Any]:
    """What the step would take at the machine's measured rates; the module's docstring has how.

    Args:
        step: an eager one.
        gflops: 10^9 operations of its forward pass.

    Returns:
        `seconds`, `bytes`, and `rows` of arithmetic, memory and their sum.
    """
    matrix = torch.randn(1024, 1024, device=step.device)
    photo = torch.randn(4, 128, 56, 56, device=step.device)
    kernel = torch.randn(128, 128, 3, 3, device=step.device)
    photo, kernel = (x.to(memory_format=torch.channels_last) for x in (photo, kernel))
    large = torch.zeros(16_000_000, device=step.device)
    other = torch.zeros_like(large)
    best = {
        name: min(seconds)
        for name, seconds in times_in_turn(
            {
                "product": lambda: matrix @ matrix,
                "convolution": lambda: F.conv2d(photo, kernel, padding=1),
                "copy": lambda: other.copy_(large),
            },
            30,
        ).items()
    }
    rate = max(
        2 * len(matrix) ** 3 / best["product"],
        2 * photo.numel() * kernel[0].numel() / best["convolution"],
    )
    bandwidth = (large.nbytes + other.nbytes) / best["copy"]
    with _Traffic() as traffic:
        step()
    arithmetic, memory = 3e9 * gflops / rate, traffic.bytes / bandwidth
    rows = [
        ("arithmetic", f"{3 * gflops:.2f} GFLOP", f"{rate / 1e9:.0f} GFLOP/s", arithmetic),
        ("memory", f"{traffic.bytes / 1e9:.2f} GB", f"{bandwidth / 1e9:.1f} GB/s", memory),
        ("floor", "", "", arithmetic + memory),
    ]
    return {
        "seconds": arithmetic + memory,
        "bytes": traffic.bytes,
        "rows": [
            {"what": what, "amount": amount, "rate": per_second, "ms": round(1e3 * seconds, 2)}
            for what, amount, per_second, seconds in rows
        ],
    }
