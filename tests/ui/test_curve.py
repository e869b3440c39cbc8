"""The loss curve."""

from __future__ import annotations

from lib_addift.ui.curve import curve


def test_the_loss_curve_bears_any_losses() -> None:
    assert curve([], 10) == curve([0.1], 10) == curve([float("nan"), 0.1], 10) == ""
    assert "nan" not in curve([0.1, float("nan"), float("inf"), 0.1], 10)
    many = curve([1.0 / (n + 1) for n in range(10_000)], 10_000)
    assert many.count(",") < 1000
