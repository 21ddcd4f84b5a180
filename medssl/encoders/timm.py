"""Any image network of timm: plain transformers that drop hidden tokens, CNNs and Swin-like nets.

Weights are random unless ``weights`` asks for them. Plain transformers (ViT, DeiT, DINOv2,
DINOv3 ...) compute visible tokens only; the others see hidden blocks as 0. Classifier layers are
left out.
"""

from __future__ import annotations

from typing import Any, Literal

import timm
from pydantic import Field
from timm.models import FeatureListNet
from torch import Tensor, nn

from medssl.core.config import Config as BaseConfig
from medssl.core.errors import ConfigError
from medssl.core.registry import unknown_name
from medssl.encoders._base import Encoder
from medssl.encoders._decoders2d import Maps
from medssl.encoders._pyramid import PyramidEncoder
from medssl.encoders._recompute import count_batches_once, recomputed
from medssl.encoders._vit2d import PlainViT
from medssl.encoders._weights import load_adapted, set_scale, timm_pretrained

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

# timm's files of transformers on one grid of tokens, which can leave tokens out.
_PLAIN = {"vision_transformer", "eva", "deit"}
# Those that take any size although built for one.
_SWIN = "swin_transformer"
_PLAIN_ONLY = {"patch_size", "adapter"}
_MAPS_ONLY = {"image_size", "token_size", "output_stride"}
# Options that every network gets.
_OURS = {"features_only", "in_chans", "num_classes", "dynamic_img_size", "strict_img_size"}


class Config(BaseConfig):
    """Options of timm's networks."""

    weights: str | None = None
    """``None`` = random; ``timm`` = download those that timm gives for the name (a tag may be part
    of it: ``resnet50.a1_in1k``); else a .safetensors or .pth file of the network."""
    mean: tuple[float, ...] | None = None
    """Subtracted from the input, per channel or one for all; default: what ``weights`` were trained
    with, for levels in [0, 1]. Give 0 (and ``std`` 1) for MR, whose levels are z-scores already."""
    std: tuple[float, ...] | None = None
    """Divides the input, as ``mean``."""
    patch_size: int | None = Field(default=None, ge=1)
    """Pixels per token of a plain transformer; default: the one in its name. 4 suits 32 px."""
    image_size: int | None = Field(default=None, ge=1)
    """Pixels per side for networks that are built for one size (BEiT, MaxViT ...)."""
    token_size: int = Field(default=16, ge=2)
    """Pixels per mask block of networks that are no plain transformers."""
    output_stride: Literal[8, 16] | None = None
    """Pixels per side of one pixel of a CNN's deepest map (by dilation), for small pictures."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth."""
    adapter: int = Field(default=0, ge=0)
    """Width of a bottleneck behind every block of a plain transformer; the rest of the encoder then
    stays as it is, so start from a run or from public weights. 0 = none, and all weights learn."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""


class TimmMaps(nn.Module):
    """timm's feature extractor, with channels first."""

    def __init__(self, net: Any, *, recompute: bool) -> None:
        super().__init__()
        self.net = net
        self.channels_last = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")
        self.recompute = recompute and isinstance(net, FeatureListNet)
        if recompute and not self.recompute:
            getattr(net, "model", net).set_grad_checkpointing(True)
        if recompute:
            count_batches_once(net)

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        maps = self._recomputed(x_BCHW) if self.recompute else self.net(x_BCHW)
        return [m.permute(0, 3, 1, 2).contiguous() if self.channels_last else m for m in maps]

    def _recomputed(self, x: Any) -> list[Tensor]:
        """As timm's own, but whole stages at a time: their first layers work in place."""
        maps, stage = [], []
        for name, module in self.net.items():
            stage.append(module)
            if name in self.net.return_layers:
                x = recomputed(nn.Sequential(*stage), x)
                maps.append(x[0] if isinstance(x, tuple | list) else x)
                stage = []
        return maps


def build(variant: str, config: Config, in_channels: int) -> Encoder:
    """The encoder of ``timm/<variant>``.

    Raises:
        ConfigError: no such network in timm, or an option that it does not have.
        UsageError: ``weights`` do not fit.
    """
    if not timm.is_model(variant):
        raise unknown_name("timm network", variant, timm.list_models())
    family = timm.model_entrypoint(variant).__module__.rpartition(".")[2]
    plain = family in _PLAIN
    _refuse_options(variant, config, _MAPS_ONLY if plain else _PLAIN_ONLY)
    options = _plain_options(config) if plain else _pyramid_options(config, family)
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    net = _create(variant, {**options, "in_chans": in_channels})
    if plain:
        encoder: PlainViT | PyramidEncoder = PlainViT(
            net, in_channels, recompute=config.gradient_checkpointing, adapter=config.adapter
        )
    else:
        encoder = _pyramid(net, config, in_channels)
    if config.weights:
        public = timm_pretrained(variant, config.weights, options)
        load_adapted(net, public, encoder.scale)
    if config.mean or config.std:
        set_scale(encoder.scale, config.mean or (0.0,), config.std or (1.0,))
    return encoder


def _refuse_options(variant: str, config: Config, unknown: set[str]) -> None:
    wrong = sorted(unknown & config.model_fields_set)
    if wrong:
        raise ConfigError(f"timm/{variant} has no {', '.join(wrong)}", fix="leave it out")


def _plain_options(config: Config) -> dict[str, Any]:
    patch = {"patch_size": config.patch_size} if config.patch_size else {}
    return {"num_classes": 0, "dynamic_img_size": True, **patch}


def _pyramid_options(config: Config, family: str) -> dict[str, Any]:
    options: dict[str, Any] = {"features_only": True}
    if config.output_stride:
        options["output_stride"] = config.output_stride
    if config.image_size:
        options["img_size"] = config.image_size
    if family.startswith(_SWIN):
        options["strict_img_size"] = False
    return options


def _create(variant: str, options: dict[str, Any]) -> nn.Module:
    """The network with random weights.

    Raises:
        ConfigError: an option that it does not have.
    """
    try:
        net: nn.Module = timm.create_model(variant, pretrained=False, **options)
    except (TypeError, NotImplementedError, AssertionError, RuntimeError) as error:
        asked = {k: v for k, v in options.items() if k not in _OURS}
        what = f"timm's {variant} gives no maps" + (f" with {asked}" if asked else "")
        raise ConfigError(what, fix="leave options out, or take another network") from error
    return net


def _pyramid(net: Any, config: Config, in_channels: int) -> PyramidEncoder:
    body = TimmMaps(net, recompute=config.gradient_checkpointing)
    maps = Maps(tuple(net.feature_info.channels()), tuple(net.feature_info.reduction()))
    cfg = net.pretrained_cfg
    side = config.image_size or 0
    only_size: tuple[int, ...] = ()
    if cfg["fixed_input_size"] and not str(cfg["architecture"]).startswith("swin"):
        only_size = (side, side) if side else tuple(cfg["input_size"][1:])
    encoder = PyramidEncoder(body, maps, in_channels, (config.token_size,) * 2, only_size)
    encoder.smaller = ", or encoder.output_stride=8"
    if isinstance(net, FeatureListNet):
        encoder.layers = _stages(net)
    return encoder


def _stages(net: FeatureListNet) -> tuple[tuple[str, ...], ...]:
    """Names of each stage's weights: all up to the layer whose map is returned."""
    stages: list[list[str]] = [[]]
    for name, _ in net.named_children():
        stages[-1].append(f"body.net.{name}.")
        if name in net.return_layers:
            stages.append([])
    return tuple(tuple(stage) for stage in stages[:-1])
