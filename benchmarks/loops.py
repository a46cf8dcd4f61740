"""Trainings as a bare PyTorch loop and with Lightning, loading included."""

import copy
import csv
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, RichProgressBar

from benchmarks.measure import synchronise
from benchmarks.tables import size_text
from softfeat.data.datamodule import SegmentationData
from softfeat.training.callbacks.finite import StopOnNonFinite
from softfeat.training.callbacks.throughput import Throughput
from softfeat.training.graphed_step import GraphedStep
from softfeat.training.loggers import RunCSVLogger
from softfeat.training.soft_features import SoftFeatureModule


class _Ticks(pl.Callback):
    """Records when the last warm-up step and the last counted step end."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up
        self.times: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step in (self.warm_up, trainer.max_steps):
            self.tick()

    def tick(self) -> None:
        synchronise()
        self.times.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        return self.times[-1] - self.times[0]


def measured_loops(
    make: Callable[[], SoftFeatureModule],
    data: SegmentationData,
    steps: int,
    rounds: int,
    warm_up: int = 1,
    bf16: bool = False,
) -> dict[str, Any]:
    """Trains alternately in a bare loop and with Lightning, from the same weights.

    Lightning has the logger and callbacks of a real training, except checkpoints, pictures and
    validation.

    Args:
        make: Constructor of a module on its device, with the same weights every time.
        data: Data of both loops.
        steps: Number of counted steps in a loop.
        rounds: Number of trainings in each loop.
        warm_up: Number of steps before the counted ones. They include what happens once: starting
            loader processes, allocating the optimiser's state, compiling.
        bf16: Whether to train under autocast to bfloat16.

    Returns:
        "bare PyTorch" and "Lightning": seconds of the counted steps, one value per round. "waits":
        shares in [0,1] of their time that Lightning's steps waited for data, as measured by
        `Throughput`. "difference": largest difference of the weights after the last round.
    """
    data = copy.copy(data)
    data.steps_per_epoch = warm_up + steps
    data.prepare_data()
    data.setup("fit")
    module = make()
    on_gpu = module.device.type == "cuda"
    data.num_levels, data.flat = len(module.extractor.level_channels), on_gpu and module.cuda_graph
    seconds: dict[str, list[float]] = {"bare PyTorch": [], "Lightning": []}
    waits: list[float] = []
    for _ in range(rounds):
        bare, trained = make(), make()
        seconds["bare PyTorch"].append(_bare_loop(bare, data, steps, warm_up, bf16))
        duration, shares = _lightning_loop(trained, copy.copy(data), steps, warm_up, bf16)
        seconds["Lightning"].append(duration)
        waits += shares
    # On the CPU, because Lightning moves its module there after the training.
    pairs = zip(bare.cpu().parameters(), trained.cpu().parameters(), strict=True)
    difference = max(float((a - b).detach().abs().max()) for a, b in pairs)
    return {**seconds, "waits": waits, "difference": difference}


def loop_settings(data: SegmentationData, steps: int, rounds: int) -> dict[str, object]:
    """Describes the batches and the trainings of a benchmark."""
    packed = ", packed" if data.pack else ""
    return {
        **batch_settings(data),
        "loops": f"{rounds} times {steps} steps each on {data.layout.__class__.__name__}{packed}, "
        f"{data.num_workers} loader processes",
    }


def batch_settings(data: SegmentationData) -> dict[str, object]:
    """Describes the batches of a data set."""
    return {
        "batch": data.batch_size,
        "image": size_text(data.image_size),
        "superpixels": data.superpixels.count,
    }


def _bare_loop(
    module: SoftFeatureModule, data: SegmentationData, steps: int, warm_up: int, bf16: bool
) -> float:
    optimizer, scheduler = module.optimizer_and_schedule(warm_up + steps)
    module.train()
    if module.cuda_graph and module.device.type == "cuda":
        module.step = GraphedStep(module.losses, module)
    ticks = _Ticks(warm_up)
    for number, batch in enumerate(data.train_dataloader(), 1):
        on_device = data.transfer_batch_to_device(batch, module.device, 0)
        with torch.autocast(module.device.type, torch.bfloat16, enabled=bf16):
            loss = module.step(on_device, number)["loss"]
        optimizer.zero_grad()
        module.backward(loss)
        optimizer.step()
        scheduler.step()
        if number in (warm_up, warm_up + steps):
            ticks.tick()
    return ticks.seconds


def _lightning_loop(
    module: SoftFeatureModule, data: SegmentationData, steps: int, warm_up: int, bf16: bool
) -> tuple[float, list[float]]:
    ticks = _Ticks(warm_up)
    with TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="gpu" if module.device.type == "cuda" else "cpu",
            devices=1,
            precision="bf16-mixed" if bf16 else "32-true",
            max_epochs=1,
            max_steps=warm_up + steps,
            log_every_n_steps=min(10, steps),
            logger=RunCSVLogger(folder),
            callbacks=[
                StopOnNonFinite(),
                RichProgressBar(refresh_rate=10),
                LearningRateMonitor("step"),
                Throughput(),
                ticks,
            ],
            enable_checkpointing=False,
            enable_model_summary=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        trainer.fit(module, data)
        with (Path(folder) / "metrics.csv").open(newline="") as file:
            logged = [row.get("system/data_wait") for row in csv.DictReader(file)]
    return ticks.seconds, [float(share) for share in logged if share]
