"""The costs of a cluster on paper."""

import pytest

pytest.importorskip("ray", reason="needs ray: make install")

from benchmarks import cluster_costs as module
from benchmarks.cluster_costs import cluster_costs
from benchmarks.tables import markdown


def test_costs_are_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_costs", lambda *_: {"segment": (3.6, 2.0), "extract": (0.36, 1)})
    monkeypatch.setattr(module, "_rate", lambda actors, _: 100.0 * actors)
    result = cluster_costs(1.2, 1, [1, 10], 1000, 0.05, [2, 4], 10)
    first = result["rows"][0]
    assert first["core hours"] == "1,000"
    assert first["hours with 1,000 cores"] == "1.0"
    assert first["dollars"] == "50"
    assert first["TB of results"] == "2.0"
    assert first["photos a second"] == "278"
    assert len(result["rows"]) == 4
    assert result["settings"]["items a second with the most actors"] == 400
    assert "| command |" in markdown(result | {"machine": {}})


def test_seconds_and_sizes_are_measured() -> None:
    costs = module._costs(0.003, 1)
    assert costs.keys() == {"segment", "extract"}
    assert all(seconds > 0 and size > 0 for seconds, size in costs.values())


@pytest.mark.slow
def test_items_are_handed_out() -> None:
    assert module._rate(2, 200) > 1
