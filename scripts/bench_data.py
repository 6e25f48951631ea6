"""Speed of the data path on this machine: reading a cache of latents, and decoding images for one.

    python -m scripts.bench_data

A training step of the papers needs 512 new samples at most.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from drifting.config.schema import CacheBuild, CacheConfig, DataConfig
from drifting.data.batches import Pipeline
from drifting.data.latents.read import LatentSource
from drifting.data.sources.folder import imagefolder
from drifting.training.latents import build_cache

BATCH, WARM, TIMED = 512, 20, 60

PHOTOGRAPHS = 64
"""JPEGs of 500 x 375 pixels, as most of ImageNet's are."""


def latent_records(folder: Path) -> float:
    """Records a second, read in random order, mirrored by choice and batched: 32x32x4 latents, 10 warm shards."""
    data = DataConfig(name="synthetic", image_size=64, classes=10, vae="random://smoke")
    build_cache(CacheBuild(data, CacheConfig(shard_size=256)), folder)
    batches = Pipeline(LatentSource(folder), BATCH, seed=0, flip=True)
    for _ in range(WARM):
        next(batches)
    start = time.perf_counter()
    for _ in range(TIMED):
        next(batches)
    seconds = time.perf_counter() - start
    batches.close()
    return BATCH * TIMED / seconds


def decoded_images(folder: Path, size: int = 256) -> float:
    """Images a second of processor time: JPEGs decoded, reduced and cropped to `size` squares."""
    rng = np.random.default_rng(0)
    (folder / "class").mkdir(parents=True)
    for i in range(PHOTOGRAPHS):
        coarse = Image.fromarray(rng.integers(0, 256, (47, 63, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.float32)
        pixels = (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "class" / f"{i}.jpg", quality=90)
    source = imagefolder(folder, size)
    source.__getitems__(range(8))
    start = time.process_time()
    for index in range(PHOTOGRAPHS):
        source[index]
    return PHOTOGRAPHS / (time.process_time() - start)


def main() -> None:
    """Prints a line for each."""
    with tempfile.TemporaryDirectory() as folder:
        rate = latent_records(Path(folder) / "cache")
        print(f"latent cache: {rate:,.0f} records a second, {BATCH / rate * 1e3:.0f} ms for {BATCH}")
        rate = decoded_images(Path(folder) / "images")
        print(f"JPEGs of 500x375 pixels to 256x256: {rate:,.0f} images a second a core")


if __name__ == "__main__":
    main()
