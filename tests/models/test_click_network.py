import copy

import pytest
import torch
from kornia.color import rgb_to_lab
from torch import Tensor

from softfeat.models.click_network import (
    ClickNetwork,
    Nodes,
    Prompt,
    box_shares,
    click_network_of,
    make_nodes,
    no_prompt,
)
from softfeat.ops.superpixel_graph import find_neighbours

S, D = 16, 8


def superpixels() -> Tensor:
    """Two photos of 24x32 pixels with 4x4 superpixels; the second is padded at the right."""
    y, x = torch.meshgrid(torch.arange(24), torch.arange(32), indexing="ij")
    ids = (y // 6 * 4 + x // 8).repeat(2, 1, 1)
    ids[1, :, 24:] = -1
    return ids


def nodes(seed: int = 0) -> Nodes:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 3, 24, 32, generator=generator)
    features = torch.randn(2, S, D, generator=generator)
    return make_nodes(image, superpixels(), features, find_neighbours(superpixels(), S))


def network(seed: int = 0) -> ClickNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = ClickNetwork(D, channels=12, layers=2)
        for layer in made.layers:  # they begin as the identity
            torch.nn.init.normal_(layer.out.weight, std=0.3)  # type: ignore[union-attr, arg-type]
    return made.eval()


def clicked(*clicks: tuple[int, float]) -> Prompt:
    """A prompt with the same clicks, as (superpixel, sign), in both photos."""
    prompt = no_prompt(nodes())
    places = torch.tensor([[place for place, _ in clicks]] * 2)
    signs = torch.tensor([[sign for _, sign in clicks]] * 2)
    return prompt._replace(clicks=places, signs=signs)


def test_nodes_describe_their_pixels() -> None:
    found, ids = nodes(), superpixels()
    generator = torch.Generator().manual_seed(0)
    lab = rgb_to_lab(torch.rand(2, 3, 24, 32, generator=generator))
    for b, s in ((0, 0), (0, 6), (1, 10), (0, 15)):
        inside = ids[b] == s
        torch.testing.assert_close(
            found.colours[b, s], lab[b][:, inside].mean(1), rtol=1e-4, atol=1e-3
        )
        y, x = (axis.float() for axis in torch.nonzero(inside, as_tuple=True))
        expected = torch.stack([(x.mean() + 0.5 - 16) / 16, (y.mean() + 0.5 - 12) / 16])
        torch.testing.assert_close(found.positions[b, s], expected)
        assert found.counts[b, s] == 48
    inner = [5, 6, 9, 10]
    assert [s for s in range(S) if not found.border[0, s]] == inner
    # Padding is outside of the photo: superpixel 6 touches it, 7 has no pixel.
    assert [s for s in range(S) if not found.border[1, s]] == [3, 5, 7, 9, 11, 15]


def test_a_box_is_told_by_shares_of_superpixels() -> None:
    shares = box_shares(superpixels(), S, [(0, 0, 12, 6), (8, 0, 32, 24)])
    assert shares[0].tolist() == [1.0, 0.0] + [-1.0] * 14
    assert shares[1, [0, 1, 2]].tolist() == [-1.0, 1.0, 1.0]


@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0])
def test_a_click_is_seen_where_it_is_and_by_its_sign(sign: float) -> None:
    silent = network()(nodes(), no_prompt(nodes()))
    answer = network()(nodes(), clicked((5, sign)))
    assert answer.shape == (2, S)
    assert torch.equal(answer, silent) == (sign == 0)
    other = network()(nodes(), clicked((6, sign)))
    assert torch.equal(answer, other) == (sign == 0)


def test_neither_the_order_of_clicks_nor_repeating_one_matters() -> None:
    one = network()(nodes(), clicked((5, 1.0), (9, -1.0), (2, 1.0)))
    other = network()(nodes(), clicked((2, 1.0), (9, -1.0), (5, 1.0), (5, 1.0)))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("change", ["box", "prior"])
def test_box_and_prior_matter(change: str) -> None:
    prompt = clicked((5, 1.0))
    changed = prompt._replace(**{change: torch.full((2, S), 0.5)})
    assert not torch.equal(network()(nodes(), prompt), network()(nodes(), changed))


def test_photos_do_not_see_each_other() -> None:
    both = nodes()
    changed = both._replace(features=both.features.clone())
    changed.features[1] += 1
    prompt = clicked((5, 1.0))
    answers = network()(both, prompt), network()(changed, prompt)
    torch.testing.assert_close(answers[0][0], answers[1][0])
    assert not torch.equal(answers[0][1], answers[1][1])


def test_what_is_known_before_the_clicks_can_be_kept() -> None:
    model, prompt = network(), clicked((5, 1.0))
    kept = model.describe(nodes())
    assert torch.equal(model(nodes(), prompt, kept), model(nodes(), prompt))


def test_superpixels_without_pixels_change_nothing() -> None:
    image, ids = torch.rand(1, 3, 24, 32), superpixels()[:1]
    features = torch.randn(1, S, D)
    answers = []
    for count in (S, S + 3):
        padded = torch.nn.functional.pad(features, (0, 0, 0, count - S))
        made = make_nodes(image, ids, padded, find_neighbours(ids, count))
        prompt = no_prompt(made)._replace(clicks=torch.tensor([[3]]), signs=torch.ones(1, 1))
        answers.append(network()(made, prompt)[:, :S])
    torch.testing.assert_close(*answers)


def content() -> dict[str, object]:
    state = {f"clicks.{name}": value for name, value in network().state_dict().items()}
    return {"clicks": network().hparams, "state_dict": state}


def test_a_checkpoint_rebuilds_the_network() -> None:
    rebuilt = click_network_of(content())
    assert rebuilt is not None
    prompt = clicked((5, 1.0))
    assert torch.equal(rebuilt(nodes(), prompt), network()(nodes(), prompt))
    assert not rebuilt.training
    assert not any(p.requires_grad for p in rebuilt.parameters())
    assert click_network_of({"state_dict": {}}) is None


def test_weights_that_do_not_fit_are_named() -> None:
    damaged = copy.deepcopy(content())
    del damaged["state_dict"]["clicks.score.bias"]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="click network do not fit"):
        click_network_of(damaged)


def test_the_default_has_as_many_parameters_as_the_documents_say() -> None:
    assert round(sum(p.numel() for p in ClickNetwork().parameters()) / 1e6, 2) == 0.36
