import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from src.models import checkpoints
from src.models.checkpoints import checkpoint_file, read_checkpoint, sha256, shipped, write_weights
from src.models.extractor import Extractor, load_extractor
from src.models.hard_segmentation import HardSegmentationModule, load_hard_segmentation

SMALL = {"widths": [8, 16], "blocks": [1, 1], "dim": 8}


def network() -> HardSegmentationModule:
    module = HardSegmentationModule(3, extractor=Extractor(**SMALL), end_to_end=True)  # type: ignore[arg-type]
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
    extractor, path = Extractor(**SMALL), tmp_path / "general.safetensors"  # type: ignore[arg-type]
    state = {f"extractor.{k}": v for k, v in extractor.state_dict().items()}
    state["classifier.map.weight"] = torch.rand(3, 8)
    write_weights(path, {"extractor": extractor.hparams, "state_dict": state}, {})
    read = read_checkpoint(path)
    assert set(read) == {"extractor", "state_dict", "about"}
    assert all(name.startswith("extractor.") for name in read["state_dict"])


def test_names_stand_for_what_the_sums_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path)
    assert shipped() == {}
    with pytest.raises(FileNotFoundError, match="no checkpoint at general"):
        read_checkpoint("general")
    for name in ("general", "road"):
        write_weights(tmp_path / f"{name}.safetensors", content(network()), {})
    assert list(shipped()) == ["general", "road"]
    assert checkpoint_file("road") == tmp_path / "road.safetensors"
    load_extractor("general")
    with pytest.raises(FileNotFoundError, match="one of general, road"):
        read_checkpoint("raod")


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
        with pytest.raises(ValueError, match="is not a file of"):
            read_checkpoint(tmp_path / f"{name}.safetensors")


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    module = network()
    module.state_dict()["extractor.stem.1.running_var"].fill_(1e6)
    with pytest.raises(ValueError, match=r"extractor\.stem\.1\.running_var does not fit"):
        write_weights(tmp_path / "a.safetensors", content(module), {})
    with pytest.raises(ValueError, match="ends in"):
        write_weights(tmp_path / "a.ckpt", content(module), {})
    assert not list(tmp_path.iterdir())
