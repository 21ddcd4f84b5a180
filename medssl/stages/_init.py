"""Start from the weights of another run."""

from __future__ import annotations

from pathlib import Path

from medssl.core.errors import UsageError
from medssl.encoders._base import Decoder, Encoder
from medssl.encoders._input import adapt_input
from medssl.encoders.card import load_card, part_of


def load_init(encoder: Encoder, decoder: Decoder | None, run: Path) -> dict[str, int]:
    """Start from a run's weights: the encoder strictly, of a decoder all but the last layer.

    Raises:
        UsageError: if the encoders differ.
    """
    card, weights = load_card(run)
    adapted = adapt_input(part_of(weights, "encoder"), encoder)
    try:
        encoder.load_state_dict(adapted, strict=True)
    except RuntimeError:
        fix = f"encoder={card.encoder.name}"
        raise UsageError("--init holds another encoder", where=str(run), fix=fix) from None
    if decoder is None:
        return {"encoder_tensors": len(adapted), "decoder_tensors": 0}
    own = decoder.state_dict()
    fitting = {
        key: value
        for key, value in part_of(weights, "decoder").items()
        if key in own and own[key].shape == value.shape and not key.startswith(decoder.last_layer)
    }
    decoder.load_state_dict(fitting, strict=False)
    return {"encoder_tensors": len(adapted), "decoder_tensors": len(fitting)}
