from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module

from softfeat.commands.export import about, main, write_onnx
from softfeat.commands.train import train
from softfeat.models.checkpoints import checkpoint_file, read_checkpoint
from softfeat.models.extractor import BottleneckExtractor, build_extractor, load_extractor
from softfeat.training.hard_segmentation import HardSegmentationModule, load_hard_segmentation
from tests.helpers.photos import write_checkpoint
from tests.helpers.trainings import tiny_hard_run, tiny_run


def export(*overrides: str) -> None:
    with initialize_config_module("softfeat.conf", version_base="1.3"):
        cfg = compose("export", overrides=list(overrides))
    main.__wrapped__(cfg)  # type: ignore[attr-defined]


def test_a_training_becomes_weights(folder_root: Path, tmp_path: Path) -> None:
    soft, hard = tmp_path / "soft", tmp_path / "hard"
    train(tiny_run(folder_root, soft, "trainer.max_epochs=1"))
    train(tiny_hard_run(folder_root, hard, soft, "trainer.max_epochs=1"))
    for run in (soft, hard):
        output = tmp_path / "weights" / f"{run.name}.safetensors"
        export(f"checkpoint={run}", f"output={output}")
        told = read_checkpoint(output)["about"]
        assert told == about(checkpoint_file(run))
        assert str(tmp_path) not in str(told)
    assert told["features"] == about(checkpoint_file(soft))
    assert told["features"]["data.steps_per_epoch"] == 3
    assert len((tmp_path / "weights" / "SHA256SUMS").read_text().splitlines()) == 2
    image = torch.rand(1, 3, 32, 40)
    torch.testing.assert_close(
        load_extractor(tmp_path / "weights" / "soft.safetensors")(image),
        load_extractor(soft)(image),
        rtol=0.02,
        atol=1e-3,
    )
    again = tmp_path / "again.safetensors"
    export(f"checkpoint={tmp_path}/weights/hard.safetensors", f"output={again}")
    assert again.read_bytes() == (tmp_path / "weights" / "hard.safetensors").read_bytes()


def test_level_norm_can_be_chosen_after_training(folder_root: Path, tmp_path: Path) -> None:
    soft, hard = tmp_path / "soft", tmp_path / "hard"
    train(tiny_run(folder_root, soft, "trainer.max_epochs=1"))
    train(tiny_hard_run(folder_root, hard, soft, "trainer.max_epochs=1"))
    for level_norm in (None, 0.75):
        given = [] if level_norm is None else [f"level_norm={level_norm}"]
        export(f"checkpoint={soft}", f"output={tmp_path}/{level_norm}.safetensors", *given)
    as_trained, changed = (read_checkpoint(tmp_path / f"{n}.safetensors") for n in ("None", "0.75"))
    found = [content["extractor"].pop("level_norm") for content in (as_trained, changed)]
    assert found == [0.0, 0.75]
    assert as_trained["extractor"] == changed["extractor"]
    for name, value in as_trained["state_dict"].items():
        assert torch.equal(value, changed["state_dict"][name])
    for options in (
        [f"checkpoint={hard}", "output=a.safetensors"],
        [f"checkpoint={soft}", "output=a.onnx"],
    ):
        with pytest.raises(ValueError, match="level_norm= can only be set for soft features"):
            export(*options, "level_norm=0.5")
    with pytest.raises(ValueError, match="level_norm=2: set it to a number, from 0 to 1"):
        export(f"checkpoint={soft}", f"output={tmp_path}/b.safetensors", "level_norm=2")
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize(
    ("network", "hard"),
    [
        ("bottleneck", False),
        ("bottleneck", True),
        pytest.param("efficientnet_lite0", False, marks=pytest.mark.slow),
    ],
)
def test_onnx_gives_the_same_at_any_size(tmp_path: Path, network: str, hard: bool) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    sizes = {
        "bottleneck": {
            "widths": [8, 16, 16, 32],
            "blocks": [1, 1, 1, 1],
            "dim": 16,
            "readout_scale": 1.0,
        },
        "efficientnet_lite0": {"top_down": 16},
    }
    extractor = build_extractor({"network": network, **sizes[network]})
    module = HardSegmentationModule(3, extractor=extractor, end_to_end=True)
    for _ in range(3):
        module(torch.rand(2, 3, 64, 64))
    module.eval()
    extractor.hparams["level_norm"] = 0.75
    content = {"state_dict": module.state_dict(), "class_names": ["a", "b", "c"]}
    content["extractor"] = extractor.hparams
    if hard:
        content["hard_segmentation"] = module.hparams_plain
    torch.save(content, tmp_path / "net.ckpt")
    names = write_onnx(tmp_path / "net.ckpt", tmp_path / "net.onnx")
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["net.ckpt", "net.onnx"]
    session = onnxruntime.InferenceSession(
        tmp_path / "net.onnx", providers=["CPUExecutionProvider"]
    )
    loaded = load_hard_segmentation(tmp_path / "net.ckpt") if hard else None
    for batch, height, width in ((1, 64, 64), (2, 33, 97), (3, 101, 70), (1, 17, 15)):
        image = torch.rand(batch, 3, height, width)
        outputs = dict(zip(names, session.run(names, {"image": image.numpy()}), strict=True))
        with torch.no_grad():
            expected = {"features": extractor(image)}
            if loaded is not None:
                expected["scores"] = loaded(image)
        assert outputs.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(outputs[name], value, rtol=1e-3, atol=1e-4)


def test_another_suffix_is_an_error(tmp_path: Path) -> None:
    extractor = BottleneckExtractor(widths=[8, 16], blocks=[1, 1], dim=8)
    state = {f"extractor.{k}": v for k, v in extractor.state_dict().items()}
    torch.save({"extractor": extractor.hparams, "state_dict": state}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"must end in \.safetensors or \.onnx"):
        export(f"checkpoint={tmp_path}/a.ckpt", "output=a.pt")


def test_another_level_norm_leaves_out_the_click_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_checkpoint(tmp_path / "clicks.ckpt", clicks=True)
    export(f"checkpoint={file}", f"output={tmp_path}/kept.safetensors")
    assert read_checkpoint(tmp_path / "kept.safetensors")["clicks"]["layers"] == 1
    export(f"checkpoint={file}", f"output={tmp_path}/other.safetensors", "level_norm=0.5")
    assert "click network is left out" in capsys.readouterr().out
    content = read_checkpoint(tmp_path / "other.safetensors")
    assert "clicks" not in content
    assert not [name for name in content["state_dict"] if name.startswith("clicks.")]
