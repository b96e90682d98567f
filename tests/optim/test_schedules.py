import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regularization import WarmupDecay


@given(st.integers(1, 60), st.floats(0, 1), st.sampled_from(["linear", "cosine"]))
def test_the_learning_rates_have_their_closed_form(total: int, warmup: float, decay: str) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    schedule = WarmupDecay(optimizer, total, warmup, decay)  # type: ignore[arg-type]
    for step in range(total):
        time = (step + 1) / (total + 1)
        if time < warmup:
            factor = time / warmup
        else:
            elapsed = (time - warmup) / (1 - warmup) if warmup < 1 else 0.0
            factor = 1 - elapsed if decay == "linear" else (1 + math.cos(math.pi * elapsed)) / 2
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.3 * factor, abs=1e-12)
        assert optimizer.param_groups[0]["lr"] > 0
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(("total", "warmup"), [(10, -0.1), (10, 1.1), (0, 0.1), (None, 0.1)])
def test_invalid_arguments_are_rejected(total: int | None, warmup: float) -> None:
    with pytest.raises(ValueError, match="must"):
        WarmupDecay(torch.optim.SGD([torch.zeros(1)], lr=1.0), total, warmup)
