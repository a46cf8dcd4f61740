import pytest
import torch
from torch import Tensor

from softfeat.models.click_network import Nodes, make_nodes, no_prompt
from softfeat.ops.labels import CONTRAST, IGNORE
from softfeat.ops.superpixel_graph import find_neighbours
from softfeat.training.simulated_user import draw_objects, draw_prompts, next_clicks

ROWS, COLUMNS, PIXELS = 8, 10, 3
S = ROWS * COLUMNS


def nodes(batch: int = 1) -> Nodes:
    """A grid of 8x10 superpixels of 3x3 pixels."""
    grid = torch.arange(S).view(ROWS, COLUMNS)
    ids = grid.repeat_interleave(PIXELS, 0).repeat_interleave(PIXELS, 1).repeat(batch, 1, 1)
    image = torch.rand(batch, 3, *ids.shape[1:])
    return make_nodes(image, ids, torch.randn(batch, S, 4), find_neighbours(ids, S))


def labels(*blocks: tuple[int, slice, slice], rest: int = CONTRAST) -> Tensor:
    made = torch.full((ROWS, COLUMNS), rest)
    for label, rows, columns in blocks:
        made[rows, columns] = label
    return made.view(1, S)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grid(values: Tensor) -> Tensor:
    return values.view(ROWS, COLUMNS)


TWO = labels((3, slice(1, 5), slice(1, 5)), (3, slice(1, 3), slice(7, 9)))  # 16 and 4 superpixels


def test_without_chance_the_largest_connected_region_is_wanted() -> None:
    target, valid, main = draw_objects(TWO, nodes(), None)
    assert valid.tolist() == main.tolist() == [True]
    assert target.sum() == 16
    assert grid(target)[1:5, 1:5].all()


def test_small_regions_are_wanted_too_but_less_often() -> None:
    sizes = [int(draw_objects(TWO, nodes(), generator(n))[0].sum()) for n in range(200)]
    assert set(sizes) == {4, 16}
    # Half of the time the largest, otherwise by the square root of the areas: 4 against 2.
    assert 0.1 < sizes.count(4) / 200 < 0.24
    for seed in range(20):
        target, _, main = draw_objects(TWO, nodes(), generator(seed))
        assert main.item() == (target.sum() == 16)


@pytest.mark.parametrize(
    "labelled",
    [
        labels(),
        labels(rest=IGNORE),
        labels((1, slice(0, 8), slice(0, 9))),  # 90 % of the photo
    ],
    ids=["contrast", "unknown", "too large"],
)
def test_a_photo_without_an_object_is_not_valid(labelled: Tensor) -> None:
    for chance in (None, generator()):
        _, valid, _ = draw_objects(labelled, nodes(), chance)
        assert not valid.item()


def test_regions_do_not_reach_into_other_photos() -> None:
    two = torch.cat([labels((1, slice(6, 8), slice(0, 10))), labels((1, slice(0, 2), slice(0, 4)))])
    target, valid, _ = draw_objects(two, nodes(2), None)
    assert valid.all()
    assert target.sum(1).tolist() == [20, 8]


def test_clicks_are_deep_inside_the_error_and_have_its_sign() -> None:
    known = torch.ones(1, S, dtype=torch.bool)
    target, _, _ = draw_objects(TWO, nodes(), None)
    prompt = next_clicks(no_prompt(nodes()), torch.zeros(1, S), target, known, nodes(), None)
    assert prompt.signs.tolist() == [[1.0]]
    assert divmod(prompt.clicks.item(), COLUMNS) in {(2, 2), (2, 3), (3, 2), (3, 3)}
    assert (prompt.prior == -1).all()

    answer = target.clone()
    grid(answer[0])[4:8, 6:10] = 0.9  # too much at the lower right corner of the photo
    prompt = next_clicks(prompt, answer, target, known, nodes(), None)
    assert prompt.signs.tolist() == [[1.0, -1.0]]
    assert divmod(prompt.clicks[0, 1].item(), COLUMNS) == (7, 9)  # the photo's border is no border
    torch.testing.assert_close(prompt.prior, 2 * answer - 1)


def test_random_clicks_stay_inside_the_error() -> None:
    known = torch.ones(1, S, dtype=torch.bool)
    target, _, _ = draw_objects(TWO, nodes(), None)
    clicks = {
        next_clicks(no_prompt(nodes()), torch.zeros(1, S), target, known, nodes(), generator(n))
        .clicks.item()
        for n in range(60)
    }  # fmt: skip
    assert len(clicks) > 3
    assert all(target[0, click] for click in clicks)


def test_without_an_error_the_click_has_no_sign() -> None:
    target, _, _ = draw_objects(TWO, nodes(), None)
    known = torch.ones(1, S, dtype=torch.bool)
    prompt = next_clicks(no_prompt(nodes()), target, target, known, nodes(), generator())
    assert prompt.signs.tolist() == [[0.0]]
    # An error where nothing is known is none.
    prompt = next_clicks(no_prompt(nodes()), 1 - target, target, ~known, nodes(), None)
    assert prompt.signs.tolist() == [[0.0]]


@pytest.mark.parametrize(("box", "mask"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_prompts_before_the_first_click(box: float, mask: float) -> None:
    target, _, _ = draw_objects(TWO, nodes(), None)
    for seed in range(10):
        prompt, silent = draw_prompts(
            no_prompt(nodes()), target, nodes(), (box, mask), generator(seed)
        )
        assert silent.tolist() == [box + mask == 0]
        assert prompt.box.any() == (box == 1)
        assert prompt.prior.any() == (mask == 1)
        if box:
            inside = grid(prompt.box) > 0
            rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
            assert inside.sum() == len(rows) * len(columns)  # a rectangle
            assert (prompt.box[target > 0] > 0).float().mean() >= 0.5
            assert inside.sum() <= 36
        if mask:
            agreement = ((prompt.prior > 0) == (target > 0)).float().mean()
            assert 0.8 < agreement <= 1
