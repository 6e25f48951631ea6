"""`drifting cache`: encodes a data set by a VAE once and for all."""

import hashlib
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from drifting.assembly.spaces import sample_space
from drifting.config.checks import check
from drifting.config.schema import CacheBuild
from drifting.data import fingerprint, sources
from drifting.data.latents.read import FACTS, LABELS, MANIFEST, read_json
from drifting.data.latents.shards import remove_temporary, shards_of, write_json
from drifting.data.latents.write import _Builder, _finish, _mended, _read
from drifting.data.source import LabelledSource
from drifting.devices.interrupts import interrupts
from drifting.errors import CacheError, ConfigError, require
from drifting.method.space import SampleSpace
from drifting.runs.directory import CONFIG_FILE, check_config, read_config, write_config

logger = logging.getLogger("drifting")


def build_cache(config: CacheBuild, workdir: Path, process_index: int = 0, process_count: int = 1) -> bool:
    """Encodes a data set into `workdir`, going on where an earlier call stopped.

    The process that finds all shards finished writes the manifest.

    Args:
        config: what to encode, and how.
        workdir: the cache's folder, shared by all processes.
        process_index, process_count: this process makes the shards `k` with `k % process_count == process_index`.

    Returns:
        Whether the cache is whole, or shards of other processes are not there yet.

    Raises:
        ConfigError: the settings cannot work, or are not those of the cache in `workdir`.
        CacheError: too many images cannot be read, the VAE's output is not finite, or SIGTERM or Ctrl-C asked to stop,
            which it does after the batch under way.
    """
    check(config)
    require(process_count > 0, "--process_count", process_count, "use 1 or more")
    remedy = f"must lie in [0, --process_count={process_count})"
    require(0 <= process_index < process_count, "--process_index", process_index, remedy)
    check_config(workdir, config)
    began, source = time.monotonic(), sources.source(config.data)
    space = sample_space(config.data.vae, source.shape)
    claim(workdir, config, cache_facts(config, source, space))
    shards = shards_of(workdir, len(source), config.cache.shard_size)
    mine = shards[process_index::process_count]
    remove_temporary(path for shard in mine for path in (shard.path, shard.record))
    if process_index == 0:
        remove_temporary([workdir / LABELS, workdir / MANIFEST])
    missing = [shard for shard in mine if shard.finished() is None or _mended(source, shard)]
    images = sum(len(shard.indices) for shard in missing)
    logger.info("cache: %d of %d shards to make, %s images, in %s", len(missing), len(shards), f"{images:,}", workdir)
    with interrupts() as interrupted:
        whole = not missing or _Builder(config, source, space, shards).make(missing, interrupted)
    if not whole:
        raise CacheError("cache: stopped, the same command goes on from there")
    return _finish(workdir, shards, config.cache.max_bad, images, time.monotonic() - began)


def cache_facts(config: CacheBuild, source: LabelledSource, space: SampleSpace) -> dict[str, Any]:
    """What a cache depends on, JSON-able. The checksum covers labels and some of the images, as `build.data_facts`."""
    assert space.vae is not None
    digest = hashlib.sha256(source.labels.tobytes())
    for index in np.linspace(0, len(source) - 1, fingerprint.PROBES).astype(np.int64):
        image = _read(source, int(index))
        digest.update(b"" if isinstance(image, ValueError) else image.tobytes())
    return {
        "data": source.name,
        "samples": len(source),
        "shape": list(source.shape),
        "classes": list(source.class_names),
        "checksum": digest.hexdigest(),
        "crop": "ADM centre" if config.data.image_size and source.name != "synthetic" else None,
        "vae": config.data.vae,
        "vae_checksum": space.vae.checksum,
        "latent_shape": list(space.shape),
        "flip": config.cache.flip,
        "shard_size": config.cache.shard_size,
        "batch_size": config.cache.batch_size,
    }


def claim(workdir: Path, config: CacheBuild, facts: dict[str, Any]) -> None:
    """Writes settings and facts into a new folder, or checks that the facts there are the same.

    Raises:
        ConfigError: the folder holds something else, or cannot be written.
    """
    path = workdir / FACTS
    if path.is_file():
        old = read_json(path)
        # Where the VAE lies may change, its weights may not.
        if changed := [key for key in facts if key != "vae" and facts[key] != old.get(key)]:
            listed = "; ".join(f"{key} was {old.get(key)!r}, is {facts[key]!r}"[:200] for key in changed)
            remedy = "put back what it was made from or choose another --workdir"
            raise ConfigError(f"--workdir={workdir}: holds a cache of something else ({listed}); {remedy}")
    if not (workdir / CONFIG_FILE).is_file() or read_config(workdir, CacheBuild) != config:
        write_config(workdir, config)  # a later call may allow more bad images
    if not path.is_file():
        write_json(path, facts)
