"""Products by oneDNN and by torch's own choice: the same numbers and gradients."""

from __future__ import annotations

import pytest
import torch

from shared.model import products
from shared.model.products import add_product, linear, product

needs_onednn = pytest.mark.skipif(
    not products.HAS_WIDE_ONEDNN, reason="this CPU's products are left to torch"
)


@pytest.fixture(params=["onednn", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "onednn" and not products.HAS_WIDE_ONEDNN:
        pytest.skip("this CPU's products are left to torch")
    monkeypatch.setattr(products, "HAS_WIDE_ONEDNN", request.param == "onednn")
    monkeypatch.setattr(products, "LEAST_PRODUCT", 0)
    return str(request.param)


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(found: torch.Tensor, exact: torch.Tensor) -> None:
    """Within float32's rounding of sums of a few hundred terms of order one."""
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=2e-5)


@needs_onednn
def test_which_products_go_to_onednn() -> None:
    assert products.takes_onednn(torch.ones(4, 32, 128), torch.ones(128, 128))
    assert not products.takes_onednn(torch.ones(4, 31, 128), torch.ones(128, 128))
    wide = torch.ones(128, 128)
    assert products.takes_onednn(wide, wide)
    assert not products.takes_onednn(wide.bfloat16(), wide.bfloat16())
    assert not products.takes_onednn(wide.double(), wide.double())


@pytest.mark.parametrize("shape", [(3, 5, 64), (1, 1, 64), (7, 64), (130, 64)])
def test_linear_and_its_gradients(way: str, shape: tuple[int, ...]) -> None:
    x, weight = numbers(*shape, seed=1), numbers(96, 64, seed=2)
    outer = numbers(*shape[:-1], 96, seed=3)
    exact_x, exact_weight = (t.double().requires_grad_() for t in (x, weight))
    exact = exact_x @ exact_weight.T
    exact.backward(outer.double())
    x.requires_grad_()
    weight.requires_grad_()
    found = linear(x, weight)
    found.backward(outer)
    close(found.detach(), exact.detach())
    for ours, theirs in ((x, exact_x), (weight, exact_weight)):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert ours.grad.is_contiguous()
        close(ours.grad, theirs.grad)


def test_only_wanted_gradients_are_made(way: str) -> None:
    x, weight = numbers(4, 64, seed=1), numbers(8, 64, seed=2).requires_grad_()
    linear(x, weight).sum().backward()
    assert x.grad is None
    assert weight.grad is not None
    close(weight.grad, x.double().sum(0).expand(8, 64))


def test_products_of_views_and_sums_of_products(way: str) -> None:
    a, b = numbers(48, 130, seed=1), numbers(48, 70, seed=2)
    exact = a.T.double() @ b.double()
    close(product(a.T, b.T), exact)
    total = numbers(130, 70, seed=3)
    expected = total.double() + exact
    add_product(total, a.T, b.T)
    close(total, expected)
    wide = numbers(70, 200, seed=4)
    close(product(a.T, wide[:, :48]), a.T.double() @ wide[:, :48].T.double())
    half = torch.zeros(130, 70)
    add_product(half, a.T.bfloat16(), b.T.bfloat16())
    torch.testing.assert_close(half.double(), exact, rtol=0.05, atol=0.3)


@needs_onednn
def test_the_same_work_gives_the_same_bits() -> None:
    """Resuming bit for bit rests on it; of a size that goes to oneDNN, on two threads."""

    def work() -> list[torch.Tensor]:
        x, weight = numbers(1024, 320, seed=1), numbers(1280, 320, seed=2)
        tensors = [x.requires_grad_(), weight.requires_grad_()]
        found = linear(*tensors)
        return [found.detach(), *torch.autograd.grad(found.square().sum(), tensors)]

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first = work()
        assert all(torch.equal(a, b) for _ in range(3) for a, b in zip(first, work(), strict=True))
    finally:
        torch.set_num_threads(threads)
