"""Weights and their card: reload exactly, refuse what does not fit."""

import json

import pytest
import torch

from medssl.core.config import Component
from medssl.core.errors import MedsslError, UsageError
from medssl.core.preprocess import Contract
from medssl.encoders._base import build_encoder
from medssl.encoders.card import Card, from_safetensors, load_card, save_model, to_safetensors


def card(name="resenc-xs"):
    return Card(
        encoder=Component(name=name), in_channels=1, channels=("T1",), contract=Contract(),
        modality="MR", patch_size=(16, 32, 16),
    )  # fmt: skip


@pytest.fixture
def saved(tmp_path):
    save_model(tmp_path / "model", card(), {"encoder": build_encoder("resenc-xs", {}, 1)})
    return tmp_path


def test_names_that_share_a_tensor_are_stored_once():
    weight = torch.arange(1000.0)
    data = to_safetensors({"a": weight, "b": weight, "c": weight + 1})
    assert len(data) < 2.2 * weight.numel() * 4
    found = from_safetensors(data)
    assert torch.equal(found["b"], weight)
    assert torch.equal(found["c"], weight + 1)


def test_edited_weights_are_refused(saved):
    file = saved / "model" / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(UsageError, match="hash"):
        load_card(saved)


def test_truncated_card_is_refused(saved):
    file = saved / "model" / "card.json"
    file.write_text(file.read_text()[:100])
    with pytest.raises(UsageError, match="damaged"):
        load_card(saved)


def test_folder_without_a_model_says_what_to_give(tmp_path):
    with pytest.raises(UsageError, match="pretrain or finetune"):
        load_card(tmp_path)


def test_weights_of_another_encoder_do_not_pass_as_the_cards(tmp_path):
    with pytest.raises(MedsslError, match="does not reload"):
        save_model(tmp_path, card("resenc-s"), {"encoder": build_encoder("resenc-xs", {}, 1)})
    assert not (tmp_path / "card.json").exists()


def test_card_states_the_input_contract(saved):
    content = json.loads((saved / "model" / "card.json").read_text())
    assert content["contract"]["rules"]["CT"]["low"] == -1024.0
    assert content["patch_size"] == [16, 32, 16]
    assert content["channels"] == ["T1"]
