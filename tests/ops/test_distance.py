import torch

from softfeat.ops.distance import pairwise_distance


def test_distances_equal_differences() -> None:
    x = torch.randn(2, 12, 5)
    x[0, 3] = x[0, 7]
    expected = (x[:, :, None] - x[:, None]).double().norm(dim=-1).float()
    distance = pairwise_distance(x)
    torch.testing.assert_close(distance, expected)
    assert distance[0, 3, 7] == 0
    assert not distance.diagonal(dim1=1, dim2=2).any()
