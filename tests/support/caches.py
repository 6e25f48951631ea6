"""Latent caches for the tests: a made-up image folder, one cache of it, and what lies in a cache."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from flax import nnx
from safetensors.numpy import save_file

from drifting.config.parse import parse
from drifting.config.schema import CacheBuild
from drifting.data.latents.read import record_type
from drifting.networks.vae import PRESETS, AutoencoderKL
from drifting.training.latents import build_cache
from drifting.weights.diffusers_vae import diffusers_name
from tests.support.image_folder import make_image_folder
from tests.support.torch_tensors import to_torch

IMAGES, BAD = 600, 5

LATENT = (8, 8, 4)

RECORD = record_type(LATENT, flip=True)


def image_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder of `IMAGES` images, `BAD` of them damaged, made once for all test files. Read-only."""
    folder = factory.getbasetemp() / "image_folder"
    if not folder.exists():
        assert len(make_image_folder(folder, IMAGES)) == BAD
    return folder


def cache_settings(folder: Path, data: dict[str, Any] | None = None, **cache: Any) -> CacheBuild:
    """Settings of a cache of `folder`, with changed keys."""
    settings: dict[str, Any] = {
        "data": {"name": "imagefolder", "path": str(folder), "image_size": 16, "vae": "random://smoke"} | (data or {}),
        "cache": {"shard_size": 128, "batch_size": 32, "max_bad": 0.01, "workers": 2} | cache,
    }
    config = parse(settings, CacheBuild)
    assert isinstance(config, CacheBuild)
    return config


def finished_cache(factory: pytest.TempPathFactory) -> Path:
    """A cache of `image_folder`, made by one process and once for all test files. Read-only."""
    workdir = factory.getbasetemp() / "finished_cache"
    if not workdir.exists():
        assert build_cache(cache_settings(image_folder(factory)), workdir)
    return workdir


def small_vae(folder: Path, seed: int) -> Path:
    """Writes a VAE like `random://smoke` with weights of its own, in diffusers' layout; returns the folder."""
    vae = AutoencoderKL(**PRESETS["smoke"] | dict(dtype="float32", remat=False), rngs=nnx.Rngs(seed))
    folder.mkdir(parents=True)
    tensors = to_torch(nnx.to_pure_dict(nnx.state(vae)), diffusers_name)
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    blocks = dict(down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2)
    sizes = dict(in_channels=3, out_channels=3, latent_channels=4, layers_per_block=1, norm_num_groups=4)
    config = dict(_class_name="AutoencoderKL", block_out_channels=[8] * 2, act_fn="silu") | blocks | sizes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def records(cache: Path) -> np.ndarray:
    """Every record of a cache's shards, in order."""
    found = [
        record for path in sorted(cache.glob("*.array_record")) for record in ArrayRecordReader(str(path)).read_all()
    ]
    return np.frombuffer(b"".join(found), RECORD)
