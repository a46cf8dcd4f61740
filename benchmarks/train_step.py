"""A training step: ways to compute it, what Lightning and the loader add, and where time goes.

The measured time of a step is compared with a floor, the sum over all of its operators of

    max(FLOPs / rate, bytes / bandwidth)

where `bytes` are the inputs and outputs of an operator, once each. Views cost nothing, and what is
recomputed to save memory does not count. The operators are those of the layers as they are written,
not the fewest possible. `rate` is the faster of a product of two square float32 matrices and a
large 3x3 convolution, because either library may be the slower one on a processor. `bandwidth` is
that of a copy that reads and writes a tensor larger than the caches. A step can beat the floor
where data stays in the caches between operators.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.loops import loop_settings, measured_loops
from benchmarks.measure import (
    milliseconds,
    peak_memory,
    percent,
    ratio,
    spread,
    timed,
    times_in_turn,
)
from benchmarks.step import Loss, MakeOptimizer, Recipe, Step, Way, differences, reason
from softfeat.data.datamodule import SegmentationData
from softfeat.models.convolutions import ConvolutionSequence
from softfeat.models.extractor import Extractor
from softfeat.training.machine import bf16_instructions

NAIVE, NATIVE = "full-resolution map", "native"
_BF16, _KEPT, _PLAIN = ", bf16", ", all kept", ", PyTorch's layers"
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
# For networks with layers of `models.convolutions`.
PLAIN = {
    NATIVE + _PLAIN: Way(plain=True),
    NATIVE + _PLAIN + _BF16: Way(plain=True, bf16=True),
}
COMPILED = {"native, compiled": Way(compile="default")}
CUDA_GRAPHS = {"native, compiled, CUDA graphs": Way(compile="reduce-overhead")}


@dataclass(frozen=True)
class Floor:
    """Time of a step at the machine's measured rates; see the module's docstring.

    Attributes:
        flops: Operations of all operators that arithmetic limits.
        flops_per_second: Rate of the arithmetic.
        bytes: Bytes that all other operators read and write.
        bytes_per_second: Bandwidth.
    """

    flops: int
    flops_per_second: float
    bytes: int
    bytes_per_second: float

    @property
    def arithmetic(self) -> float:
        """Seconds of the operators that arithmetic limits."""
        return self.flops / self.flops_per_second

    @property
    def memory(self) -> float:
        """Seconds of all other operators."""
        return self.bytes / self.bytes_per_second

    @property
    def seconds(self) -> float:
        """Sum of both."""
        return self.arithmetic + self.memory


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
    """Measures training steps on real photos, and trainings on `data`.

    Args:
        extractor: Network; its weights do not matter here.
        loss: Loss function.
        optimizer: Constructor of the optimiser.
        data: Data of the trainings. Single steps use batches of the same size.
        repeats: Number of counted rounds of the single steps.
        steps: Number of counted steps of a training, after one warm-up step.
        rounds: Number of trainings in each loop.
        compiled: Whether to measure `torch.compile` too.
        name: Name of the result files.

    Returns:
        Result with one row per way of computing a step.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe = Recipe(extractor, loss, optimizer, data.image_size, data.superpixels.count)
    ways, notes = _steps(recipe, data.batch_size, device, compiled)
    seconds = times_in_turn(ways, repeats)
    memory = {way: peak_memory(step) for way, step in ways.items()}
    gradients = _gradient_differences(recipe, data.batch_size, device)
    module = partial(recipe.module, cuda_graph=False, device=device)
    loops = measured_loops(module, data, steps, rounds)
    floor = time_floor(ways[NATIVE + _KEPT])
    native = median(seconds[NATIVE])
    return {
        "name": name,
        "title": "A training step",
        "settings": {
            **loop_settings(data, steps, rounds),
            "rounds": repeats,
            "largest relative difference of the gradients, full map and native": gradients,
            **notes,
            "largest difference of the weights after either loop": f"{loops['difference']:.1e}",
        },
        "rows": _way_rows(seconds, memory),
        "tables": {
            "Loops, the loader included": _loop_rows(loops, steps),
            "Where the native step's time goes": _part_rows(time_by_part(ways[NATIVE], repeats=3)),
            "The floor": _floor_rows(floor, native),
        },
        "ratios": {
            **_way_ratios(seconds, memory),
            **_loop_ratios(loops),
            "time, native / floor": {"median": native / floor.seconds},
        },
    }


def _steps(
    recipe: Recipe, batch_size: int, device: str, compiled: bool
) -> tuple[dict[str, Step], dict[str, str]]:
    """Makes a step for every way that works here, and notes for the settings."""
    batch = recipe.batch(batch_size, device)
    own_layers = any(isinstance(m, ConvolutionSequence) for m in recipe.extractor.modules())
    compared = {**WAYS, **(PLAIN if own_layers else {})}
    ways = {name: recipe.step(batch, way) for name, way in compared.items()}
    notes = {"bf16 instructions": bf16_instructions(device)}
    candidates = {**COMPILED, **(CUDA_GRAPHS if device == "cuda" else {})} if compiled else {}
    for name, way in candidates.items():
        step = recipe.step(batch, way)
        works, notes[name] = compiles(step)
        if works:
            ways[name] = step
    return ways, notes


def _gradient_differences(recipe: Recipe, batch_size: int, device: str) -> str:
    """Compares the gradients of the full map with the native ones, in both precisions."""
    texts = []
    for precision, double in (("float64", True), ("float32", False)):
        batch = recipe.batch(batch_size, device, double)
        native, full = (recipe.step(batch, WAYS[way]).gradients() for way in (NATIVE, NAIVE))
        texts.append(f"{differences(full, native)['gradients']:.1e} ({precision})")
    return ", ".join(texts)


def _way_rows(
    seconds: Mapping[str, list[float]], memory: Mapping[str, int]
) -> list[dict[str, object]]:
    return [
        {"step": way, **milliseconds(seconds[way]), "peak MB": round(memory[way] / 1e6, 1)}
        for way in seconds
    ]


def _loop_rows(loops: Mapping[str, Any], steps: int) -> list[dict[str, object]]:
    return [
        {"loop": loop, **milliseconds([s / steps for s in loops[loop]])}
        for loop in ("bare PyTorch", "Lightning")
    ]


def _part_rows(seconds: Mapping[str, float]) -> list[dict[str, object]]:
    total = sum(seconds.values())
    return [
        {"part": name, "ms": round(1e3 * s, 2), "%": round(100 * s / total)}
        for name, s in sorted(seconds.items(), key=lambda item: -item[1])
    ]


def _floor_rows(floor: Floor, native: float) -> list[dict[str, object]]:
    """Makes a table of the floor and of the native step, which takes `native` seconds."""
    flops = (f"{floor.flops / 1e9:.2f} GFLOP", f"{floor.flops_per_second / 1e9:.0f} GFLOP/s")
    num_bytes = (f"{floor.bytes / 1e9:.2f} GB", f"{floor.bytes_per_second / 1e9:.1f} GB/s")
    return [
        {"what": what, "amount": amount, "rate": rate, "ms": round(1e3 * seconds, 2)}
        for what, (amount, rate), seconds in (
            ("operators limited by arithmetic", flops, floor.arithmetic),
            ("operators limited by memory", num_bytes, floor.memory),
            ("floor", ("", ""), floor.seconds),
            ("native step", ("", ""), native),
        )
    ]


def _loop_ratios(loops: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {
        "time, Lightning in % of bare PyTorch": percent(
            ratio(loops["Lightning"], loops["bare PyTorch"])
        ),
        "waiting for data, % of Lightning's time": percent(spread(loops["waits"])),
    }


def _way_ratios(
    seconds: Mapping[str, list[float]], memory: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """Compares the full map with native pooling, and native ways with the default."""
    kinds = ("", _BF16, _KEPT)
    return {
        **{
            f"time, full map / native{kind}": ratio(seconds[NAIVE + kind], seconds[NATIVE + kind])
            for kind in kinds
        },
        **{
            f"memory, full map / native{kind}": {
                "median": memory[NAIVE + kind] / memory[NATIVE + kind]
            }
            for kind in kinds
        },
        **{
            f"time, {way}, in % of native": percent(ratio(seconds[way], seconds[NATIVE]))
            for way in seconds
            if way != NATIVE and not way.startswith(NAIVE)
        },
    }


def compiles(step: Step) -> tuple[bool, str]:
    """Compiles a step; returns whether that worked, and the time it took or why it failed."""
    try:
        _, seconds = timed(step)
    except Exception as error:  # raised by the compiler, or because there is none
        return False, f"left out ({reason(error)})"
    return True, f"{seconds:.0f} s to compile"


# An operator belongs to the first part with a name that occurs in that of the operator itself, of
# an operator that calls it, or of its node in the backward pass.
_PARTS = {
    "depthwise convolution": ("_Depthwise",),
    "1x1 convolution of frozen stages": (
        "aten::linear",
        "aten::addmm",
        "aten::mm",
        "AddmmBackward",
        "MmBackward",
    ),
    "batch norm": ("batch_norm", "BatchNormBackward"),
    "ReLU, addition": (
        *("aten::relu", "aten::clamp_min", "aten::threshold", "aten::add"),
        *("ReLU6", "aten::hardtanh"),
    ),
    "convolution, backward": ("convolution_backward", "conv2d_backward", "ConvolutionBackward"),
    "convolution, forward": ("aten::convolution", "aten::_convolution", "aten::conv2d"),
}
# Everything that one of these runs, forward and backward, belongs to it.
_SCOPES = ("pooling", "loss", "optimiser")


def _profiled(step: Step, repeats: int) -> profile:
    """Profiles steps, with a scope for each of `_SCOPES`."""
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
    return profiler


def time_by_part(step: Step, repeats: int) -> dict[str, float]:
    """Sums the profiler's self-times of all operators by the part of the step they belong to.

    "other" is max pooling, padding, scaling, folding of batch norms, adding up gradients, and what
    the host does between operators.

    Args:
        step: Eager step with native pooling.
        repeats: Number of profiled steps.

    Returns:
        Seconds per step, by part.
    """
    profiler = _profiled(step, repeats)
    on_gpu = step.device.type == "cuda"
    events = [e for e in profiler.events() if e.device_type.name == "CPU"]  # not the kernels
    lines = {event.id: list(_lineage(event)) for event in events}
    # A node of the backward pass has the sequence number of its forward operator.
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
        parts = (
            part
            for part, marks in _PARTS.items()
            if any(mark in ancestor.name for ancestor in line for mark in marks)
        )
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        seconds[scope or next(parts, "other")] += spent / 1e6 / repeats
    return dict(seconds)


def _lineage(event: Any) -> Iterator[Any]:
    """Yields a profiled event and the events that contain it, from the inside out."""
    while event is not None:
        yield event
        event = event.cpu_parent


class _Operators(TorchDispatchMode):
    """Counts operations and bytes of every operator that is not a view."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[tuple[int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not (func.is_view or any(name in str(func) for name in ("empty", "detach"))):
            tensors = tree_leaves((args, kwargs, result))
            num_bytes = sum(t.nbytes for t in tensors if isinstance(t, Tensor))
            self.counts.append((_flops(func, args, kwargs or {}, result), num_bytes))
        return result


def _flops(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Counts the operations of convolutions and matrix products; others have none."""
    if func is torch.ops.aten.convolution_backward.default:
        # PyTorch's own count is too high by the number of groups.
        gradient, _, weight = args[:3]
        mask = kwargs["output_mask"] if "output_mask" in kwargs else args[-1]
        return 2 * gradient.numel() * weight[0].numel() * sum(mask[:2])
    count = flop_registry.get(func._overloadpacket)
    return 0 if count is None else int(count(*args, **kwargs, out_val=result))


def _machine_rates(device: torch.device) -> tuple[float, float]:
    """Measures operations per second and bytes per second."""
    matrix = torch.randn(1024, 1024, device=device)
    photo = torch.randn(4, 128, 56, 56, device=device)
    kernel = torch.randn(128, 128, 3, 3, device=device)
    photo, kernel = (x.to(memory_format=torch.channels_last) for x in (photo, kernel))
    large = torch.zeros(16_000_000, device=device)
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
    return rate, (large.nbytes + other.nbytes) / best["copy"]


def time_floor(step: Step) -> Floor:
    """Measures the machine's rates, and counts what the operators of a step do.

    Args:
        step: Eager step.
    """
    flops_per_second, bytes_per_second = _machine_rates(step.device)
    with _Operators() as operators:
        step()
    arithmetic = memory = 0
    for flops, num_bytes in operators.counts:
        if flops / flops_per_second > num_bytes / bytes_per_second:
            arithmetic += flops
        else:
            memory += num_bytes
    return Floor(arithmetic, flops_per_second, memory, bytes_per_second)
