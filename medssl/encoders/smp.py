"""Image encoders of segmentation-models-pytorch: ResNet, EfficientNet, Mix Transformer and others.

Weights are random unless ``weights`` names some. Hidden blocks are 0 in the input.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from segmentation_models_pytorch.encoders import encoders as known
from segmentation_models_pytorch.encoders import get_encoder, get_preprocessing_params
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.errors import MedsslError
from medssl.core.registry import unknown_name
from medssl.encoders._base import Encoder
from medssl.encoders._decoders2d import Maps
from medssl.encoders._pyramid import PyramidEncoder
from medssl.encoders._weights import load_adapted, set_scale

EXAMPLES = ("resnet34", "efficientnet-b0", "mit_b0")


class Config(BaseConfig):
    """Options of smp's encoders."""

    weights: str | None = None
    """``None`` = random; else a name that smp knows, e.g. ``imagenet``: downloaded."""
    mean: tuple[float, ...] | None = None
    """Subtracted from the input, per channel or one for all; default: what ``weights`` were trained
    with, for levels in [0, 1]. Give 0 (and ``std`` 1) for MR, whose levels are z-scores already."""
    std: tuple[float, ...] | None = None
    """Divides the input, as ``mean``."""
    token_size: int = Field(default=16, ge=2)
    """Pixels per mask block."""


class SmpMaps(nn.Module):
    """smp's encoder without the picture itself and empty maps."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        return [m for m in self.net(x_BCHW)[1:] if m.shape[1]]


def build(variant: str, config: Config, in_channels: int) -> Encoder:
    """The encoder of ``smp/<variant>``.

    Raises:
        ConfigError: no such encoder or weights.
        MedsslError: the download fails.
    """
    if variant not in known:
        raise unknown_name("smp encoder", variant, list(known))
    net = get_encoder(variant, in_channels=in_channels, weights=None)
    for unused in ("_conv_head", "_bn1"):  # EfficientNet's layers for classification
        if hasattr(net, unused):
            setattr(net, unused, nn.Identity())
    levels = [(c, 2**level) for level, c in enumerate(net.out_channels) if level and c]
    maps = Maps(tuple(c for c, _ in levels), tuple(stride for _, stride in levels))
    encoder = PyramidEncoder(SmpMaps(net), maps, in_channels, (config.token_size,) * 2)
    if config.weights:
        load_adapted(net, _pretrained(variant, config.weights), encoder.scale)
    if config.mean or config.std:
        set_scale(encoder.scale, config.mean or (0.0,), config.std or (1.0,))
    return encoder


def _pretrained(variant: str, weights: str) -> nn.Module:
    names = list(known[variant]["pretrained_settings"])
    if weights not in names:
        raise unknown_name("weights of this encoder", weights, names)
    try:
        net: Any = get_encoder(variant, weights=weights)
        net.pretrained_cfg = get_preprocessing_params(variant, weights)
    except (OSError, RuntimeError) as error:
        what = f"weights of {variant} are not to be had: {type(error).__name__}"
        raise MedsslError(what, fix="run where there is a network, or leave weights out") from error
    return net  # type: ignore[no-any-return]
