"""Settings: every key and its default (`schema`), read strictly (`parse`), checked together (`checks`).

What files in `configs/` need is handed on here. To add a setting: a field with its default in `schema`, and a rule in
`checks` if not every value can work.
"""

from drifting.config.parse import parse, to_config_dict
from drifting.config.schema import CacheBuild, Config, PretrainConfig, to_dict
from drifting.config.variants import cache_config, pretrain_config, read_variant, tiny, train_config
from drifting.errors import ConfigError

__all__ = [
    "CacheBuild",
    "Config",
    "ConfigError",
    "PretrainConfig",
    "cache_config",
    "parse",
    "pretrain_config",
    "read_variant",
    "tiny",
    "to_config_dict",
    "to_dict",
    "train_config",
]
