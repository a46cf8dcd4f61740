"""The benchmark of the network stage, with tiny settings."""

from benchmarks.network import network


def test_both_networks_are_timed(checkpoint: str) -> None:
    result = network(checkpoint, 64, [32], [32, 48], repeats=1)
    assert [row["network"] for row in result["rows"]] == ["shipped", "paper", "paper"]
    assert [row["long sides"] for row in result["rows"]] == ["32", "32", "32, 48"]
    assert result["rows"][1]["parameters (millions)"] == "3.71"
    assert len(result["ratios"]) == 2
