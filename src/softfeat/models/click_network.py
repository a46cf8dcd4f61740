"""Which superpixels belong to the thing that a user clicks on?

The network works on the graph of touching superpixels. It sees their mean features and colours,
where they are, how far they are from the clicks, and the last answer. So the photo's features are
computed once, and each click costs a pass over some hundred superpixels.

Legend: B photos, S superpixels, D feature channels, N clicks, C channels of the network.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softfeat.ops.colour_features import colour_features
from softfeat.ops.superpixel_graph import (
    Neighbours,
    NeighbourWeights,
    neighbour_mean,
    neighbour_weights,
)
from softfeat.ops.superpixels import batch_index, superpixel_mean

_FEATURE_UNIT, _COLOUR_UNIT = 4.0, 50.0  # bring features and Lab colours to the size of 1
_PREFIX = "clicks."  # of the weights in a checkpoint
_GATE = 3.0  # distance of features at which neighbours stop being alike
# Distances from clicks are seen as exp(-d / s): s for features, Lab colours and positions.
_SCALES = ((1.5, 5.0), (10.0, 35.0), (0.08, 0.35))


Description = tuple[Tensor, Sequence[NeighbourWeights]]  # see `ClickNetwork.describe`


class Nodes(NamedTuple):
    """What is known of the superpixels of photos before any click.

    Attributes:
        features: Mean features (B,S,D).
        colours: Mean Lab colours (B,S,3).
        positions: Mean positions (B,S,2), x and y. The longer side of the photo spans [-1,1].
        border: (B,S) 1 where a superpixel touches the border of the photo, else 0.
        counts: Number of pixels (B,S) int64.
        neighbours: Pairs of touching superpixels.
    """

    features: Tensor
    colours: Tensor
    positions: Tensor
    border: Tensor
    counts: Tensor
    neighbours: Neighbours


class Prompt(NamedTuple):
    """What a user has said so far about the thing that is meant.

    Attributes:
        clicks: Clicked superpixels (B,N) int64.
        signs: (B,N) 1 for clicks on the thing, -1 for clicks elsewhere, 0 for no click.
        box: Share (B,S) of each superpixel inside a box around the thing, as 2 * share - 1; 0
            without a box.
        prior: (B,S) the last answer, or a rough mask, as 2 * probability - 1; 0 without one.
    """

    clicks: Tensor
    signs: Tensor
    box: Tensor
    prior: Tensor


def make_nodes(
    image: Tensor, superpixels: Tensor, features: Tensor, neighbours: Neighbours
) -> Nodes:
    """Describe the superpixels of photos.

    Args:
        image: Photos (B,3,H,W) RGB in [0,1].
        superpixels: Superpixel maps (B,H,W) of integer ids. Padding (-1) lies outside of the photo.
        features: Mean features (B,S,D) of the superpixels.
        neighbours: Pairs of touching superpixels.
    """
    count = features.shape[1]
    height, width = superpixels.shape[1:]
    y, x = (
        (torch.arange(side, device=image.device) + 0.5 - side / 2) * (2 / max(height, width))
        for side in (height, width)
    )
    grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])  # (2,H,W)
    positions, counts = superpixel_mean(grid.expand(len(image), -1, -1, -1), superpixels, count)
    around = F.pad(superpixels, (1, 1, 1, 1), value=-1)
    sides = (around[:, 1:-1, :-2], around[:, 1:-1, 2:], around[:, :-2, 1:-1], around[:, 2:, 1:-1])
    outer = torch.stack([side < 0 for side in sides]).any(0)  # (B,H,W)
    rows = batch_index(superpixels, count)  # (B*H*W,)
    border = image.new_zeros(len(image) * (count + 1))
    border = border.scatter_reduce(0, rows, outer.flatten().to(border), "amax")
    border = border.unflatten(0, (-1, count + 1))[:, :count]  # (B,S)
    colours = colour_features(image, superpixels, count)  # (B,S,3)
    return Nodes(features, colours, positions, border, counts, neighbours)


def no_prompt(nodes: Nodes) -> Prompt:
    """A prompt that says nothing: the subject of the photo is meant."""
    zeros = torch.zeros_like(nodes.border)  # (B,S)
    return Prompt(nodes.counts[:, :0], zeros[:, :0], zeros, zeros)


def box_shares(superpixels: Tensor, num_superpixels: int, boxes: Sequence[Sequence[int]]) -> Tensor:
    """Compute `Prompt.box` of a batch.

    Args:
        superpixels: Superpixel maps (B,H,W).
        num_superpixels: S.
        boxes: Left, top, right and bottom in pixels of each photo, the last two exclusive.

    Returns:
        2 * share - 1 (B,S).
    """
    inside = torch.zeros(superpixels.shape, device=superpixels.device)  # (B,H,W)
    for mask, (left, top, right, bottom) in zip(inside, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    return 2 * superpixel_mean(inside[:, None], superpixels, num_superpixels)[0][..., 0] - 1


class _Layer(nn.Module):
    """One exchange of superpixels with their neighbours, the photo and the clicked places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.near = nn.Linear(3 * channels, 2 * channels)
        self.far = nn.Linear(3 * channels, 2 * channels, bias=False)
        self.out = nn.Linear(2 * channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x: Tensor, neighbours: Neighbours, weights: Sequence[NeighbourWeights], places: Tensor
    ) -> Tensor:
        """Args: values (B,S,C); two sets of weights; shares (B,3,S) of photo and clicks."""
        values = self.norm(x)
        near = [values, *(neighbour_mean(values, neighbours, each) for each in weights)]
        far = (places @ values).flatten(1)  # (B,3C)
        hidden = self.near(torch.cat(near, -1)) + self.far(far)[:, None]  # (B,S,2C)
        return x + self.out(F.gelu(hidden))


class ClickNetwork(nn.Module):
    """Superpixels, clicks, a box and the last answer to a score for each superpixel.

    Args:
        dim: Feature channels D.
        channels: Channels C.
        layers: Number of exchanges with neighbours.
    """

    def __init__(self, dim: int = 128, channels: int = 64, layers: int = 6) -> None:
        super().__init__()
        self.hparams: dict[str, Any] = {"dim": dim, "channels": channels, "layers": layers}
        self.photo = nn.Linear(dim + 3 + 2 + 1, channels)
        self.user = nn.Linear(2 * sum(map(len, _SCALES)) + 2 + 2 + 1, channels, bias=False)
        self.layers = nn.ModuleList(_Layer(channels) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self.score = nn.Linear(channels, 1)

    def describe(self, nodes: Nodes) -> Description:
        """Compute what does not depend on the user.

        Returns:
            embedding: (B,S,C).
            weights: Two sets of weights of the neighbours: all equal, and by how alike their
                features are.
        """
        inputs = [
            nodes.features / _FEATURE_UNIT,
            nodes.colours / _COLOUR_UNIT,
            nodes.positions,
            nodes.border[..., None],
        ]
        flat, pairs = nodes.features.flatten(0, 1), nodes.neighbours
        squared = (flat[pairs.rows] - flat[pairs.columns]).square().sum(-1)  # (E,)
        # Never exactly 0, so that a superpixel unlike all its neighbours still has a mean.
        alike = (-squared / _GATE**2).exp().clamp(min=1e-6)
        weights = [neighbour_weights(each, pairs) for each in (torch.ones_like(alike), alike)]
        return self.photo(torch.cat(inputs, -1)), weights

    def forward(
        self,
        nodes: Nodes,
        prompt: Prompt,
        described: Description | None = None,
    ) -> Tensor:
        """Compute the scores (B,S); their sigmoid is the probability of belonging to the thing.

        Args:
            nodes: The superpixels.
            prompt: What the user said.
            described: Result of `describe`, if it is known already.
        """
        embedding, weights = described or self.describe(nodes)
        near, clicked = _closeness(nodes, prompt)
        box = torch.stack([prompt.box, -prompt.box], -1).clamp(min=0)  # (B,S,2): inside, outside
        user = torch.cat([near, clicked, box, prompt.prior[..., None]], -1)
        x = embedding + self.user(user)  # (B,S,C)
        areas = nodes.counts.to(x.dtype)[:, None]  # (B,1,S)
        places = torch.cat([areas, clicked.mT], 1)  # (B,3,S)
        places = places / places.sum(-1, keepdim=True).clamp(min=1)
        for layer in self.layers:
            x = layer(x, nodes.neighbours, weights, places)
        return self.score(self.norm(x)).squeeze(-1)


def _closeness(nodes: Nodes, prompt: Prompt) -> tuple[Tensor, Tensor]:
    """Compare superpixels with the clicks.

    Returns:
        near: (B,S,12) exp(-d / s) for the smallest distance d to a click of each sign, in features,
            colours and positions; 0 without a click.
        clicked: (B,S,2) 1 for clicked superpixels, by the sign of the click.
    """
    batch, count = nodes.border.shape
    signs = prompt.signs
    if not prompt.clicks.shape[1]:
        zeros = nodes.border.new_zeros(batch, count, 2)
        return zeros.repeat(1, 1, sum(map(len, _SCALES))), zeros
    near = []
    for values, scales in zip(
        (nodes.features, nodes.colours, nodes.positions), _SCALES, strict=True
    ):
        index = prompt.clicks[..., None].expand(-1, -1, values.shape[-1])
        clicked_values = values.gather(1, index)  # (B,N,...)
        # Without matrix products, whose rounding would move the clicked superpixel from itself.
        distance = torch.cdist(
            values, clicked_values, compute_mode="donot_use_mm_for_euclid_dist"
        )  # (B,S,N)
        for sign in (1, -1):
            nearest = distance.masked_fill((signs != sign)[:, None], math.inf).amin(-1)  # (B,S)
            near += [(-nearest / scale).exp() for scale in scales]
    clicked = []
    for sign in (1, -1):
        hits = nodes.border.new_zeros(batch, count)
        hits = hits.scatter_reduce(1, prompt.clicks, (signs == sign).to(hits), "amax")
        clicked.append(hits)
    return torch.stack(near, -1), torch.stack(clicked, -1)


def click_network_of(content: Mapping[str, Any]) -> ClickNetwork | None:
    """Build the click network of a checkpoint, in eval mode on the CPU.

    Args:
        content: Result of `read_checkpoint`.

    Returns:
        The network; None if the checkpoint has none.

    Raises:
        ValueError: If the weights do not fit.
    """
    if "clicks" not in content:
        return None
    network = ClickNetwork(**content["clicks"])
    state = {
        name.removeprefix(_PREFIX): value
        for name, value in content["state_dict"].items()
        if name.startswith(_PREFIX)
    }
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the weights of the click network do not fit: {error}") from error
    return network.requires_grad_(False).eval()
