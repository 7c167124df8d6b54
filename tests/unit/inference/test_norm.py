"""Both norms are RMSNorm but for a constant that the next matrix takes in."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from services.inference.norm import LengthNorm, Norm, RmsNorm, make_norm

WIDTH, EPS = 48, 1e-5


@pytest.mark.parametrize("norm", [LengthNorm(WIDTH, EPS), RmsNorm(WIDTH, EPS)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3], ids=["below eps", "usual", "large"])
def test_a_norm_times_its_factor_is_rms_norm(norm: Norm, scale: float) -> None:
    x = scale * torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(norm(x) * norm.factor, F.rms_norm(x, (WIDTH,), eps=EPS))


def test_nothing_stays_nothing() -> None:
    zeros = torch.zeros(2, WIDTH)
    assert torch.equal(make_norm(WIDTH, EPS, zeros.device)(zeros), zeros)
