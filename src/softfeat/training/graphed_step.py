"""Forward and backward pass of a training step: the ordinary way, or as one CUDA graph."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeGuard

import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from softfeat.data.dataset import Batch
from softfeat.data.flat_batch import FlatBatch

Losses = Callable[[Any, int], dict[str, Tensor]]


class Step:
    """Computes the losses of batches and the gradients of "loss".

    Args:
        losses: Computes the losses of a batch, one of them named "loss", from the batch and the
            number of the optimiser step.
    """

    def __init__(self, losses: Losses) -> None:
        self.losses = losses

    def __call__(self, batch: Batch, number: int) -> dict[str, Tensor]:
        """Computes the losses of a batch, scalars by name.

        Args:
            batch: The batch.
            number: Number of the optimiser step.
        """
        return self.losses(batch, number)

    def backward(self, loss: Tensor) -> None:
        """Gives the parameters the gradients of the last call's "loss"."""
        loss.backward()  # type: ignore[no-untyped-call]


def can_replay(
    device: str, single_device: bool, precision: str, accumulate_grad_batches: int
) -> bool:
    """Checks whether training steps can be replayed from a CUDA graph.

    Args:
        device: Type of the device, such as "cuda".
        single_device: Whether the trainer uses one device and wraps the module in nothing (no ddp).
        precision: Precision of the trainer.
        accumulate_grad_batches: Number of batches per optimiser step.

    >>> can_replay("cuda", True, "bf16-mixed", 1)
    True
    >>> can_replay("cuda", False, "bf16-mixed", 1)
    False
    """
    return (
        device == "cuda"
        and single_device
        and precision in ("32-true", "bf16-mixed")
        and accumulate_grad_batches == 1
    )


def trainer_can_replay(trainer: Any) -> bool:
    """Applies `can_replay` to a Lightning trainer."""
    return can_replay(
        trainer.strategy.root_device.type,
        isinstance(trainer.strategy, SingleDeviceStrategy),
        trainer.precision,
        trainer.accumulate_grad_batches,
    )


def warm_up(function: Callable[[], object], calls: int) -> None:
    """Calls a function so that libraries choose kernels and allocate, which a capture forbids."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(calls):
            function()
    torch.cuda.current_stream().wait_stream(stream)


class GraphedStep(Step):
    """Replays losses and gradients from one CUDA graph.

    At the paper's batch size a step is a long row of kernels, which the host takes several times as
    long to launch as the GPU to run; a graph is one launch. The first batch is captured with its
    layout. Batches of another layout are computed the ordinary way.

    Args:
        losses: As for `Step`. Must not synchronise with the GPU; batch values may only be used
            inside tensor operations, and the number of the step not at all.
        module: Module on the GPU whose parameters and buffers `losses` reads.

    Raises:
        RuntimeError: `losses` cannot be captured (on the first call).
    """

    def __init__(self, losses: Losses, module: nn.Module) -> None:
        super().__init__(losses)
        self.module = module
        self._graph: torch.cuda.CUDAGraph | None = None

    def replays(self, batch: Mapping[str, Any]) -> TypeGuard[FlatBatch]:
        """Checks whether a batch can be replayed: a flat one of the captured layout, if any."""
        return isinstance(batch, FlatBatch) and (
            self._graph is None or batch.layout == self._batch.layout
        )

    def __call__(self, batch: Batch, number: int) -> dict[str, Tensor]:
        """Computes the losses of a batch; replayed ones have no autograd history."""
        if not self.replays(batch):
            rank_zero_warn(
                "some batches are computed without the CUDA graph, because their superpixels are "
                "less compact than most: training gives the same result, more slowly"
            )
            return super().__call__(batch, number)
        if self._graph is None:
            self._capture(batch)
        assert self._graph is not None
        self._batch.buffer.copy_(batch.buffer)
        self._graph.replay()
        return {name: value.clone() for name, value in self._losses.items()}

    def backward(self, loss: Tensor) -> None:
        """Gives the parameters the gradients of the last call; valid until the next call."""
        if loss.requires_grad:
            super().backward(loss)
            return
        for parameter, gradient in self._gradients:
            parameter.grad = gradient

    def _capture(self, batch: FlatBatch) -> None:
        self._batch = FlatBatch(batch.buffer.clone(), batch.layout, batch.others)
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        buffers = list(self.module.buffers())
        before = [buffer.clone() for buffer in buffers]  # the warm-up does not count as a step
        warm_up(self._pass, 1)  # errors of an ordinary step are raised as they are
        graph = torch.cuda.CUDAGraph()
        try:
            # Synchronisations are found before the capture, which they would leave half done.
            mode = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")
            try:
                warm_up(self._pass, 2)
            finally:
                torch.cuda.set_sync_debug_mode(mode)
            self.module.zero_grad()
            # The loader pins memory from another thread at the same time.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._losses = self._pass()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RuntimeError(
                "this training step cannot be captured as a CUDA graph: set model.cuda_graph=false"
            ) from error
        self._gradients = [(p, p.grad) for p in parameters if p.grad is not None]
        self.module.zero_grad()
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        self._graph = graph

    def _pass(self) -> dict[str, Tensor]:
        with self._autocast(torch.is_autocast_enabled("cuda")):
            losses = self.losses(self._batch, 0)
        with self._autocast(False):
            losses["loss"].backward()  # type: ignore[no-untyped-call]
        return {name: value.detach() for name, value in losses.items()}

    def _autocast(self, enabled: bool) -> AbstractContextManager[None]:
        # Of the kind that is on, without its cache: weights that were cast before the capture would
        # keep their old values.
        dtype = torch.get_autocast_dtype("cuda")
        return torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False)
