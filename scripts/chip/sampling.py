"""How fast images are drawn: many at a time, and one alone; with and without the decoder of latents."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from drifting.assembly import networks
from drifting.assembly.spaces import sample_space
from drifting.experiments.plan.workload import image_facts
from drifting.method.images import generate_images
from drifting.method.space import SampleSpace
from drifting.networks.network import Generator, Params
from drifting.sampling.sampler import SAMPLER_BLOCK, Sampler
from scripts.chip.rows import Row, guarded
from scripts.chip.steps import RECIPES, share
from scripts.measuring import moved, timed

RECIPE = "latent_b"
"""Whose generator draws."""

BATCH, SINGLE_IMAGES = 64, 50
"""Images at a time, and images drawn one by one, whose 95th percentile means something."""


def rows(tiny: bool, seconds: float) -> Iterator[Row]:
    """Rows of one device; each call is waited for."""
    config, _ = share(RECIPE, tiny)
    facts = image_facts(config.data)
    decoded = sample_space(config.data.vae, facts.shape)
    latents = SampleSpace(decoded.shape, decoded.shape, None)
    # As sampling makes it: with the attention that all platforms have.
    generator, init = networks.generator(config.model, decoded.shape, facts.classes, config.train.seed)
    params = jax.jit(lambda: moved(init(), jax.random.key(0)))()
    batch, singles = (4, 10) if tiny else (BATCH, SINGLE_IMAGES)
    alpha = config.eval.alpha
    for name, space in (("latents", latents), ("images, decoded by the VAE", decoded)):
        draw = _drawing(generator, space, params, facts.classes, alpha)
        yield guarded(f"{name}, {batch} at a time", partial(_throughput, draw, batch))
        yield guarded(f"{name}, one alone", partial(_latency, draw, singles))
    as_sampled = Sampler(generator, decoded, batch)
    count = SAMPLER_BLOCK if tiny else 4 * BATCH
    labels, seeds = np.arange(count) % facts.classes, np.arange(count)
    name = f"images, decoded by the VAE, {count} as `drifting sample` draws them"

    def sampled() -> Row:
        times = timed(lambda: as_sampled(params, labels, seeds, alpha), 1 if tiny else 3, 1 if tiny else 3)
        return _rate(times, count)

    yield guarded(name, sampled)


def _drawing(
    generator: Generator, space: SampleSpace, params: Params, classes: int, alpha: float
) -> Callable[[int], Callable[[], Any]]:
    """`count -> a call that draws so many images`, which stay on the device."""
    jitted = jax.jit(partial(generate_images, generator, space))

    def of(count: int) -> Callable[[], Any]:
        numbers = jnp.arange(count)
        labels, scales = (numbers % classes).astype(jnp.int32), jnp.full(count, alpha, jnp.float32)
        return partial(jitted, params, space.params, numbers.astype(jnp.uint32), labels, scales)

    return of


def _throughput(draw: Callable[[int], Callable[[], Any]], batch: int) -> Row:
    return _rate(timed(draw(batch)), batch)


def _rate(seconds: list[float], count: int) -> Row:
    median = float(np.median(seconds))
    return {"images": count, "calls": len(seconds), "images_per_second": count / median, "recipe": RECIPES[RECIPE][0]}


def _latency(draw: Callable[[int], Callable[[], Any]], calls: int) -> Row:
    """Until the image is in the host's memory."""
    one = draw(1)
    seconds = timed(lambda: np.asarray(one()), calls, calls)
    median, p95 = (float(1e3 * np.percentile(seconds, percent)) for percent in (50, 95))
    return {"images": 1, "calls": calls, "median_ms": median, "p95_ms": p95, "recipe": RECIPES[RECIPE][0]}
