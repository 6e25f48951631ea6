"""NumPy-only readers of the golden reference files (their definitions: `README.md` beside them)."""

import json
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


def load(path: Path) -> Arrays:
    """All arrays of one `.npz`, which holds no pickled object."""
    with np.load(path, allow_pickle=False) as z:
        return {k: z[k] for k in z.files}


def group(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose key starts with `prefix/`, that prefix removed."""
    return {k[len(prefix) + 1 :]: v for k, v in arrays.items() if k.startswith(prefix + "/")}


def meta(arrays: Arrays, key: str = "meta") -> dict[str, Any]:
    """The JSON description stored as a 0-d string array."""
    return json.loads(str(arrays[key]))


def drift_case(golden: Path, number: int) -> tuple[Arrays, list[np.ndarray]]:
    """A case of the released drift loss; and its features and weights as `map_loss` takes them, one position each."""
    case = group(load(golden / "drift_loss.npz"), f"case{number:02d}")
    gen, pos = case["gen"], case["pos"]
    neg = case.get("neg", np.zeros((len(gen), 0, gen.shape[2]), np.float32))
    names = (("weight_gen", gen), ("weight_pos", pos), ("weight_neg", neg))
    weights = [case.get(name, np.ones(a.shape[:2], np.float32)) for name, a in names]
    return case, [*(a[:, :, None] for a in (gen, pos, neg)), *weights]


def unflatten(flat: Arrays) -> dict[str, Any]:
    """`{'a/b': x}` as `{'a': {'b': x}}`."""
    root: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, leaf = key.split("/")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return root


def _int8_params(*paths: Path) -> Arrays:
    out = {}
    for path in paths:
        z = load(path)
        out.update({k: v.astype(np.float32) * np.float32(z[k + "::scale"]) for k, v in z.items() if "::" not in k})
    return out


def mae_params_a(golden: Path) -> Arrays:
    """Flat parameters of the golden MAE `a` (latent, 4 channels)."""
    return _int8_params(golden / "mae_params_encoder.npz", golden / "mae_params_decoder.npz")


def mae_params_b(golden: Path) -> Arrays:
    """Flat parameters of the golden MAE `b` (pixels, input patch 2)."""
    return mae_params_a(golden) | _int8_params(golden / "mae_params_b_override.npz")
