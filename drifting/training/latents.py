"""`drifting cache`: encodes a data set by a VAE once and for all, or takes over latents that other code has encoded."""

import dataclasses
import hashlib
import logging
import math
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from drifting.assembly.spaces import source_space
from drifting.config.checks import check
from drifting.config.schema import CacheBuild, CacheConfig
from drifting.data import fingerprint, sources
from drifting.data.latents.foreign import Views
from drifting.data.latents.read import CACHE_FACTS_FILE, LABELS_FILE, MAKE_CACHE_AGAIN, MANIFEST_FILE, LatentSource
from drifting.data.latents.shards import Shard, shards_of
from drifting.data.latents.write import Encode, Image, ShardMaker, finish_cache, is_mended, read_or_error
from drifting.data.source import LabelledSource, delivery
from drifting.devices.interrupts import interrupts
from drifting.errors import CacheError, ConfigError, InputError, UnusableMomentsError, counted, require_argument
from drifting.method.space import SampleSpace
from drifting.networks.autoencoder import scale_of
from drifting.networks.network import Params
from drifting.runs.directory import CONFIG_FILE, check_config, read_config, write_config
from drifting.runs.files import read_json, remove_torn, write_json
from drifting.runs.places import is_stored
from drifting.runs.shared_work import Share, changes, share_in_use

logger = logging.getLogger("drifting")


def build_cache(config: CacheBuild, workdir: Path, share: Share | None = None) -> bool:
    """Encodes a data set into `workdir`, going on where an earlier call stopped.

    The process that finds all shards finished writes the manifest.

    Args:
        config: what to encode, and how.
        workdir: the cache's folder, shared by all processes.
        share: which of several processes that make one cache this one is.

    Returns:
        Whether the cache is whole, or shards of other processes are not there yet.

    Raises:
        ConfigError: the settings cannot work, or are not those of the cache in `workdir`, or another process is at the
            same share.
        CacheError: too many images cannot be read, the VAE's output is not finite, or SIGTERM or Ctrl-C asked to stop,
            which it does after the batch under way.
    """
    check(config)
    share = share or Share()
    check_config(workdir, config)
    began, source = time.monotonic(), sources.source(config.data)
    made = _named_vae(config, source)
    space = source_space(made.data.vae, source)
    before = {path for path in (workdir, *_described_by(workdir)) if path.exists()}
    claim(workdir, config, cache_facts(made, source, space))
    try:
        with share_in_use(workdir, "workdir", share):
            return _encode_share(made, workdir, share, source, space, began)
    except UnusableMomentsError:
        if share.count == 1:
            _take_back(workdir, before)
        raise


def _described_by(workdir: Path) -> tuple[Path, Path]:
    """The files that say what is to be a cache there."""
    return workdir / CONFIG_FILE, workdir / CACHE_FACTS_FILE


def _take_back(workdir: Path, before: Collection[Path]) -> None:
    """Removes what says that a cache was begun, but for what was there `before`, unless some of it is finished."""
    if workdir / CACHE_FACTS_FILE in before or any(workdir.glob("*.array_record*")):
        return
    for path in _described_by(workdir):
        if path not in before:
            path.unlink(missing_ok=True)
    if workdir not in before and not is_stored(workdir) and not any(workdir.iterdir()):
        workdir.rmdir()


def _encode_share(
    config: CacheBuild, workdir: Path, share: Share, source: LabelledSource, space: SampleSpace, began: float
) -> bool:
    """Encodes the shards of this process, and finishes the cache if they were the last; see `build_cache`."""
    if delivery(source).are_moments:
        source = Views(source, config.cache.flip)
    shards = shards_of(workdir, len(source), config.cache.shard_size)
    mine = share.of(shards)
    remove_torn(*(path for shard in mine for path in (shard.path, shard.record)))
    if share.index == 0:
        remove_torn(workdir / LABELS_FILE, workdir / MANIFEST_FILE)
    missing = [shard for shard in mine if shard.finished() is None or is_mended(source, shard)]
    images = sum(len(shard.indices) for shard in missing)
    of = counted(len(shards), "shard")
    logger.info("cache: %d of %s to make, %s, in %s", len(missing), of, counted(images, "image"), workdir)
    with interrupts() as interrupted:
        whole = not missing or _maker(config.cache, source, space, shards).make(missing, interrupted)
    if not whole and interrupted.by_hand():
        raise KeyboardInterrupt("the same command goes on from there")
    if not whole:
        raise CacheError("cache: stopped, the same command goes on from there")
    return finish_cache(workdir, shards, config.cache.max_bad, images, time.monotonic() - began)


def _maker(cache: CacheConfig, source: LabelledSource, space: SampleSpace, shards: Sequence[Shard]) -> ShardMaker:
    encode = _as_kept if isinstance(source, Views) else batch_encoder(cache, space)
    return ShardMaker(source, encode, space.shape, cache, shards)


def _as_kept(moments: Image) -> Any:
    """Moments that were encoded before, as a cache keeps them."""
    return moments.astype(np.float16)


def _named_vae(config: CacheBuild, source: LabelledSource) -> CacheBuild:
    """The settings of a cache of latents that were encoded before, with their VAE, and mirror images if there are some.

    Raises:
        ConfigError: it is a cache already.
    """
    delivers = delivery(source)
    if not delivers.are_moments:
        return config
    if isinstance(source, LatentSource):
        raise ConfigError(
            f"data.path={config.data.path!r}: is a cache already: name the images, or latents of other code"
        )
    if config.cache.flip and not delivers.mirrored:
        logger.info("cache: without mirror images, of which %s has none", delivers.path)
    data = dataclasses.replace(config.data, vae=config.data.vae or delivers.vae)
    cache = dataclasses.replace(config.cache, flip=config.cache.flip and delivers.mirrored)
    return dataclasses.replace(config, data=data, cache=cache)


def batch_encoder(cache: CacheConfig, space: SampleSpace) -> Encode:
    """A function that computes the moments of `cache.batch_size` images, spread over the devices of this process.

    It returns before they are computed, so that the next images can be read meanwhile.
    """
    devices = math.gcd(cache.batch_size, jax.local_device_count())
    if devices < jax.local_device_count():
        logger.warning(
            "cache: cache.batch_size=%d is spread over %d of the %s, a multiple of their number would be over "
            "all", cache.batch_size, devices, counted(jax.local_device_count(), "device"),
        )  # fmt: skip
    mesh = Mesh(np.array(jax.local_devices()[:devices]), "batch")
    rows, params = NamedSharding(mesh, P("batch")), jax.device_put(space.params, NamedSharding(mesh, P()))

    def moments(params: Params, images: jax.Array) -> jax.Array:
        views = [images, images[:, :, ::-1]] if cache.flip else [images]
        found = space.moments(params, jnp.concatenate(views))
        return jnp.stack(jnp.split(found, len(views)), axis=1).astype(jnp.float16)

    # Each device does its rows by itself: the VAE goes through them in slices, which cannot be spread as they are.
    spread = jax.jit(
        jax.shard_map(moments, mesh=mesh, in_specs=(P(), P("batch")), out_specs=P("batch"), check_vma=False)
    )

    def encode(images: Image) -> jax.Array:
        return spread(params, jax.device_put(images, rows))

    return encode


def cache_facts(config: CacheBuild, source: LabelledSource, space: SampleSpace) -> dict[str, Any]:
    """What a cache depends on, JSON-able. The checksum covers labels and some images, see `data_facts`."""
    assert space.vae is not None
    digest = hashlib.sha256(source.labels.tobytes())
    for index in np.linspace(0, len(source) - 1, fingerprint.PROBED_IMAGES).astype(np.int64):
        image = read_or_error(source, int(index))
        digest.update(b"" if isinstance(image, InputError) else image.tobytes())
    return {
        "data": source.name,
        "samples": len(source),
        "shape": list(source.shape),
        "classes": list(source.class_names),
        "checksum": digest.hexdigest(),
        "crop": "ADM centre" if config.data.image_size and source.name not in ("synthetic", "latents") else None,
        "vae": config.data.vae,
        "vae_checksum": space.vae.checksum,
        "vae_scale": scale_of(space.vae.arguments),
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
    path = workdir / CACHE_FACTS_FILE
    if path.is_file():
        there = read_json(path, MAKE_CACHE_AGAIN)
        # Where the VAE lies may change, its weights may not. What earlier versions did not write is not compared.
        listed = changes(there, facts, ignored=("vae", *({"vae_scale"} - there.keys())))
        remedy = "put back what it was made from or choose another folder"
        require_argument(not listed, "workdir", workdir, f"holds a cache of something else ({listed}); {remedy}")
    if not (workdir / CONFIG_FILE).is_file() or read_config(workdir, CacheBuild) != config:
        write_config(workdir, config)  # a later call may allow more bad images
    if not path.is_file():
        write_json(path, facts)
