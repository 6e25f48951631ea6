"""Feature encoders. A new one is a file here and an entry in `ENCODERS`; its settings are `features.options[NAME]`."""

from drifting.method.encoders.convnext import CONVNEXT_ENCODER
from drifting.method.encoders.dinov2 import DINOV2_ENCODER
from drifting.method.encoders.encoder import Encoder, EncoderKind, FeatureEncoder, FeatureFn
from drifting.method.encoders.mae import MAE_ENCODER

ENCODERS: dict[str, EncoderKind] = {
    "mae": MAE_ENCODER,
    "convnext": CONVNEXT_ENCODER,
    "dinov2": DINOV2_ENCODER,
}

__all__ = ["ENCODERS", "Encoder", "EncoderKind", "FeatureEncoder", "FeatureFn"]
