"""Training of the click network on a frozen extractor, with a simulated user."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from softfeat.checks import number, whole, whole_numbers
from softfeat.data.dataset import Batch
from softfeat.models.click_network import ClickNetwork, Nodes, make_nodes, no_prompt
from softfeat.models.extractor import Extractor
from softfeat.ops.labels import IGNORE
from softfeat.ops.pyramid import pyramid_superpixel_mean
from softfeat.ops.superpixel_graph import find_neighbours
from softfeat.ops.superpixels import superpixel_majority
from softfeat.training.base import BaseModule, MakeOptimizer
from softfeat.training.simulated_user import NO_ANSWER, draw_objects, draw_prompts, next_clicks

_VALIDATION_CLICKS = 5
_UNSEEN = 0.7  # share of the first clicks without an answer before them


class ClickModule(BaseModule):
    """Frozen extractor with a network that answers clicks.

    In each step a simulated user wants one object of each photo. The network answers several times:
    first without a click (to a box, to a rough mask, or to nothing, which asks for the subject of
    the photo), then after more and more clicks into the errors of its last answer.

    Args:
        extractor: The network, which stays as it is.
        optimizer: Makes the optimiser from parameter groups.
        num_superpixels: S.
        channels: Channels of the click network.
        layers: Layers of the click network.
        clicks: New clicks before each further answer.
        box: Share of the photos with a box.
        mask: Share of the photos with a rough mask.
        no_subject: Label spaces whose objects are not the subject of the photo, such as hair.
        warmup_steps: See `BaseModule`.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        extractor: Extractor,
        optimizer: MakeOptimizer = torch.optim.AdamW,
        num_superpixels: int = 1000,
        channels: int = 64,
        layers: int = 6,
        clicks: Sequence[int] = (1, 1, 1, 2, 3),
        box: float = 0.2,
        mask: float = 0.1,
        no_subject: Sequence[int] = (),
        warmup_steps: int = 0,
    ) -> None:
        super().__init__(extractor, optimizer, warmup_steps)
        whole("model.num_superpixels", num_superpixels, 1)
        whole("model.channels", channels, 1)
        whole("model.layers", layers, 1)
        whole_numbers("model.clicks", clicks, 1, 20)
        number("model.box", box, 0, 1)
        number("model.mask", mask, 0, 1 - box)
        self.extractor.requires_grad_(False)
        self.clicks = ClickNetwork(extractor.dim, channels, layers)
        self.num_superpixels, self.new_clicks = num_superpixels, list(clicks)
        self.shares, self.no_subject = (box, mask), list(no_subject)
        self.scores: Any = nn.ModuleList(MeanMetric() for _ in range(_VALIDATION_CLICKS + 1))
        self.train()  # a loaded extractor is in eval mode

    def train(self, mode: bool = True) -> "ClickModule":
        """Sets the mode of the click network; the extractor stays in eval mode."""
        super().train(mode)
        self.extractor.eval()
        return self

    @torch.no_grad()
    def nodes_and_labels(self, batch: Batch) -> tuple[Nodes, Tensor]:
        """Describes the superpixels of a batch.

        Returns:
            nodes: The superpixels.
            labels: (B,S) int64, IGNORE for superpixels without a labelled pixel.
        """
        superpixels, count = batch["superpixels"], self.num_superpixels
        labels = superpixel_majority(batch["label"], superpixels, count)
        levels = self.extractor.pyramid(batch["image"])
        features, _ = pyramid_superpixel_mean(levels, superpixels, count, batch.get("pooling"))
        pairs = (
            batch["neighbours"] if "neighbours" in batch else find_neighbours(superpixels, count)
        )
        return make_nodes(batch["image"], superpixels, features, pairs), labels

    def forward(self, image: Tensor) -> Tensor:
        """Computes the feature map F (B,D,H,W) of images (B,3,H,W) in [0,1]."""
        features: Tensor = self.extractor(image)
        return features

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.losses(batch, self.global_step)
        self.log_losses(losses)
        return losses["loss"]

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Computes what a training step minimises.

        Args:
            batch: Images, labels and superpixels.
            step: Number of the optimiser step. With torch's seed and the rank of the process it
                seeds the simulated user, so that a resumed run draws the same clicks.

        Returns:
            "loss", a scalar, and "iou", the mean soft IoU of all answers.
        """
        seed = np.random.SeedSequence([torch.initial_seed(), step, self.global_rank])
        generator = torch.Generator(self.device).manual_seed(int(seed.generate_state(1)[0]))
        nodes, labels = self.nodes_and_labels(batch)
        target, valid, main = draw_objects(labels, nodes, generator)
        known = (labels != IGNORE) & (nodes.counts > 0)
        described = self.clicks.describe(nodes)
        prompt, silent = draw_prompts(no_prompt(nodes), target, nodes, self.shares, generator)
        subject = main
        for space in self.no_subject:
            subject = subject & (batch["space"] != space)
        area, weight = known * nodes.counts, (valid & (subject | ~silent)).float()
        losses, scores = [], []

        def ask(weight: Tensor) -> Tensor:
            logits = self.clicks(nodes, prompt, described)
            loss, iou = answer_loss(logits, target, area)
            total = weight.sum().clamp(min=1)
            losses.append((weight * loss).sum() / total)
            scores.append((weight * iou.detach()).sum() / total)
            return logits.detach().sigmoid()

        answer = ask(weight)
        # Most users click before they have seen any answer.
        coin = torch.rand(len(target), 1, generator=generator, device=target.device)
        answer = torch.where(silent[:, None] & (coin < _UNSEEN), NO_ANSWER, answer)
        for new in self.new_clicks:
            for _ in range(new):
                prompt = next_clicks(prompt, answer, target, known, nodes, generator)
            answer = ask(valid.float())
        return {"loss": torch.stack(losses).mean(), "iou": torch.stack(scores).mean()}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._score(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._score(batch)

    def _score(self, batch: Batch) -> None:
        """Adds the IoU of the largest object of each photo after 0 to 5 clicks."""
        nodes, labels = self.nodes_and_labels(batch)
        target, valid, _ = draw_objects(labels, nodes, None)
        known = (labels != IGNORE) & (nodes.counts > 0)
        area = known * nodes.counts
        described, prompt = self.clicks.describe(nodes), no_prompt(nodes)
        answer = torch.full_like(target, NO_ANSWER)
        for number_of_clicks, metric in enumerate(self.scores):
            if number_of_clicks:
                prompt = next_clicks(prompt, answer, target, known, nodes, None)
            logits = self.clicks(nodes, prompt, described)
            if number_of_clicks:  # the first click is made before any answer
                answer = logits.sigmoid()
            inside = (logits > 0).to(target)
            both = (inside * target * area).sum(1)
            metric.update((both / (torch.maximum(inside, target) * area).sum(1))[valid])

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")
        self.log("val_iou", self.trainer.callback_metrics["val/iou"], prog_bar=True, logger=False)

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _log_scores(self, split: str) -> None:
        values = [metric.compute() for metric in self.scores]
        self.log_dict({f"{split}/iou_{n}": value for n, value in enumerate(values)})
        self.log(f"{split}/iou", torch.stack(values[1:]).mean())
        for metric in self.scores:
            metric.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["clicks"] = self.clicks.hparams  # plain values: see `load_click_network`


def answer_loss(logits: Tensor, target: Tensor, area: Tensor) -> tuple[Tensor, Tensor]:
    """Computes how wrong answers are: cross-entropy plus 1 - soft IoU.

    Args:
        logits: Scores (B,S).
        target: (B,S) 1 on the object, else 0.
        area: (B,S) pixels that count.

    Returns:
        loss: (B,).
        iou: (B,) soft IoU.
    """
    area = area.to(logits.dtype)
    total = area.sum(1).clamp(min=1)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    entropy = (entropy * area).sum(1) / total
    probability = logits.sigmoid()
    both = (torch.minimum(probability, target) * area).sum(1)
    either = (torch.maximum(probability, target) * area).sum(1)
    iou = both / either.clamp(min=1e-6)
    return entropy + 1 - iou, iou
