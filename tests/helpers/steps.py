"""A small network and its training step, for the benchmarks' tests."""

from functools import partial

import torch

from benchmarks.step import Recipe, Step, Way
from softfeat.models.extractor import BottleneckExtractor, Extractor
from softfeat.ops.npair import npair_loss

OPTIMIZER = partial(torch.optim.AdamW, lr=1e-3)


def tiny_extractor() -> Extractor:
    torch.manual_seed(0)
    return BottleneckExtractor(widths=[8, 16], blocks=[1, 2], dim=32)


def tiny_step(way: Way = Way()) -> Step:  # noqa: B008
    recipe = Recipe(tiny_extractor(), npair_loss, OPTIMIZER, (32, 48), 12)
    return recipe.step(recipe.batch(2, "cpu"), way)
