"""Stands in for the library of Weights & Biases."""

import types
from typing import Any

from PIL import Image


class Wandb(types.ModuleType):
    """The part of the library that is used; remembers what was asked of it. `error`: starting a run raises it."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__("wandb")
        self.error, self.ended = error, 0
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []

    def init(self, **arguments: Any) -> types.SimpleNamespace:
        if self.error is not None:
            raise self.error
        self.started.append(arguments)
        return types.SimpleNamespace(log=lambda values, step: self.logged.append((step, values)), finish=self._finish)

    def _finish(self) -> None:
        self.ended += 1

    def Image(self, path: str) -> tuple[str, tuple[int, int]]:
        with Image.open(path) as image:
            return ("picture", image.size)
