"""The names in the package's own registries, kept beside them: those that import JAX need seconds to be looked up in.

They say what is right only where nobody can have entered anything else: in a process that has not imported JAX. The
tests hold them equal to the registries.
"""

from collections.abc import Iterable

from drifting.config.schema import AnyConfig, Config
from drifting.config.sections import unknown_key
from drifting.errors import ConfigError, one_of, use_one_of

REGISTERED_NAMES: dict[str, tuple[str, ...]] = {
    "model.name": ("dit", "mlp"),
    "model.preset": ("S", "B", "L", "XL"),
    "loss.objective": (
        "log_kde", "mmd_kde", "inverse_profile_kde", "mean_shift", "drift", "drift_row", "drift_raw", "mmd", "sharp",
        "score", "coulomb",
    ),
    "loss.kernel": ("gaussian", "laplace", "rational_quadratic"),
    "loss.feature_scale": ("per_map", "per_problem", "neighbour", "none"),
    "loss.kernel_backend": ("jax", "pallas"),
    "optimizer.name": ("adamw", "muon"),
    "optimizer.decay": ("constant", "cosine", "linear", "wsd"),
    "optimizer.decayed": ("all", "matrices"),
    "features.encoders": ("mae", "convnext", "dinov2"),
}  # fmt: skip
"""What settings that name entries of a registry let choose from, by dotted key; `data.name` needs no JAX."""

ENCODER_OPTIONS: dict[str, tuple[str, ...]] = {
    "mae": (
        "weights", "dtype", "size", "locations", "mean", "std", "mean_patches", "std_patches", "every_k_block",
    ),
    "convnext": ("weights", "dtype", "size"),
    "dinov2": ("weights", "dtype", "size", "layers", "locations", "mean", "std", "mean_patches", "std_patches"),
}  # fmt: skip
"""The options of each feature encoder, `features.options.NAME.OPTION`."""

SCORE_ENCODER_NAMES = ("inception", "pixels", "mae", "dinov2")
"""The words that `eval.encoder` begins with."""


def encoder_option_keys() -> list[str]:
    """The dotted keys of all options of feature encoders."""
    return [f"features.options.{name}.{option}" for name, options in ENCODER_OPTIONS.items() for option in options]


def check_registered(config: AnyConfig) -> None:
    """Checks that all entries of registries that the settings name are the package's own.

    Raises:
        ConfigError: naming the first that is not, as the registry itself would.
    """
    for key, known in REGISTERED_NAMES.items():
        section, _, name = key.partition(".")
        value = getattr(getattr(config, section, None), name, None)
        for one in value if isinstance(value, tuple) else (value,):
            if one is not None:
                one_of(key, one, known)
    if not isinstance(config, Config):
        return
    for name, options in config.features.options.items():
        one_of("features.options", name, ENCODER_OPTIONS)
        for option, given in options.items():
            if option not in ENCODER_OPTIONS[name]:
                raise ConfigError(unknown_key(f"features.options.{name}.{option}", given, ENCODER_OPTIONS[name]))
    if config.eval.encoder is not None:
        check_registered_encoder("eval.encoder", config.eval.encoder)


def check_typed_options(config: Config, typed: Iterable[str]) -> None:
    """Checks that options of feature encoders are read that a person gave with the command, by their dotted keys.

    A file may hold options of encoders that it does not use: another call may.

    Raises:
        ConfigError: naming the first that is of an encoder which `features.encoders` has not.
    """
    used = config.features.encoders
    for key in typed:
        name, _, option = key.removeprefix("features.options.").partition(".")
        if option in ENCODER_OPTIONS.get(name, ()) and key.startswith("features.options.") and name not in used:
            value = config.features.options[name][option]
            remedy = f"set features.encoders={','.join([*used, name])}, or leave it out"
            raise ConfigError(f"{key}={value!r}: no loss reads it, features.encoders is {used}: {remedy}")


def check_registered_encoder(key: str, given: str) -> None:
    """Raises `ConfigError` unless an encoder of images, `NAME[:WEIGHTS]`, is one of the package's own."""
    name = given.partition(":")[0]
    if name not in SCORE_ENCODER_NAMES:
        raise ConfigError(f"{key}={given}: {use_one_of(name, SCORE_ENCODER_NAMES)}")
