"""`drifting cache` and `reference`: what is made of data sets once and for all."""

import dataclasses
from pathlib import Path
from typing import Any

from absl import flags

from drifting.cli.command import Command
from drifting.cli.messages import fail
from drifting.cli.shared import (
    SCORE_ENCODER_HELP,
    SHARE_FLAGS,
    checked_settings,
    define_share,
    out_of,
    place_of,
    share_of,
    workdir_of,
)
from drifting.config.schema import CacheBuild, Config
from drifting.data.source import SPLITS
from drifting.errors import ConfigError, InputError, as_argument, counted, require_argument, use_one_of
from drifting.runs.files import exists
from drifting.runs.shared_work import Share


def _define_cache(values: flags.FlagValues) -> None:
    folder = "the cache's folder; goes on where it was stopped; exit code 0: this process is done"
    flags.DEFINE_string("workdir", None, folder, flag_values=values)
    define_share(values, "make one cache")
    other = "latents of other code in place of --config's images; they become the cache"
    flags.DEFINE_string("from", None, other, flag_values=values)
    verify = "without --config: compare a finished cache with its checksums"
    flags.DEFINE_boolean("verify", False, verify, flag_values=values)


def _cache(values: flags.FlagValues) -> int:
    workdir = workdir_of(values)
    if values.verify:
        return _verify(workdir)
    taken = values["from"].value
    if taken:
        if not exists(place_of(values, "from")):
            remedy = "give one of latents that other code has written"
            raise ConfigError(f"--from={taken}: there is no such folder; {remedy}")
        config: CacheBuild = values.config
        data = dataclasses.replace(config.data, name="latents", path=taken)
        values["config"].value = dataclasses.replace(config, data=data)
    share = Share(*share_of(values))
    try:
        config = checked_settings(values)
        from drifting.training.latents import build_cache

        build_cache(config, workdir, share)
    except (ConfigError, InputError) as error:
        text = str(error)
        if taken and text.startswith(path := f"data.path={taken!r}: "):
            raise ConfigError(f"--from={taken}: {text.removeprefix(path)}") from error
        raise
    return 0


def _verify(workdir: Path) -> int:
    from drifting.data.latents.read import CACHE_FACTS_FILE, MANIFEST_FILE, check_cache, read_manifest

    problems = check_cache(workdir, verify=True)
    if problems and not any((workdir / name).exists() for name in (MANIFEST_FILE, CACHE_FACTS_FILE)):
        with as_argument("workdir", workdir):
            raise InputError(problems[0])
    for problem in problems:
        fail(problem)
    if problems:
        return 1
    manifest = read_manifest(workdir)
    images, shards = counted(manifest["images"], "image"), counted(len(manifest["shards"]), "shard")
    counts = f"{images} in {shards}, {len(manifest['bad'])} left out"
    print(f"{workdir}: {counts}, all as the checksums say; latents of {manifest['facts']['vae']}")
    return 0


def _define_reference(values: flags.FlagValues) -> None:
    flags.DEFINE_string("out", None, ".npz to write", flag_values=values)
    files = "images of a folder or .npz, in place of --config, whose data are read"
    flags.DEFINE_string("images", None, files, flag_values=values)
    flags.DEFINE_string("split", "train", "of the data: train (default) or heldout", flag_values=values)
    flags.DEFINE_string(
        "encoder", "inception", f"features: {SCORE_ENCODER_HELP}; default inception", flag_values=values
    )
    keep = "images whose features are kept for precision and recall; default 10000"
    flags.DEFINE_integer("keep", 10_000, keep, lower_bound=0, flag_values=values)
    define_share(values, "make one reference")


def _reference(values: flags.FlagValues) -> int:
    out = out_of(values, "file")
    require_argument(values.split in SPLITS, "split", values.split, use_one_of(values.split, SPLITS))
    share = Share(*share_of(values))
    from drifting.data.fingerprint import data_facts
    from drifting.data.sources import source as open_source
    from drifting.scoring.image_features import score_encoder
    from drifting.scoring.image_sets import SourceImages, open_images
    from drifting.scoring.reference import make_reference

    images: Any
    if values.images:
        with as_argument("images", values.images):
            images = open_images(Path(values.images))
    else:
        config: Config = values.config
        source = open_source(config.data, values.split)
        images = SourceImages(source, {"images": f"{config.data.name}, {values.split}", **data_facts(source)})
    encoder = score_encoder(values.encoder, images.shape)
    if make_reference(images, encoder, out, keep=values.keep, share=share):
        print(out)
    return 0


COMMANDS = {
    "cache": Command(
        "encode images once and for all into latents to train on",
        _define_cache,
        _cache,
        CacheBuild,
        without_config="verify",
        defaults_with="from",
        flag_of=SHARE_FLAGS,
    ),
    "reference": Command(
        "gather statistics of real images to score against",
        _define_reference,
        _reference,
        Config,
        usage="--config=FILE|--images=PATH --out=NPZ",
        without_config="images",
        settings_of="train",
        flag_of=SHARE_FLAGS,
        out="file",
    ),
}
