"""Keys and modules of earlier versions: files of settings, command lines and runs that name them go on working."""

from collections.abc import Mapping
from typing import Any

from drifting.errors import ConfigError

RENAMED_FEATURES: dict[str, tuple[str, str, Any]] = {
    "mae": ("mae", "weights", None),
    "mae_size": ("mae", "size", None),
    "mae_dtype": ("mae", "dtype", "float32"),
    "locations": ("mae", "locations", True),
    "mean": ("mae", "mean", True),
    "std": ("mae", "std", True),
    "mean_patches": ("mae", "mean_patches", (2, 4)),
    "std_patches": ("mae", "std_patches", (2, 4)),
    "every_k_block": ("mae", "every_k_block", 2),
    "convnext": ("convnext", "weights", "hf://facebook/convnextv2-base-22k-224"),
    "convnext_size": ("convnext", "size", 224),
    "convnext_dtype": ("convnext", "dtype", "float32"),
}
"""Former keys of the section `features`: the encoder and the option that each is now, and its default."""

FORMER_MODULES = {
    "drifting.sweep": "drifting.experiments.grid",
    "drifting.analysis.settings": "drifting.studies.settings",
}
"""Former modules that files of settings import from, and what they are now."""


def renamed(path: str) -> str:
    """The key that a former key such as `features.mae_size` is now; any other key as it is."""
    section, _, key = path.partition(".")
    if section == "features" and key in RENAMED_FEATURES:
        encoder, option, _ = RENAMED_FEATURES[key]
        return f"features.options.{encoder}.{option}"
    return path


def renewed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, nested keys and values, with former keys under their names of today; defaults are left out.

    Raises:
        ConfigError: a former key and the key that it is now say different things.
    """
    found = dict(settings) if isinstance(settings, Mapping) else settings
    if not isinstance(found, dict) or not isinstance(found.get("features"), Mapping):
        return found  # it is not right either, and whoever reads it says so
    features = dict(found["features"])
    if not isinstance(features.get("options", {}), Mapping):
        return found
    options = {name: dict(given) if isinstance(given, Mapping) else given
               for name, given in features.get("options", {}).items()}  # fmt: skip
    for key in [key for key in features if key in RENAMED_FEATURES]:
        encoder, option, default = RENAMED_FEATURES[key]
        value = features.pop(key)
        if value == default or (isinstance(value, list) and tuple(value) == default):
            continue
        given = options.setdefault(encoder, {})
        if given.get(option, value) != value:
            now = renamed(f"features.{key}")
            raise ConfigError(
                f"features.{key}={value!r}: {now}={given[option]!r} is the same setting, give one of them"
            )
        given[option] = value
    if options:
        features["options"] = options
    found["features"] = features
    return found
