"""The benchmark of the network stage, with tiny settings."""

from benchmarks.network import network


def test_both_networks_are_timed(checkpoint: str) -> None:
    result = network(checkpoint, 64, [32], [32, 48], repeats=1)
    assert [row["network"] for row in result["rows"]] == [
        "shipped", "shipped, PyTorch's layers", "paper", "paper",
    ]  # fmt: skip
    assert [row["long sides"] for row in result["rows"]] == ["32", "32", "32", "32, 48"]
    first, plain, paper, _ = (row["parameters (millions)"] for row in result["rows"])
    assert first == plain
    assert paper == "3.71"
    assert len(result["ratios"]) == 3
