"""What settings name, found in the registries before data are read or anything is compiled."""

from drifting.assembly.networks import check_model
from drifting.assembly.recipe import objective_of, optimizer_of
from drifting.assembly.spaces import encoder_options
from drifting.config.checks import check
from drifting.config.schema import AnyConfig, CacheBuild, Config
from drifting.data.sources import SOURCES
from drifting.errors import one_of, require
from drifting.method.encoders import ENCODERS
from drifting.method.fields import FIELDS
from drifting.method.kernels import KERNELS
from drifting.method.objective import FEATURE_SCALES, KERNEL_BACKENDS
from drifting.method.optimizer import DECAYED, OPTIMIZERS, SCHEDULES
from drifting.method.potentials import LOSSES
from drifting.networks import NETWORKS
from drifting.networks.dit import PRESETS


def check_settings(config: AnyConfig, *, own_network: bool = False, own_encoder: bool = False) -> None:
    """Checks that the settings work together, and that everything they name exists.

    Args:
        config: the settings.
        own_network, own_encoder: whether the generator or the feature space is not the settings' own.

    Raises:
        ConfigError: naming the first that does not.
    """
    check(config)
    one_of("data.name", config.data.name, SOURCES)
    if not isinstance(config, CacheBuild):
        optimizer_of(config.optimizer, config.train.steps)
    if not isinstance(config, Config):
        return
    objective_of(config.loss)
    if not own_network:
        check_model(config.model)
    for name in config.features.options:
        one_of("features.options", name, ENCODERS)
        encoder_options(config.features, name)
    for name in () if own_encoder else config.features.encoders:
        weights = encoder_options(config.features, name).weights
        remedy = "give a folder (that `drifting pretrain` wrote, for a mae) or hf://OWNER/REPO, or leave it out of "
        remedy += "features.encoders; () compares the samples themselves"
        require(weights is not None, f"features.options.{name}.weights", None, remedy)


def known_names() -> dict[str, tuple[str, ...]]:
    """What settings that name entries of a registry let choose from, by dotted key."""
    networks = [name for name, network in NETWORKS.items() if hasattr(network, "arguments")]
    found = {
        "data.name": SOURCES,
        "model.name": networks,
        "model.preset": PRESETS,
        "loss.objective": [*LOSSES, *FIELDS],
        "loss.kernel": KERNELS,
        "optimizer.name": OPTIMIZERS,
        "optimizer.decay": SCHEDULES,
        "optimizer.decayed": DECAYED,
        "loss.feature_scale": FEATURE_SCALES,
        "loss.kernel_backend": KERNEL_BACKENDS,
        "features.encoders": ENCODERS,
    }
    return {key: tuple(names) for key, names in found.items()}
