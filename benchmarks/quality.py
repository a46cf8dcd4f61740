"""How good features are: pair AUC, and a linear probe of superpixel features."""

from collections.abc import Sequence
from statistics import mean

import torch
from pytorch_lightning.utilities import move_data_to_device
from torch import Tensor, nn
from torch.nn import functional as F

from softfeat.data.datamodule import SegmentationData
from softfeat.data.dataset import Batch
from softfeat.data.layouts import Mixture
from softfeat.metrics.pair_auc import PairAUC
from softfeat.metrics.segmentation import SegmentationScores, confusion_matrix
from softfeat.ops.labels import CONTRAST
from softfeat.ops.superpixels import superpixel_scatter
from softfeat.training.soft_features import SoftFeatureModule

_LEAST_VARIANCE = 1e-6  # relative to the largest; anything below is rounding


def superpixel_probe(features: Tensor, labels: Tensor, num_classes: int) -> nn.Linear:
    """Fits a softmax regression to superpixel features.

    Args:
        features: (N,D).
        labels: (N,) int64.
        num_classes: K.

    Returns:
        Linear map from (...,D) to scores (...,K).
    """
    # The channels of trained features are strongly correlated. Without whitening the descent stops
    # far from the optimum, and the better the features are, the further from it.
    centre = features.mean(0)
    centred = features - centre
    variances, axes = torch.linalg.eigh((centred.T @ centred / len(centred)).double())
    floor = _LEAST_VARIANCE * variances[-1] + torch.finfo(torch.float32).tiny
    whitening = (axes / (variances.clamp(min=0) + floor).sqrt()).float()
    white = centred @ whitening
    linear = nn.Linear(features.shape[1], num_classes)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(linear(white), labels) + 1e-4 * linear.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():  # makes the whitening part of the map
        linear.weight.copy_(linear.weight @ whitening.T)
        linear.bias.sub_(linear.weight @ centre)
    return linear


def mixture_sets(data: SegmentationData) -> dict[int, str]:
    """Names the sets of a mixture that its val split has, by label space; empty for other data."""
    if not isinstance(data.layout, Mixture):
        return {}
    names = list(data.layout.layouts)
    return {space: names[space] for space in sorted({r.space for r in data.layout.records("val")})}


def quality(
    module: SoftFeatureModule, data: SegmentationData, probe_batches: Sequence[Batch]
) -> dict[str, float]:
    """Measures features on the val split.

    Args:
        module: Features.
        data: Photos.
        probe_batches: Batches that the linear probe of superpixel features is fitted to. A mixture
            has no classes in common, hence no probe.

    Returns:
        "pair_auc" and "probe_miou", where each pixel has the class of its superpixel. For a
        mixture, the pair AUC of each set by name, and "pair_auc" is their mean.
    """
    sets = mixture_sets(data)
    num_classes = len(data.layout.class_names)
    pairs = {space: PairAUC() for space in sets or [0]}
    scores = SegmentationScores(num_classes)
    module.eval()
    if not sets:
        probe = _fitted_probe(module, probe_batches, num_classes)
    for batch in data.val_dataloader():
        features, labels = _pooled(module, batch)
        for space in batch["space"].unique().tolist():
            members = batch["space"] == space
            pairs[space].update(features[members], labels[members])
        if not sets:
            with torch.no_grad():
                maps = superpixel_scatter(probe(features), batch["superpixels"])
            matrices = [confusion_matrix(*pair) for pair in zip(maps, batch["label"], strict=True)]
            scores.update(torch.stack(matrices))
    module.train()
    pair_auc = {space: metric.compute()["pair_auc"].item() for space, metric in pairs.items()}
    if sets:
        return {"pair_auc": mean(pair_auc.values()), **{sets[k]: v for k, v in pair_auc.items()}}
    return {"pair_auc": pair_auc[0], "probe_miou": scores.compute()["miou"].item()}


@torch.no_grad()
def _pooled(module: SoftFeatureModule, batch: Batch) -> tuple[Tensor, Tensor]:
    """Computes features (B,S,D) and labels (B,S) of the superpixels, on the CPU."""
    batch = move_data_to_device(batch, module.device)
    features, labels = module.superpixel_features(batch)
    return features.cpu(), labels.cpu()


def _fitted_probe(
    module: SoftFeatureModule, batches: Sequence[Batch], num_classes: int
) -> nn.Linear:
    """Fits the probe to the labelled superpixels of batches."""
    pairs = [_pooled(module, batch) for batch in batches]
    features, labels = (torch.cat([pair[i].flatten(0, 1) for pair in pairs]) for i in (0, 1))
    labelled = labels < CONTRAST
    return superpixel_probe(features[labelled], labels[labelled], num_classes)
