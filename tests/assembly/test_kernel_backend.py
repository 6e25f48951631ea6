"""What a run says of the loss when kernels are asked for."""

import logging
from typing import Any

import pytest

from drifting.assembly.recipe import objective_of, tell_of_kernels
from drifting.config.schema import LossConfig


@pytest.mark.parametrize(
    ("platform", "changes", "told"),
    [
        ("gpu", {}, None),
        ("tpu", {}, None),
        ("gpu", {"kernel_backend": "jax", "objective": "inverse_profile_kde"}, None),
        ("cpu", {}, "there are kernels for GPUs and TPUs alone"),
        ("gpu", {"objective": "inverse_profile_kde"}, "there are none of inverse_profile_kde with gaussian"),
        (
            "gpu",
            {"generated": 96, "unconditional": 0, "positives": 96},
            "a program has room for 16,384 pairs, and 96 generated, 0 unconditional and 96 positives, filled up to "
            "powers of two, are 32,768",
        ),
        (
            "tpu",
            {"generated": 96, "unconditional": 0, "positives": 96},
            "a program has room for 16,384 pairs, and 96 generated, 0 unconditional and 96 positives are 18,432",
        ),
        (
            "tpu",
            {"generated": 4, "unconditional": 3, "positives": 5},
            "on a TPU loss.generated=4 must be a multiple of 8 beside unconditional samples",
        ),
        ("tpu", {"generated": 64, "unconditional": 0, "positives": 64}, None),
    ],
)
def test_a_loss_that_is_not_computed_by_the_kernels_asked_for_is_told(
    platform: str, changes: dict[str, Any], told: str | None, caplog: pytest.LogCaptureFixture
):
    defaults = {"kernel_backend": "pallas", "objective": "log_kde", "kernel": "gaussian"}
    loss = LossConfig(**(defaults | changes))
    with caplog.at_level(logging.WARNING, "drifting"):
        tell_of_kernels(loss, objective_of(loss, platform))
    if told is None:
        assert not caplog.messages
    else:
        (line,) = caplog.messages
        begin = "loss.kernel_backend=pallas: the loss is computed as operations of JAX, because "
        assert line.startswith(begin + told)
