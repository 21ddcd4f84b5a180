"""Public weights for image encoders: only on request, by name or from a file, never unpickled."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medssl.core.errors import MedsslError, UsageError
from medssl.encoders._input import InputScale, adapt_kernel

Weights = dict[str, Tensor]
_GREY = 1
_RGB = 3


def timm_pretrained(variant: str, weights: str, options: dict[str, Any]) -> nn.Module:
    """The network of timm for RGB, with public weights.

    Args:
        variant: timm's name.
        weights: ``timm`` = the weights that timm names, downloaded; else a file.
        options: those of ``timm.create_model`` that decide the architecture.

    Raises:
        UsageError: the file is none, or does not fit the network.
        MedsslError: the download fails.
    """
    options = {**options, "pretrained": True, "in_chans": _RGB}
    if weights != "timm":
        state = _fitting(variant, read_weights(Path(weights)), options)
        options["pretrained_cfg_overlay"] = {"state_dict": state}
    try:
        net: nn.Module = timm.create_model(variant, **options)
    except (OSError, RuntimeError) as error:
        what = f"weights of {variant} are not to be had: {type(error).__name__}"
        fix = "fetch the file on a machine with network, and give its path as encoder.weights"
        raise MedsslError(what, fix=fix) from error
    return net


def read_weights(path: Path) -> Weights:
    """Tensors of a .safetensors or PyTorch file; pickled code is never run.

    Raises:
        UsageError: no such file, or not one of tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        fix = "give a file, or 'timm' to download by name"
        raise UsageError("no such file of weights", where=str(path), fix=fix) from None
    except (OSError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        what = f"the weights cannot be read: {type(error).__name__}"
        raise UsageError(what, where=str(path), fix="give a .safetensors file") from None
    for key in ("state_dict", "model"):
        content = content.get(key, content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UsageError("the file holds no table of tensors", where=str(path))
    return content


def load_adapted(net: nn.Module, public: nn.Module, scale: InputScale) -> None:
    """Take over the weights of the same network for RGB; its first kernel is adapted.

    ``scale`` gets the mean and standard deviation that the public weights were trained with;
    other numbers of channels than 3 get those of the three channels' average, so that a grey
    picture gives what its RGB copy, scaled with that average, gives.
    """
    given = public.state_dict()
    fitted = {
        key: adapt_kernel(given[key], own.shape[1]) if given[key].shape != own.shape else given[key]
        for key, own in net.state_dict().items()
    }
    net.load_state_dict(fitted, strict=True)
    cfg: Any = public.pretrained_cfg
    set_scale(scale, tuple(cfg["mean"]), tuple(cfg["std"]))


def set_scale(scale: InputScale, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Mean and standard deviation per channel; averaged where their number is another one."""
    for buffer, values in ((scale.mean_C, mean), (scale.std_C, std)):
        given = torch.tensor(values)
        buffer.copy_(given if len(given) == len(buffer) else given.mean())


def _fitting(variant: str, state: Weights, options: dict[str, Any]) -> Weights:
    """The file's tensors for an RGB stem, after a check that all weights are there."""
    whole = {k: v for k, v in options.items() if k not in {"pretrained", "features_only"}}
    with torch.device("meta"):
        net = timm.create_model(variant, **{**whole, "num_classes": 0})
    cfg = net.pretrained_cfg
    stems = cfg["first_conv"] if isinstance(cfg["first_conv"], tuple) else (cfg["first_conv"],)
    for stem in stems:
        kernel = state.get(f"{stem}.weight")
        if kernel is not None and kernel.shape[1] == _GREY:
            state[f"{stem}.weight"] = adapt_kernel(kernel, _RGB)
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    found = convert(dict(state), net) if convert else state
    own = net.state_dict()
    bad = [k for k in own if k not in found or own[k].shape != found[k].shape]
    if bad:
        what = f"the file lacks {len(bad)} of {len(own)} weights of {variant}, the first: {bad[0]}"
        raise UsageError(what, fix="give the file of this very network")
    return state
