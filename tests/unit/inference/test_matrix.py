"""Both layouts of a weight multiply alike, for any number of rows, and rows stay independent."""

from __future__ import annotations

import platform
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from services.inference.matrix import BlockedMatrix, Int8Matrix, KMajor, Matrix, lay_out

WIDTH, OUT = 48, 80
HAS_ONEDNN = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
IS_X86 = platform.machine() == "x86_64"
needs_onednn = pytest.mark.skipif(not (HAS_ONEDNN and IS_X86), reason="needs oneDNN on x86")
LAYOUTS = [KMajor, pytest.param(BlockedMatrix, marks=needs_onednn)]


def random(rows: int, width: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 8, 33])
def test_a_layout_multiplies_as_the_definition(
    layout: Callable[[Tensor], Matrix], rows: int
) -> None:
    weight, x, total = random(OUT, WIDTH), random(rows, WIDTH), random(rows, OUT)
    matrix, expected = layout(weight), x.double() @ weight.double().t()
    torch.testing.assert_close(matrix(x).double(), expected, rtol=0, atol=1e-4)
    sum_expected = total.double() + expected
    matrix.add_to(total, x)
    torch.testing.assert_close(total.double(), sum_expected, rtol=0, atol=1e-4)
    assert matrix.num_bytes == 4 * WIDTH * OUT


@pytest.mark.parametrize("layout", LAYOUTS)
def test_columns_of_a_wider_tensor_are_read_in_place(layout: Callable[[Tensor], Matrix]) -> None:
    weight, wide = random(OUT, WIDTH), random(5, 2 * WIDTH)
    matrix = layout(weight)
    assert torch.equal(matrix(wide[:, WIDTH:]), matrix(wide[:, WIDTH:].contiguous()))


@pytest.mark.parametrize("rows", [0, 1, 3, 33])
def test_weights_of_eight_bits_multiply_as_their_definition_within_rounding(rows: int) -> None:
    """An output is off by half a step of each weight, and by bfloat16's rounding of in and out."""
    weight, x, total = random(OUT, WIDTH), random(rows, WIDTH), random(rows, OUT)
    weight[0] = 0
    matrix, exact = Int8Matrix(weight), x @ weight.t()
    steps = weight.abs().amax(1) / 127 * 1.01  # a scale is rounded too
    size = x.abs() @ weight.abs().t()
    bound = x.abs().sum(1, keepdim=True) * steps / 2 + size / 256 + exact.abs() / 128
    found = matrix(x)
    assert found.dtype == torch.float32
    assert ((found - exact).abs() <= bound).all()
    assert not found[:, 0].any()
    expected = total + found
    matrix.add_to(total, x)
    assert torch.equal(total, expected)
    assert matrix.num_bytes == WIDTH * OUT + 2 * OUT


@needs_onednn
def test_the_layout_of_a_device() -> None:
    assert isinstance(lay_out(torch.zeros(2, 3)), BlockedMatrix)
    assert isinstance(lay_out(torch.zeros(2, 3, dtype=torch.bfloat16)), KMajor)
    assert isinstance(lay_out(torch.zeros(2, 3, device="meta")), KMajor)
