import copy

import pytest
import torch
from torch import nn

from softfeat.models.convolutions import ConvolutionSequence, ReLU6, SameConv2d


def test_same_padding_is_that_of_tensorflow() -> None:
    """Output i starts at input i * stride - before, with before = floor(total padding / 2)."""
    for size in (7, 8):
        for kernel in (1, 3, 5):
            conv = SameConv2d(1, 1, kernel, 2)
            x = torch.randn(1, 1, size, size)
            outputs = -(-size // 2)
            total = max((outputs - 1) * 2 + kernel - size, 0)
            padded = torch.zeros(size + total, size + total)
            before = total // 2
            padded[before : before + size, before : before + size] = x[0, 0]
            expected = torch.stack(
                [
                    (padded[2 * i : 2 * i + kernel, 2 * j : 2 * j + kernel] * conv.weight).sum()
                    for i in range(outputs)
                    for j in range(outputs)
                ]
            )
            torch.testing.assert_close(conv(x).flatten(), expected)


def sequence() -> ConvolutionSequence:
    """Has every kind of convolution, in double precision, and batch norms that change much."""
    layers = ConvolutionSequence(
        *(SameConv2d(3, 6, 3, 2), nn.BatchNorm2d(6), ReLU6()),
        *(SameConv2d(6, 6, 5, groups=6), nn.BatchNorm2d(6), ReLU6()),
        *(SameConv2d(6, 6, 3, 2, groups=6), nn.BatchNorm2d(6)),
        *(SameConv2d(6, 8, 1), nn.BatchNorm2d(8), ReLU6()),
        *(SameConv2d(8, 8, 3, groups=2, bias=False), nn.BatchNorm2d(8)),
        SameConv2d(8, 2, 1, bias=True),
    ).double()
    for norm in layers:
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                assert tensor is not None
                tensor.uniform_(0.5, 2)
    return layers


def one_by_one(layers: ConvolutionSequence, x: torch.Tensor) -> torch.Tensor:
    for layer in layers:
        x = layer(x)
    return x


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(16, 18), (9, 7), (1, 1)])
def test_folding_changes_nothing(size: tuple[int, int], training: bool) -> None:
    """Compare outputs, gradients and statistics with layers that run one by one."""
    own = sequence().train(training)
    other = copy.deepcopy(own)
    x = torch.rand(3, 3, *size, dtype=torch.float64)
    y, expected = own(x), one_by_one(other, x)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward(), expected.square().sum().backward()
    for (name, parameter), other_parameter in zip(
        own.named_parameters(), other.parameters(), strict=True
    ):
        torch.testing.assert_close(
            parameter.grad, other_parameter.grad, msg=lambda m, n=name: n + m
        )
    torch.testing.assert_close(own.state_dict(), other.state_dict())


def test_only_batch_norms_behind_their_convolution_are_folded() -> None:
    x = torch.rand(2, 3, 6, 6) + 1
    for layers in (
        [nn.BatchNorm2d(3)],
        [SameConv2d(3, 3, 3, bias=True), nn.BatchNorm2d(3)],
        [nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)],
        [SameConv2d(3, 3, 3), nn.BatchNorm2d(3, affine=False)],
        [SameConv2d(3, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)],
        [SameConv2d(3, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)],
    ):
        sequence = ConvolutionSequence(*layers).eval()
        for layer in layers:
            if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
                layer.running_mean.fill_(0.3)
        torch.testing.assert_close(sequence(x), one_by_one(sequence, x))
        if len(sequence) > 1:
            torch.testing.assert_close(sequence[1:](x), one_by_one(sequence[1:], x))


def test_batch_norms_of_single_precision_in_a_half_precision_network() -> None:
    layers = sequence().eval().to(torch.bfloat16)
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            layer.float()
    x = torch.rand(1, 3, 8, 8, dtype=torch.bfloat16)
    expected = one_by_one(layers.double(), x.double())
    layers.to(torch.bfloat16)
    torch.testing.assert_close(layers(x).double(), expected, rtol=0.1, atol=0.1)


def test_folded_batch_norms_keep_no_maps() -> None:
    kept: dict[str, set[int]] = {}
    for name in ("folded", "one by one"):
        layers = sequence().eval()
        pointers = kept.setdefault(name, set())

        def pack(tensor: torch.Tensor, pointers: set[int] = pointers) -> torch.Tensor:
            if tensor.ndim == 4 and tensor.shape[0] == 5:  # maps of the batch
                pointers.add(tensor.data_ptr())
            return tensor

        x = torch.rand(5, 3, 16, 16, dtype=torch.float64)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = layers(x) if name == "folded" else one_by_one(layers, x)
        del y
    assert len(kept["folded"]) < len(kept["one by one"])


@pytest.mark.parametrize("frozen", ["convolutions", "batch norms"])
def test_folding_with_frozen_parameters(frozen: str) -> None:
    layers = sequence().eval()
    for layer in layers:
        norm = isinstance(layer, nn.BatchNorm2d)
        layer.requires_grad_(norm == (frozen == "convolutions"))
    layers(torch.rand(1, 3, 8, 8, dtype=torch.float64)).sum().backward()
    for parameter in layers.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad


def test_names_of_parameters_are_those_of_pytorch_layers() -> None:
    """Files of weights name them so."""
    layers = sequence()
    plain = nn.Sequential(
        *(
            nn.Conv2d(
                m.in_channels,
                m.out_channels,
                m.kernel_size,  # type: ignore[arg-type]
                groups=m.groups,
                bias=m.bias is not None,
            )
            if isinstance(m, SameConv2d)
            else copy.deepcopy(m)
            for m in layers
        )
    )
    expected = {name: value.shape for name, value in plain.state_dict().items()}
    assert {name: value.shape for name, value in layers.state_dict().items()} == expected
