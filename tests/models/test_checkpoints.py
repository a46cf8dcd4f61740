import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from softfeat.models import checkpoints
from softfeat.models.checkpoints import (
    checkpoint_file,
    read_checkpoint,
    run_directory,
    sha256,
    shipped,
    write_weights,
)
from softfeat.models.extractor import BottleneckExtractor, load_extractor
from softfeat.training.hard_segmentation import HardSegmentationModule, load_hard_segmentation
from tests.helpers.photos import write_checkpoint as write_photo_checkpoint

SMALL = {"widths": [8, 16], "blocks": [1, 1], "dim": 8}


def network() -> HardSegmentationModule:
    module = HardSegmentationModule(3, extractor=BottleneckExtractor(**SMALL), end_to_end=True)  # type: ignore[arg-type]
    module.class_names = ["a", "b", "c"]
    for _ in range(3):
        module(torch.rand(2, 3, 32, 32))  # moves the batch-norm statistics
    return module.eval()


def content(module: HardSegmentationModule) -> dict[str, object]:
    made: dict[str, object] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(made)
    return made


def test_weights_are_the_network_in_half_precision(tmp_path: Path) -> None:
    module, path = network(), tmp_path / "road.safetensors"
    digest = write_weights(path, content(module), {"name": "test"})
    assert (tmp_path / "SHA256SUMS").read_text() == f"{digest}  road.safetensors\n"
    assert digest == sha256(path)
    assert read_checkpoint(path)["about"] == {"name": "test"}
    loaded, image = load_hard_segmentation(path), torch.rand(1, 3, 40, 48)
    assert loaded.class_names == ["a", "b", "c"]
    assert loaded.hparams_plain == module.hparams_plain
    halved = {
        k: v.half().float() if v.is_floating_point() else v for k, v in module.state_dict().items()
    }
    module.load_state_dict(halved)
    torch.testing.assert_close(loaded(image), module(image))
    torch.testing.assert_close(load_extractor(path)(image), module.extractor(image))
    numbers = sum(v.numel() for v in module.state_dict().values())
    assert path.stat().st_size < 2.2 * numbers + 20_000


def test_soft_features_leave_the_classifier_behind(tmp_path: Path) -> None:
    extractor, path = BottleneckExtractor(**SMALL), tmp_path / "general.safetensors"  # type: ignore[arg-type]
    state = {f"extractor.{k}": v for k, v in extractor.state_dict().items()}
    state["classifier.map.weight"] = torch.rand(3, 8)
    write_weights(path, {"extractor": extractor.hparams, "state_dict": state}, {})
    read = read_checkpoint(path)
    assert set(read) == {"extractor", "state_dict", "about", "file"}
    assert all(name.startswith("extractor.") for name in read["state_dict"])


def test_names_stand_for_what_the_sums_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path)
    assert shipped() == {}
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at general.*git checkout"):
        read_checkpoint("general")
    for name in ("general", "road"):
        write_weights(tmp_path / f"{name}.safetensors", content(network()), {})
    assert list(shipped()) == ["general", "road"]
    assert checkpoint_file("road") == tmp_path / "road.safetensors"
    load_extractor("general")
    with pytest.raises(FileNotFoundError, match="shipped weights: general, road"):
        read_checkpoint("raod")


def test_a_name_that_is_a_path_too_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    write_weights(tmp_path / "weights" / "road.safetensors", content(network()), {})
    (tmp_path / "road").mkdir()
    with pytest.raises(
        ValueError, match=r"road is the name of shipped weights and also a path here: write \./road"
    ):
        checkpoint_file("road")
    assert checkpoint_file("./road") == Path("road/checkpoints/best.ckpt")


def test_sums_are_read_as_sha256sum_writes_them(tmp_path: Path) -> None:
    path, listing = tmp_path / "a.safetensors", tmp_path / "SHA256SUMS"
    digest = write_weights(path, content(network()), {})
    for line in (f"{digest.upper()}  a.safetensors", f"\n{digest} *a.safetensors\n\n"):
        listing.write_text(line)
        read_checkpoint(path)
    listing.write_text(f"{'0' * 64} *a.safetensors\n")
    with pytest.raises(ValueError, match="is not the file that"):
        read_checkpoint(path)
    listing.write_text("nonsense\n")
    with pytest.raises(ValueError, match="SHA256SUMS: 'nonsense' is not a line"):
        read_checkpoint(path)


def test_only_a_run_has_a_directory(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert run_directory(tmp_path / "checkpoints" / "best.ckpt") is None
    (tmp_path / "config.yaml").touch()
    assert run_directory(tmp_path / "checkpoints" / "best.ckpt") == tmp_path
    assert run_directory(tmp_path / "weights" / "best.ckpt") is None
    assert run_directory(tmp_path / "checkpoints" / "a.safetensors") is None


@pytest.mark.parametrize(
    "change",
    [
        {"extractor": {**SMALL, "readout_scale": 1.0, "path": "/etc/passwd"}},
        {"extractor": [1]},
        {"hard_segmentation": {"num_classes": 3, "head": "linear", "features_checkpoint": "x"}},
        {"hard_segmentation": {"num_classes": 3, "head": "linear"}},  # no class_names
    ],
)
def test_a_strangers_header_names_no_files(change: dict, tmp_path: Path) -> None:
    extractor = {**SMALL, "readout_scale": 1.0}
    header = {"extractor": extractor, "about": {}} | change
    save_file({}, tmp_path / "a.safetensors", {"softfeat": json.dumps(header)})
    with pytest.raises(ValueError, match=r"a\.safetensors is not a file written by"):
        read_checkpoint(tmp_path / "a.safetensors")


def test_a_head_without_its_weights_is_named(tmp_path: Path) -> None:
    path, made = tmp_path / "a.safetensors", content(network())
    state = made["state_dict"]
    assert isinstance(state, dict)
    made["state_dict"] = {k: v for k, v in state.items() if not k.startswith("head.")}
    write_weights(path, made, {})
    with pytest.raises(ValueError, match=r"a\.safetensors: the head's weights do not fit"):
        load_hard_segmentation(path)


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_weights(path, content(network()), {})
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"a\.safetensors is not the file that .*SHA256SUMS lists"):
        read_checkpoint(path)
    write_weights(path, content(network()), {})
    read_checkpoint(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({}, tmp_path / "bad.safetensors", {"softfeat": json.dumps([1])})
    for name in ("other", "text", "bad"):
        with pytest.raises(ValueError, match="is not a file written by"):
            read_checkpoint(tmp_path / f"{name}.safetensors")


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    module = network()
    module.state_dict()["extractor.stem.1.running_var"].fill_(1e6)
    with pytest.raises(ValueError, match=r"extractor\.stem\.1\.running_var does not fit"):
        write_weights(tmp_path / "a.safetensors", content(module), {})
    with pytest.raises(ValueError, match="must end in"):
        write_weights(tmp_path / "a.ckpt", content(module), {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "sizes",
    [
        {"dim": 8, "channels": 8, "layers": 10**9},
        {"dim": 8, "channels": 10**9, "layers": 1},
        {"dim": 10**9, "channels": 8, "layers": 1},
        {"dim": 8, "channels": 8, "layers": 0},
        {"dim": 8, "channels": 8.0, "layers": 1},
        {"dim": 8, "channels": 8, "layers": True},
        {"dim": 8, "channels": 8, "layers": 1, "_target_": "os.system"},
        {"dim": 8},
        [8, 8, 1],
    ],
)
def test_a_click_network_has_the_sizes_of_its_weights(tmp_path: Path, sizes: Any) -> None:
    file = write_photo_checkpoint(tmp_path / "best.ckpt", clicks=True)
    content = torch.load(file, weights_only=True)
    assert read_checkpoint(file)["clicks"] == {"dim": 8, "channels": 8, "layers": 1}
    torch.save(content | {"clicks": sizes}, file)
    with pytest.raises(ValueError, match="is not a usable checkpoint"):
        read_checkpoint(file)


def test_a_click_network_without_its_weights_is_refused(tmp_path: Path) -> None:
    file = write_photo_checkpoint(tmp_path / "best.ckpt", clicks=True)
    content = torch.load(file, weights_only=True)
    del content["state_dict"]["clicks.photo.weight"]
    torch.save(content, file)
    with pytest.raises(ValueError, match="do not have its sizes"):
        read_checkpoint(file)
