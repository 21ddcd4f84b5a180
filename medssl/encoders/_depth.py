"""Learning rates that fall towards the input: early layers of a pretrained encoder change least."""

from __future__ import annotations

from medssl.core.errors import ConfigError
from medssl.core.task import ParamGroup
from medssl.encoders._base import Encoder

_ENCODER = "encoder."


def by_depth(groups: list[ParamGroup], encoder: Encoder, decay: float) -> list[ParamGroup]:
    """The groups split by layer: a weight of layer k of L has its rate times decay^(L - k).

    Layers count from 0, the input's. What comes after the last one, and all that is no encoder's,
    keeps its rate. Source: Clark et al. 2020; Bao et al. 2022 (BEiT).

    Raises:
        ConfigError: the encoder does not say how its weights follow each other.
    """
    if decay == 1:
        return groups
    if not encoder.layers:
        what = "this encoder does not say how deep its weights lie"
        raise ConfigError(what, fix="layer_decay=1, or another encoder")
    split: list[ParamGroup] = []
    for group in groups:
        layers: dict[int, ParamGroup] = {}
        for name, param in group.params.items():
            depth = len(encoder.layers)
            if name.startswith(_ENCODER):
                depth = encoder.depth_of(name.removeprefix(_ENCODER))
            scale = group.lr_scale * decay ** (len(encoder.layers) - depth)
            layers.setdefault(depth, ParamGroup({}, scale)).params[name] = param
        split += [layers[depth] for depth in sorted(layers)]
    return split
