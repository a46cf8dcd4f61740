from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from softfeat.models.extractor import BottleneckExtractor, Extractor, load_extractor

SMALL = {"widths": [8, 16], "blocks": [1, 1], "dim": 8}


def test_the_network_has_the_papers_size() -> None:
    parameters = sum(p.numel() for p in BottleneckExtractor().parameters())
    assert abs(parameters - 3.7e6) <= 0.01 * 3.7e6


@pytest.mark.parametrize("size", [(224, 224), (97, 131), (16, 16), (5, 3), (1, 1)])
def test_any_input_size(size: tuple[int, int]) -> None:
    extractor = BottleneckExtractor().eval()
    with torch.no_grad():
        image = torch.rand(2, 3, *size)
        levels = extractor.pyramid(image)
        features = extractor(image)
    assert [tuple(x.shape[2:]) for x in levels] == extractor.level_sizes(size)
    assert sum(x.shape[1] for x in levels) == 128
    assert features.shape == (2, 128, *size)


def test_features_are_the_upsampled_pyramid() -> None:
    extractor, image = BottleneckExtractor(**SMALL).eval(), torch.rand(1, 3, 30, 20)  # type: ignore[arg-type]
    full = [F.interpolate(x, (30, 20), mode="bilinear") for x in extractor.pyramid(image)]
    torch.testing.assert_close(extractor(image), torch.cat(full, 1))


@pytest.mark.parametrize("scale", [None, 0.15])
def test_readouts_are_affine(scale: float | None) -> None:
    """Pooling at the resolution of a level is exact only if everything after it is linear."""
    extractor = BottleneckExtractor(readout_scale=scale).eval()
    for readout in extractor.readouts:
        x, y = torch.randn(2, 1, readout[0].in_channels, 4, 4)  # type: ignore[index]
        between = readout(0.3 * x + 0.7 * y)
        torch.testing.assert_close(between, 0.3 * readout(x) + 0.7 * readout(y))
        # a pointwise linear map: pooling the input or the output gives the same result
        torch.testing.assert_close(readout(x.mean((2, 3), True)), readout(x).mean((2, 3), True))


def test_readout_scale_sets_the_spread() -> None:
    extractor = BottleneckExtractor(readout_scale=0.1)
    for level in extractor.pyramid(torch.rand(2, 3, 64, 64)):
        # all features have the same spread, whatever the weights: no level can be switched off
        torch.testing.assert_close(level.std((0, 2, 3)), torch.full((32,), 0.1), rtol=0.1, atol=0)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_level_norm_keeps_directions_and_levels_lengths(power: float) -> None:
    torch.manual_seed(0)
    free = BottleneckExtractor(readout_scale=0.5).eval()
    normed = BottleneckExtractor(readout_scale=0.5, level_norm=power).eval()
    normed.load_state_dict(free.state_dict())
    image = 30 * torch.rand(1, 3, 40, 56)
    for level, short in zip(free.pyramid(image), normed.pyramid(image), strict=True):
        # y / rms(y)^p has the rms of y to the power of 1 - p, in units of the scale
        rms = level.div(0.5).square().mean(1, keepdim=True).sqrt()
        torch.testing.assert_close(short, level / rms**power, rtol=1e-4, atol=1e-5)
        assert short.div(0.5).square().mean(1).sqrt().std() < 0.9 * rms.std()
    free.train(), normed.train()  # no effect in training
    for level, same in zip(free.pyramid(image), normed.pyramid(image), strict=True):
        assert torch.equal(level, same)


@pytest.mark.parametrize("power", [-0.1, 1.1])
def test_level_norm_has_a_range(power: float) -> None:
    with pytest.raises(ValueError, match=r"level_norm=.*from 0 to 1"):
        BottleneckExtractor(level_norm=power)


def test_level_norm_of_levels_that_are_zero() -> None:
    extractor = BottleneckExtractor(widths=[8], blocks=[1], dim=8, level_norm=0.75).eval()
    with torch.no_grad():
        extractor.readouts[0][0].weight.zero_()  # type: ignore[index, union-attr, operator]
        extractor.readouts[0][1].running_mean.zero_()  # type: ignore[index, union-attr, operator]
    (level,) = extractor.pyramid(torch.rand(1, 3, 8, 8))
    assert torch.equal(level, torch.zeros_like(level))
    level.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in extractor.parameters())


def test_xavier_initialisation() -> None:
    weight = BottleneckExtractor().stages[2][0].body[3].weight  # type: ignore[index, union-attr]
    fan_in = weight.shape[1] * 9
    bound = (6 / (2 * fan_in)) ** 0.5
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="divide evenly"):
        BottleneckExtractor(widths=[8, 16, 32], blocks=[1, 1, 1], dim=128)
    with pytest.raises(ValueError, match="one entry per stage"):
        BottleneckExtractor(widths=[8, 16], blocks=[1])


def save(path: Path, extractor: Extractor) -> None:
    state = {f"extractor.{k}": v for k, v in extractor.state_dict().items()}
    torch.save({"extractor": extractor.hparams, "state_dict": state}, path)


def test_checkpoints_rebuild_the_network(tmp_path: Path) -> None:
    extractor = BottleneckExtractor(**SMALL)  # type: ignore[arg-type]
    extractor(torch.rand(2, 3, 16, 16))  # moves the batch-norm statistics
    save(tmp_path / "a.ckpt", extractor)
    loaded = load_extractor(tmp_path / "a.ckpt")
    image = torch.rand(1, 3, 16, 16)
    assert not loaded.training
    assert torch.equal(loaded(image), extractor.eval()(image))


def test_checkpoints_of_earlier_versions_hold_the_papers_network(tmp_path: Path) -> None:
    extractor = BottleneckExtractor(**SMALL)  # type: ignore[arg-type]
    save(tmp_path / "old.ckpt", extractor)
    content = torch.load(tmp_path / "old.ckpt", weights_only=True)
    del content["extractor"]["network"]
    torch.save(content, tmp_path / "old.ckpt")
    assert load_extractor(tmp_path / "old.ckpt").hparams == extractor.hparams
    content["extractor"]["network"] = "newer"
    torch.save(content, tmp_path / "new.ckpt")
    with pytest.raises(ValueError, match="'newer': this version has bottleneck"):
        load_extractor(tmp_path / "new.ckpt")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    extractor = BottleneckExtractor(**SMALL)  # type: ignore[arg-type]
    state = {"extractor.readouts.0.1.weight": torch.ones(4)}
    torch.save({"extractor": extractor.hparams, "state_dict": state}, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match="do not fit this network: choose the extractor="):
        load_extractor(tmp_path / "old.ckpt")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


def test_bad_checkpoints_are_named_and_never_executed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*none\.ckpt"):
        load_extractor(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.ckpt is neither a checkpoint"):
        load_extractor(tmp_path / "text.ckpt")
    torch.save({"extractor": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match=r"evil\.ckpt is neither a checkpoint"):
        load_extractor(tmp_path / "evil.ckpt")


@pytest.mark.gpu
def test_the_gpu_gives_the_same_features() -> None:
    extractor, image = BottleneckExtractor().eval(), torch.rand(1, 3, 64, 64)
    expected = extractor(image)
    torch.testing.assert_close(extractor.cuda()(image.cuda()).cpu(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("recompute", [1, 2])
@pytest.mark.parametrize("use_low", [False, True])
def test_recomputing_changes_neither_gradients_nor_statistics(
    recompute: int, use_low: bool
) -> None:
    image = torch.rand(2, 3, 33, 47)

    def step(recompute: int) -> tuple[int, list[torch.Tensor]]:
        torch.manual_seed(1)
        extractor = BottleneckExtractor(**SMALL, recompute=recompute)  # type: ignore[arg-type]
        saved: dict[int, int] = {}

        def count(tensor: torch.Tensor) -> torch.Tensor:
            saved[tensor.data_ptr()] = tensor.numel()
            return tensor

        for _ in range(2):  # the second pass uses the statistics of the first
            with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                levels, low = extractor.pyramid_and_low(image)
                loss = sum(level.square().sum() for level in levels) + use_low * low.sum()
            loss.backward()
        gradients = [p.grad for p in extractor.parameters() if p.grad is not None]
        assert len(gradients) == len(list(extractor.parameters()))
        return sum(saved.values()), gradients + list(extractor.state_dict().values())

    (kept, expected), (fewer, found) = step(0), step(recompute)
    assert fewer < kept
    for value, other in zip(expected, found, strict=True):
        assert torch.equal(value, other)


def test_recomputing_under_autocast() -> None:
    image = torch.rand(2, 3, 32, 32)
    results = []
    for recompute in (0, 2):
        torch.manual_seed(1)
        extractor = BottleneckExtractor(**SMALL, recompute=recompute)  # type: ignore[arg-type]
        with torch.autocast("cpu", torch.bfloat16):
            loss = sum(level.float().square().sum() for level in extractor.pyramid(image))
        loss.backward()  # type: ignore[union-attr]
        results.append([*(p.grad for p in extractor.parameters()), *extractor.buffers()])
    for kept, again in zip(*results, strict=True):
        assert kept is not None
        assert again is not None
        assert torch.equal(kept, again)


def test_recomputing_for_more_than_one_backward_pass() -> None:
    image = torch.rand(2, 3, 32, 32)
    results = []
    for recompute in (0, 2):
        torch.manual_seed(1)
        extractor = BottleneckExtractor(**SMALL, recompute=recompute)  # type: ignore[arg-type]
        parameters = list(extractor.parameters())
        losses = [level.square().sum() for level in extractor.pyramid(image)]
        first = torch.autograd.grad(losses[0], parameters, retain_graph=True, allow_unused=True)
        second = torch.autograd.grad(sum(losses), parameters)  # type: ignore[arg-type]
        results.append([*first, *second, *extractor.buffers()])
    for kept, again in zip(*results, strict=True):
        assert (kept is None) == (again is None)
        assert kept is None or torch.equal(kept, again)


def test_nothing_is_recomputed_without_a_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("softfeat.models.extractor.checkpoint", refuse)
    image = torch.rand(2, 3, 32, 32)
    BottleneckExtractor(**SMALL).eval().pyramid(image)  # type: ignore[arg-type]
    with torch.no_grad():
        BottleneckExtractor(**SMALL).pyramid(image)  # type: ignore[arg-type]
    BottleneckExtractor(**SMALL, recompute=0).pyramid(image)  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        BottleneckExtractor(**SMALL).pyramid(image)  # type: ignore[arg-type]


@pytest.mark.parametrize("stages", [-1, 3])
def test_only_stages_there_are_can_be_recomputed(stages: int) -> None:
    with pytest.raises(ValueError, match=r"recompute=.*0 to 2"):
        BottleneckExtractor(**SMALL, recompute=stages)  # type: ignore[arg-type]
