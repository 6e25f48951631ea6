"""A run on the devices of this process; prints its steps, and what it compiled after it had done everything once."""

import sys
from pathlib import Path
from typing import Any

import jax

import drifting
from tests.support.runs import metrics, tiny_config

COMPILED = "/jax/core/compile/backend_compile_duration"
"""JAX's event of a compiled program, whether or not it came out of the cache on disk."""


def main(workdir: str) -> None:
    run = Path(workdir)
    late: list[dict[str, Any]] = []

    def note(event: str, duration: float, **about: Any) -> None:
        # Every step draws, scores and saves: after the second of them all programs are there.
        if event == COMPILED and (run / "metrics.jsonl").is_file() and len(metrics(run)) >= 2:
            late.append(about)

    jax.monitoring.register_event_duration_secs_listener(note)
    config = tiny_config(
        model={"name": "mlp", "num_heads": None, "depth": 2},
        loss={"labels": 2},
        train={"steps": 6, "log_every": 1, "sample_every": 1, "checkpoint_every": 1},
        eval={"every": 1, "num_samples": 16, "neighbours": 2},
    )
    drifting.train(config, run)
    print(len(metrics(run)), *late)


if __name__ == "__main__":
    main(sys.argv[1])
