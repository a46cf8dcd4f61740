"""The benchmark of documents, with tiny settings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage

from benchmarks import documents as module
from benchmarks.documents import READERS, Shown, colour_differences, crops, documents, levels
from benchmarks.tables import markdown
from softfeat.imaging.photo import read_photo

SHIPPED = Path(skimage.__file__).parent / "data"


def test_crops_have_all_depths_profiles_and_alphas(tmp_path: Path) -> None:
    samples = list(crops([SHIPPED / "coffee.png"], 12, 40, 0))
    kinds = {(s.pixels.dtype.name, s.profile, s.alpha is not None) for s in samples}
    assert len(samples) == 24
    assert len(kinds) == 2 * 3 * 2
    for sample in samples:
        assert max(sample.pixels.shape) == 40
        sample.write(tmp_path / "a.tif")
        photo = read_photo(tmp_path / "a.tif")
        np.testing.assert_array_equal(photo.pixels, sample.pixels)
        assert photo.profile == sample.profile
        assert (photo.alpha is None) == (sample.alpha is None)
    deep = samples[1].pixels
    assert (deep % 257 != 0).mean() > 0.5  # true values between those of 8 bits


def test_differences() -> None:
    samples = list(crops([SHIPPED / "coffee.png"], 3, 40, 0))
    wide = next(s for s in samples if s.profile is not None)
    same = Shown(wide.rgba, wide.profile)
    assert levels(same, wide).max() == 0
    assert colour_differences(same, wide).max() == 0
    brighter = Shown((wide.rgba + np.array([2 / 255, 0, 0, 0])).clip(0, 1), wide.profile)
    assert levels(brighter, wide).max() == pytest.approx(2)
    assert 0 < colour_differences(brighter, wide).max() < 10
    other = Shown(wide.rgba, module._ADOBE if wide.profile == module._P3 else module._P3)
    assert colour_differences(other, wide).mean() > 1
    with pytest.raises(ValueError, match="lost the colour profile"):
        colour_differences(replace(same, profile=None), wide)


def test_documents_are_compared_with_their_photos(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {("PSD", "psd-tools"), ("PSD", "GIMP")}
    readers = {name: READERS[name] for name in kept}
    readers["PSD", "GIMP"] = ("no-such-program", readers["PSD", "GIMP"][1])
    monkeypatch.setattr(module, "READERS", readers)
    result = documents(checkpoint, ["astronaut.png"], 2, 66, layers=3, seed=0)
    assert [(row["bits"], row["photos"]) for row in result["rows"]] == [(8, 2), (16, 2)]
    assert all(row["largest difference"] <= 1 for row in result["rows"])
    (table,) = result["tables"].values()
    assert [row["photos"] for row in table] == [1, 1]
    assert all(row["largest"] <= 0.5 for row in table)
    assert result["settings"]["not installed"] == "GIMP"
    assert "dE2000" in markdown(result | {"machine": {}})
