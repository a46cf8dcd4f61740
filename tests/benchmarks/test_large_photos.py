"""The benchmark of whole photos, with tiny settings."""

from benchmarks.large_photos import large_photos
from benchmarks.tables import markdown


def test_every_size_is_measured(checkpoint: str) -> None:
    result = large_photos(checkpoint, [0.003, 0.006], layers=2)
    assert [row["photo"] for row in result["rows"]] == ["63x47", "89x67"]
    for row in result["rows"]:
        assert float(row["s"]) >= float(row["layers"])
        assert row["MB"].isdigit()
    assert "| photo | megapixels | network | layers |" in markdown(result | {"machine": {}})
