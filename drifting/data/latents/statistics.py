"""Mean and deviation of each channel of a cache's latents: summed shard by shard as they are written."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from numpy.typing import NDArray

ROWS_A_PART = 256
"""Records that are read and summed at a time."""

SIGNIFICANT_DIGITS = 7
"""Digits to which means and deviations are given: about those of float32."""


class ChannelSums:
    """Sums over latents of one place and image, of each channel, in float64.

    Latents are those that are drawn of the moments: the variance of a posterior counts, and mirror images count.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.total, self.square = np.zeros(channels), np.zeros(channels)

    def add(self, moments: NDArray[np.float16]) -> None:
        """Adds moments `[..., 2 C]`, means and log-variances one after the other along the last axis."""
        mean, log_var = np.split(moments.astype(np.float64).reshape(-1, moments.shape[-1]), 2, axis=-1)
        self.count += len(mean)
        self.total += mean.sum(axis=0)
        self.square += (mean**2 + np.exp(log_var)).sum(axis=0)

    def recorded(self) -> dict[str, Any]:
        """The sums as JSON values."""
        return {"count": self.count, "total": self.total.tolist(), "square": self.square.tolist()}


def sums_of_shard(path: Path, record: np.dtype[np.void], records: int) -> dict[str, Any]:
    """The sums of a shard that was written without them, which is read for that."""
    sums = ChannelSums(record["moments"].shape[-1] // 2)
    if records:
        reader = ArrayRecordReader(str(path))
        for start in range(0, records, ROWS_A_PART):
            rows = reader.read(start, min(start + ROWS_A_PART, records))
            sums.add(np.frombuffer(b"".join(rows), record)["moments"])
        reader.close()
    return sums.recorded()


def mean_and_deviation(parts: Iterable[Mapping[str, Any]], channels: int) -> dict[str, Sequence[float]]:
    """`mean` and `std` of each channel over all shards, as lists; a channel that never varies has deviation 1."""
    count, total, square = 0, np.zeros(channels), np.zeros(channels)
    for part in parts:
        count, total, square = count + part["count"], total + part["total"], square + part["square"]
    mean = total / max(count, 1)
    deviation = np.sqrt(np.maximum(square / max(count, 1) - mean**2, 0))
    found = {"mean": mean, "std": np.where(deviation > 0, deviation, 1.0)}
    # Rounded, so that they do not depend on the order in which was summed.
    return {name: [float(f"{value:.{SIGNIFICANT_DIGITS}g}") for value in values] for name, values in found.items()}
