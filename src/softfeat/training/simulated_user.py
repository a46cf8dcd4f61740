"""A simulated user, who wants an object and clicks where the last answer is wrong.

Legend: B photos, S superpixels, N clicks.
"""

import torch
from torch import Tensor

from softfeat.models.click_network import Nodes, Prompt
from softfeat.ops.labels import CONTRAST, IGNORE
from softfeat.ops.superpixel_graph import (
    connected_components,
    depth_in_region,
    neighbour_mean,
    neighbour_weights,
)

_SIZES = (0.01, 0.7)  # smallest and largest area of an object, as a share of the photo
NO_ANSWER = 0.5  # "probability" where the user has seen no answer
_LARGEST = 0.5  # share of the photos whose largest object is wanted; in the others any


def draw_objects(
    labels: Tensor, nodes: Nodes, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws an object of each photo: a connected region of one class.

    Args:
        labels: Labels (B,S) of the superpixels.
        nodes: The superpixels.
        generator: Random generator on the device of `labels`; None takes the largest object.

    Returns:
        target: (B,S) 1 on the object, else 0.
        valid: (B,) bool, whether the photo has an object of a usable size.
        main: (B,) bool, whether the object is the largest of the photo.
    """
    batch, count = labels.shape
    region = connected_components(labels, nodes.neighbours)  # (B,S) nodes b*S+s
    areas = nodes.counts.float()  # (B,S)
    total = torch.zeros(batch * count, device=labels.device)
    total = total.index_add_(0, region.flatten(), areas.flatten())
    share = (total[region] / areas.sum(1, keepdim=True).clamp(min=1)).view(batch, count)
    usable = (labels != IGNORE) & (labels != CONTRAST)
    usable &= (share >= _SIZES[0]) & (share <= _SIZES[1]) & (areas > 0)
    largest = torch.where(usable, share, 0).argmax(1, keepdim=True)  # (B,1)
    chosen = largest
    if generator is not None:
        # Divided by the square root, neither large regions nor small ones prevail.
        likely = usable / share.clamp(min=1e-6).sqrt()
        likely = torch.where(usable.any(1, keepdim=True), likely, 1.0)
        any_one = torch.multinomial(likely, 1, generator=generator)  # (B,1)
        coin = torch.rand(batch, 1, generator=generator, device=labels.device)
        chosen = torch.where(coin < _LARGEST, largest, any_one)
    target = region == region.gather(1, chosen)
    main = share.gather(1, chosen) >= share.gather(1, largest)
    return target.float(), usable.any(1), main.squeeze(1)


def next_clicks(
    prompt: Prompt,
    probability: Tensor,
    target: Tensor,
    known: Tensor,
    nodes: Nodes,
    generator: torch.Generator | None,
) -> Prompt:
    """Adds one click to each photo, deep inside an error of the last answer.

    Args:
        prompt: What was said before.
        probability: (B,S) the last answer.
        target: (B,S) 1 on the object, else 0.
        known: (B,S) whether the superpixel counts.
        nodes: The superpixels.
        generator: Random generator; None clicks at the deepest place.

    Returns:
        The prompt with the new click, and the last answer as its prior. A photo without an error
        gets a click of sign 0.
    """
    wanted = target > 0.5
    wrong = ((probability > 0.5) != wanted) & known
    kind = torch.where(wrong, torch.where(wanted, 1, 2), 0)  # (B,S)
    depth = depth_in_region(kind, nodes.neighbours).float()
    if generator is not None:
        depth = depth + 2 * torch.rand(depth.shape, generator=generator, device=depth.device)
    else:  # of equally deep places the largest superpixel
        depth = depth + nodes.counts / nodes.counts.sum(1, keepdim=True).clamp(min=1)
    click = torch.where(wrong, depth, -1.0).argmax(1, keepdim=True)  # (B,1)
    sign = torch.where(wanted.gather(1, click), 1.0, -1.0)
    sign = torch.where(wrong.any(1, keepdim=True), sign, 0.0)
    return Prompt(
        torch.cat([prompt.clicks, click], 1),
        torch.cat([prompt.signs, sign], 1),
        prompt.box,
        2 * probability - 1,
    )


def draw_prompts(
    prompt: Prompt, target: Tensor, nodes: Nodes, shares: tuple[float, float],
    generator: torch.Generator,
) -> tuple[Prompt, Tensor]:  # fmt: skip
    """Draws what the user says before the first click: a box, a rough mask, or nothing.

    Args:
        prompt: A prompt that says nothing.
        target: (B,S) 1 on the object, else 0.
        nodes: The superpixels.
        shares: Shares of the photos with a box and with a mask.
        generator: Random generator.

    Returns:
        The prompt, and (B,) bool whether it says nothing.
    """
    batch = len(target)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=target.device)

    coin = rand(batch)
    boxed, masked = coin < shares[0], (coin >= shares[0]) & (coin < sum(shares))
    inside = target[..., None] > 0.5  # (B,S,1)
    low = torch.where(inside, nodes.positions, 9.0).amin(1)  # (B,2)
    high = torch.where(inside, nodes.positions, -9.0).amax(1)
    margin = 0.1 * (high - low).clamp(min=0.1)
    low = low - margin * (1.5 * rand(batch, 2) - 0.25)
    high = high + margin * (1.5 * rand(batch, 2) - 0.25)
    within = (nodes.positions >= low[:, None]) & (nodes.positions <= high[:, None])
    box = 2 * within.all(-1).float() - 1  # (B,S)

    # A mask drawn by hand: the object, blurred along the graph and cut at a random height.
    rough = target[..., None]
    ones = torch.ones_like(nodes.neighbours.rows, dtype=target.dtype)
    weights = neighbour_weights(ones, nodes.neighbours)
    for _ in range(3):
        rough = (rough + neighbour_mean(rough, nodes.neighbours, weights)) / 2
    rough = rough.squeeze(-1) + 0.2 * (rand(*target.shape) - 0.5)
    mask = 2 * (rough > 0.3 + 0.4 * rand(batch, 1)).float() - 1
    zero = torch.zeros_like(box)
    prompt = prompt._replace(
        box=torch.where(boxed[:, None], box, zero), prior=torch.where(masked[:, None], mask, zero)
    )
    return prompt, ~(boxed | masked)
