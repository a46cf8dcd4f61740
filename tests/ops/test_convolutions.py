from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from softfeat.ops.convolutions import depthwise, pointwise, relu6

# size of the maps, size of the kernels, stride, padding
CASES = [
    ((7, 9), 3, 1, 1),
    ((8, 6), 3, 2, 0),
    ((9, 7), 5, 1, 2),
    ((11, 8), 5, 2, 0),
    ((10, 10), 7, 1, 3),
    ((3, 4), 1, 1, 0),
    ((1, 1), 5, 1, 2),
    ((5, 5), 5, 1, 0),
]


def by_loops(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    """Sums over the pixels of each kernel."""
    x = F.pad(x, (padding,) * 4)
    size = weight.shape[-1]
    height, width = ((n - size) // stride + 1 for n in x.shape[2:])
    y = bias.view(1, -1, 1, 1).expand(len(x), -1, height, width).clone()
    for i, j in product(range(size), range(size)):
        seen = x[:, :, i : i + (height - 1) * stride + 1 : stride]
        y += (
            weight[:, 0, i, j].view(-1, 1, 1) * seen[..., j : j + (width - 1) * stride + 1 : stride]
        )
    return y


def gradients(
    function: Callable[..., Tensor], *inputs: Tensor, **options: int
) -> tuple[Tensor, list[Tensor | None]]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    y = function(*leaves, **options)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view(y.shape)
    (y * weights).sum().backward()
    return y, [x.grad for x in leaves]


def depthwise_case(size: tuple[int, int], kernel: int, dtype: torch.dtype) -> list[Tensor]:
    return [
        torch.randn(2, 4, *size, dtype=dtype),
        torch.randn(4, 1, kernel, kernel, dtype=dtype),
        torch.randn(4, dtype=dtype),
    ]


@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), CASES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_depthwise_equals_loops(
    size: tuple[int, int],
    kernel: int,
    stride: int,
    padding: int,
    layout: torch.memory_format,
    dtype: torch.dtype,
    tolerance: float,
    device: str,
) -> None:
    inputs = [x.to(device) for x in depthwise_case(size, kernel, dtype)]
    inputs[0] = inputs[0].to(memory_format=layout)
    actual = gradients(depthwise, *inputs, stride=stride, padding=padding)
    expected = gradients(by_loops, *inputs, stride=stride, padding=padding)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), CASES)
def test_depthwise_passes_gradcheck(
    size: tuple[int, int], kernel: int, stride: int, padding: int
) -> None:
    inputs = [x.requires_grad_() for x in depthwise_case(size, kernel, torch.float64)]
    assert torch.autograd.gradcheck(
        lambda *x: depthwise(*x, stride=stride, padding=padding), inputs
    )


def test_depthwise_computes_only_the_gradients_that_are_needed() -> None:
    x, weight, bias = depthwise_case((8, 8), 5, torch.float32)
    for which in range(3):
        leaves = [t.clone().requires_grad_(i == which) for i, t in enumerate((x, weight, bias))]
        depthwise(leaves[0], leaves[1], leaves[2], padding=2).sum().backward()
        assert [leaf.grad is not None for leaf in leaves] == [i == which for i in range(3)]
    leaves = [t.clone().requires_grad_() for t in (x, weight)]
    depthwise(leaves[0], leaves[1], None, padding=2).sum().backward()
    assert all(leaf.grad is not None for leaf in leaves)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1), (3, 2), (5, 2)])
def test_depthwise_under_autocast(kernel: int, stride: int) -> None:
    """Its results are those of bfloat16, and its gradients come as close to exact ones as these."""
    inputs = depthwise_case((16, 16), kernel, torch.float32)
    options = {"stride": stride, "padding": kernel // 2}
    with torch.autocast("cpu", torch.bfloat16):
        actual, own = gradients(depthwise, *inputs, **options)
        expected, _ = gradients(F.conv2d, *inputs, groups=4, **options)
    assert actual.dtype == torch.bfloat16
    assert torch.equal(actual, expected)
    _, exact = gradients(depthwise, *(x.double() for x in inputs), **options)
    for gradient, reference in zip(own, exact, strict=True):
        assert gradient is not None
        assert gradient.dtype == torch.float32
        assert reference is not None
        assert (gradient - reference).abs().max() <= 0.02 * reference.abs().max()


@pytest.mark.parametrize(
    "inputs",
    [
        [torch.randn(1, 2, 8, 8), torch.randn(2, 1, 4, 4)],  # an even kernel
        [torch.randn(1, 2, 8, 8), torch.randn(2, 1, 3, 5)],  # one that is not square
        [torch.randn(0, 2, 8, 8), torch.randn(2, 1, 3, 3)],  # no photo
        [torch.randn(2, 8, 8), torch.randn(2, 1, 3, 3)],  # one photo without a batch
    ],
    ids=["even", "not square", "empty", "one"],
)
def test_depthwise_of_unusual_inputs_is_that_of_pytorch(inputs: list[Tensor]) -> None:
    torch.testing.assert_close(
        gradients(depthwise, *inputs), gradients(partial(F.conv2d, groups=2), *inputs)
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 5, 6, 7), (1, 1, 1, 1), (3, 2, 1, 4), (0, 2, 3, 4)])
def test_pointwise_equals_a_convolution(
    shape: tuple[int, int, int, int], layout: torch.memory_format, device: str
) -> None:
    x = torch.randn(shape, dtype=torch.float64, device=device).to(memory_format=layout)
    weight = torch.randn(3, shape[1], 1, 1, dtype=torch.float64, device=device)
    bias = torch.randn(3, dtype=torch.float64, device=device)
    expected = F.conv2d(x, weight, bias)
    torch.testing.assert_close(pointwise(x, weight, bias), expected)
    torch.testing.assert_close(pointwise(x, weight), F.conv2d(x, weight))
    torch.testing.assert_close(
        gradients(pointwise, x, weight, bias), gradients(F.conv2d, x, weight, bias)
    )
    if len(x):
        torch.testing.assert_close(pointwise(x[0], weight, bias), expected[0])


def test_pytorch_takes_over_where_its_graph_is_recorded() -> None:
    inputs = [x.requires_grad_() for x in depthwise_case((8, 8), 5, torch.float32)]

    def layers(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return relu6(depthwise(x, weight, bias, padding=2))

    expected = layers(*inputs)
    assert "_ReLU6" in str(expected.grad_fn)
    compiled = torch.compile(layers, backend="eager", fullgraph=True)
    for function in (torch.jit.trace(layers, inputs), compiled):
        actual = function(*inputs)
        torch.testing.assert_close(actual, expected)
        assert "Hardtanh" in str(actual.grad_fn)


def test_float64_stays_exact_under_autocast() -> None:
    x, weight, _ = depthwise_case((8, 8), 3, torch.float64)
    for needed in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            assert depthwise(x, weight.requires_grad_(needed), None).dtype == torch.float64


def test_relu6_equals_pytorch_also_at_its_kinks(device: str) -> None:
    x = torch.tensor([-1.0, 0.0, 1e-30, 3.0, 6.0, 6.5, float("inf"), float("nan")], device=device)
    for values in (x[:-1], x):
        y, (own,) = gradients(relu6, values)
        expected, (theirs,) = gradients(F.relu6, values)
        torch.testing.assert_close(y, expected, equal_nan=True)
        assert torch.equal(own[:7], theirs[:7])  # type: ignore[index]
    before = x.clone()
    with torch.no_grad():
        relu6(x)
    torch.testing.assert_close(x, before, equal_nan=True)


def test_relu6_keeps_its_result_only() -> None:
    kept: list[Tensor] = []
    x = torch.randn(4, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = relu6(2 * x)
    assert [t.data_ptr() for t in kept if t.shape == y.shape] == [y.data_ptr()]
