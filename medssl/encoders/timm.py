"""Any image network of timm: plain transformers that drop hidden tokens, CNNs and Swin-like nets.

Weights are random unless ``weights`` asks for them. Plain transformers (ViT, DeiT, DINOv2,
DINOv3 ...) compute visible tokens only; the others see hidden blocks as 0.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import timm
import torch
from pydantic import Field
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.registry import unknown_name
from medssl.encoders._base import Encoder
from medssl.encoders._decoders2d import Maps
from medssl.encoders._pyramid import PyramidEncoder
from medssl.encoders._vit2d import PlainViT

EXAMPLES = (
    "resnet18",
    "resnet50",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
)


class Config(BaseConfig):
    """Options of timm's networks."""

    patch_size: int | None = Field(default=None, ge=1)
    """Pixels per token of a plain transformer; default: the one in its name. 4 suits 32 px."""
    token_size: int = Field(default=16, ge=2)
    """Pixels per mask block of the other networks."""
    output_stride: int | None = None
    """Pixels per side of the deepest map of a CNN (8 or 16; by dilation), for small pictures."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""


class TimmMaps(nn.Module):
    """timm's feature extractor with channels first."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.channels_last = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        maps = self.net(x_BCHW)
        return [m.permute(0, 3, 1, 2).contiguous() if self.channels_last else m for m in maps]


def build(variant: str, config: Config, in_channels: int) -> Encoder:
    """The encoder of ``timm/<variant>``.

    Raises:
        ConfigError: no such network in timm, or an option that it does not have.
    """
    if not timm.is_model(variant):
        raise unknown_name("timm network", variant, timm.list_models())
    with torch.device("meta"):
        kind = type(timm.create_model(variant, pretrained=False))
    options: dict[str, Any] = {"pretrained": False, "in_chans": in_channels}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    if issubclass(kind, VisionTransformer | Eva):
        return _plain(variant, config, options)
    return _pyramid(variant, config, options, kind)


def _plain(variant: str, config: Config, options: dict[str, Any]) -> Encoder:
    if config.patch_size:
        options["patch_size"] = config.patch_size
    net = timm.create_model(variant, num_classes=0, dynamic_img_size=True, **options)
    net.set_grad_checkpointing(config.gradient_checkpointing)
    return PlainViT(net, options["in_chans"])


def _pyramid(variant: str, config: Config, options: dict[str, Any], kind: type) -> Encoder:
    if config.output_stride:
        options["output_stride"] = config.output_stride
    if "strict_img_size" in signature(kind.__init__).parameters:
        options["strict_img_size"] = False  # Swin: any input size
    net = timm.create_model(variant, features_only=True, **options)
    net.set_grad_checkpointing(config.gradient_checkpointing)
    maps = Maps(tuple(net.feature_info.channels()), tuple(net.feature_info.reduction()))
    return PyramidEncoder(TimmMaps(net), maps, options["in_chans"], (config.token_size,) * 2)
