"""Every error that a person can mend: its message is one line, which says what is wrong and what would be right."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written. The message is one line: why, what is safe, what to do."""


class ConfigError(ValueError):
    """A setting that cannot work. The message is one line: key, value, and what would be right."""


def unusable(key: str, reference: str, error: ValueError) -> str:
    """One line for a setting that refers to what cannot be used; most errors begin with the reference themselves."""
    return f"{key}={reference!r}: {str(error).removeprefix(f'{reference}: ')}"


class CacheError(RuntimeError):
    """A cache cannot be finished. The message is one line."""


class HubError(OSError):
    """The hub or the network did not do what was asked, or what came is damaged."""


class TrainingError(RuntimeError):
    """Training cannot go on. The message is one line: what happened, what is safe, what to do."""
