"""Forward and backward pass of a training step as one CUDA graph."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from softfeat.data.flat_batch import FlatBatch


def warm_up(function: Callable[[], object], calls: int) -> None:
    """Lets libraries choose their kernels and allocate, as a capture cannot."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(calls):
            function()
    torch.cuda.current_stream().wait_stream(stream)


class GraphedGradients:
    """Losses and gradients of batches, replayed from one CUDA graph.

    At the paper's batch size a step is a long row of kernels that the host takes several times as
    long to launch as the GPU to run; a graph is one launch. The first batch is captured with its
    layout; batches of another layout have to go without.

    Args:
        losses: of a batch; "loss" is the one that gradients are of. Nothing in it may wait for the
            GPU or hang on the values of the batch but by operators.
        module: whose parameters and buffers `losses` reads, on the GPU.
    """

    def __init__(self, losses: Callable[[Any], dict[str, Tensor]], module: nn.Module) -> None:
        self.losses, self.module = losses, module
        self._graph: torch.cuda.CUDAGraph | None = None

    def takes(self, batch: Mapping[str, Any]) -> TypeGuard[FlatBatch]:
        """Whether a batch can be replayed: a flat one of the layout that was captured, if any."""
        return isinstance(batch, FlatBatch) and (
            self._graph is None or batch.layout == self._batch.layout
        )

    def __call__(self, batch: FlatBatch) -> dict[str, Tensor]:
        """The losses of a batch that is taken, without a history.

        Raises:
            RuntimeError: `losses` cannot be captured.
        """
        if self._graph is None:
            self._capture(batch)
        assert self._graph is not None
        self._batch.buffer.copy_(batch.buffer)
        self._graph.replay()
        return {name: value.clone() for name, value in self._losses.items()}

    def give_gradients(self) -> None:
        """Lets the parameters hold the gradients of the last call, until the next one."""
        for parameter, gradient in self._gradients:
            parameter.grad = gradient

    def _capture(self, batch: FlatBatch) -> None:
        self._batch = FlatBatch(batch.buffer.clone(), batch.layout, batch.others)
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        buffers = list(self.module.buffers())
        before = [buffer.clone() for buffer in buffers]  # the warm-up counts as no step
        warm_up(self._pass, 1)  # errors of an ordinary step are told as they are
        graph = torch.cuda.CUDAGraph()
        try:
            # What waits for the GPU is told before a capture, which it would leave half done.
            mode = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")
            try:
                warm_up(self._pass, 2)
            finally:
                torch.cuda.set_sync_debug_mode(mode)
            self.module.zero_grad()
            # The loader pins memory from another thread meanwhile.
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
            losses = self.losses(self._batch)
        with self._autocast(False):
            losses["loss"].backward()  # type: ignore[no-untyped-call]
        return {name: value.detach() for name, value in losses.items()}

    def _autocast(self, enabled: bool) -> AbstractContextManager[None]:
        # Of the kind that is on, but without its cache: weights that were cast before the capture
        # would stay what they were.
        dtype = torch.get_autocast_dtype("cuda")
        return torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False)
