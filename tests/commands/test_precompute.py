from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from softfeat.commands.precompute import main


def precompute(*overrides: str) -> None:
    with initialize_config_module("softfeat.conf", version_base="1.3"):
        cfg = compose("precompute", overrides=list(overrides))
    main.__wrapped__(cfg)  # type: ignore[attr-defined]


def test_every_bad_file_is_listed_before_anything_is_stored(
    ade20k_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["data=ade20k", f"data.root={ade20k_root}", f"data.cache_dir={tmp_path / 'cache'}"]
    bad = [
        ade20k_root / "annotations" / "training" / "ADE_training_00000001.png",
        ade20k_root / "annotations" / "validation" / "ADE_validation_00000000.png",
    ]
    kept = [path.read_bytes() for path in bad]
    bad[0].unlink()
    bad[1].write_bytes(kept[1][:40])
    with pytest.raises(SystemExit) as stopped:
        precompute(*options)
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert all(path.name in said for path in bad)
    assert "2 problems" in said
    for path, content in zip(bad, kept, strict=True):
        path.write_bytes(content)
    precompute(*options)
    assert "train" in capsys.readouterr().out
    precompute(*options, "data.pack=true")
    assert len(list((tmp_path / "cache" / "packed").glob("*/rows.u8"))) == 2  # test is val
