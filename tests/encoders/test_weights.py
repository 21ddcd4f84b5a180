"""Public weights: only on request, whole, never unpickled, never fetched by a card."""

import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

from medssl.core.errors import ConfigError, MedsslError, UsageError
from medssl.core.preprocess import Contract
from medssl.encoders._base import build_encoder
from medssl.encoders.card import Card, build_from_card, load_card, part_of, save_model

NETS = {"resnet18": {}, "vit_tiny_patch16_224": {}, "swin_tiny_patch4_window7_224": {}}


@pytest.fixture
def public(tmp_path):
    """A file as timm writes it, and the network it comes from."""

    def write(name, kind="safetensors", **options):
        torch.manual_seed(1)
        net = timm.create_model(name, pretrained=False, **options)
        path = tmp_path / f"public.{kind}"
        state = {key: value.contiguous() for key, value in net.state_dict().items()}
        if kind == "safetensors":
            save_file(state, path)
        else:
            torch.save({"state_dict": state}, path)
        return path, net.eval()

    return write


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
@pytest.mark.parametrize("name", NETS)
def test_a_file_gives_timms_own_features(public, name, kind):
    path, net = public(name, kind)
    encoder = build_encoder(f"timm/{name}", {"weights": str(path)}, 3).eval()
    picture = torch.rand(1, 3, 224, 224)
    cfg = net.pretrained_cfg
    mean, std = (torch.tensor(cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        theirs = net.forward_features((picture - mean) / std)
        ours = encoder(picture)
    if encoder.returns_tokens:
        torch.testing.assert_close(ours.global_BD, theirs[:, 0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours.tokens_BND, theirs[:, 1:], atol=1e-5, rtol=1e-4)
    elif name.startswith("resnet"):
        torch.testing.assert_close(ours.pyramid[-1], theirs, atol=1e-5, rtol=1e-4)
    else:  # the last norm belongs to the classifier
        normed = net.norm(ours.pyramid[-1].permute(0, 2, 3, 1))
        torch.testing.assert_close(normed, theirs, atol=1e-5, rtol=1e-4)


def test_a_grey_encoder_gets_the_sum_over_colours(public):
    path, net = public("resnet18")
    encoder = build_encoder("timm/resnet18", {"weights": str(path)}, 1)
    own = encoder.state_dict()["body.net.conv1.weight"]
    torch.testing.assert_close(own, net.conv1.weight.sum(1, keepdim=True))


def test_positions_are_resampled_to_another_token_size(public):
    path, _ = public("vit_tiny_patch16_224")
    options = {"weights": str(path), "patch_size": 8}
    encoder = build_encoder("timm/vit_tiny_patch16_224", options, 1)
    assert encoder.token_size == (8, 8)


def test_a_file_of_another_network_is_refused(public):
    path, _ = public("resnet18")
    with pytest.raises(UsageError, match="lacks"):
        build_encoder("timm/resnet50", {"weights": str(path)}, 3)


def test_pickled_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("code was run",))

    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"state_dict": Evil()}))
    with pytest.raises(UsageError, match="cannot be read"):
        build_encoder("timm/resnet18", {"weights": str(path)}, 3)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"not a tensor"])
def test_damaged_files_are_refused(tmp_path, content):
    for name in ("bad.safetensors", "bad.pth"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match="cannot be read"):
            build_encoder("timm/resnet18", {"weights": str(tmp_path / name)}, 3)


def test_a_missing_file_is_named_in_where_only(tmp_path):
    with pytest.raises(UsageError) as error:
        build_encoder("timm/resnet18", {"weights": str(tmp_path / "no.pth")}, 3)
    assert "no.pth" in error.value.where
    assert "no.pth" not in error.value.what + error.value.fix


def test_the_card_neither_fetches_nor_names_a_path(public, tmp_path):
    path, _ = public("resnet18")
    encoder = build_encoder("timm/resnet18", {"weights": str(path)}, 1)
    card = Card(
        encoder={"name": "timm/resnet18", "weights": str(path)}, in_channels=1, channels=("US",),
        contract=Contract(), modality="US", patch_size=(64, 64),
    )  # fmt: skip
    save_model(tmp_path / "model", card, {"encoder": encoder})
    path.unlink()
    assert str(tmp_path) not in (tmp_path / "model" / "card.json").read_text()
    card, weights = load_card(tmp_path)
    assert card.provenance["public_weights"] == "a file"
    again = build_from_card(card)
    again.load_state_dict(part_of(weights, "encoder"), strict=True)
    assert again.scale.mean_C.item() == pytest.approx((0.485 + 0.456 + 0.406) / 3)


@pytest.mark.parametrize(
    ("name", "near"),
    [("timm/resnet81", "resnet18"), ("timm/vit_tiny_patch16", "vit_tiny"), ("smp/mit-b0", "mit_b")],
)  # fmt: skip
def test_unknown_networks_name_the_nearest(name, near):
    with pytest.raises(ConfigError) as error:
        build_encoder(name, {}, 1)
    assert near in error.value.fix


def test_unknown_weights_of_smp_name_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'imagenet'"):
        build_encoder("smp/resnet18", {"weights": "imagenette"}, 1)


PUBLIC = [
    "timm/resnet18", "timm/vit_small_patch14_dinov2", "timm/vit_small_patch14_reg4_dinov2",
    "timm/vit_small_patch16_dinov3", "smp/resnet34",
]  # fmt: skip


def test_public_names_build_without_a_connection(offline):
    loop = f"for name in {PUBLIC}: build_encoder(name, {{}}, 1).make_decoder(2)"
    code = f"from medssl.encoders._base import build_encoder\n{loop}"
    assert offline.run("-c", code).returncode == 0
    assert offline.attempts() == []


@pytest.mark.parametrize("name", ["timm/resnet18", "smp/resnet18"])
def test_weights_asked_for_by_name_are_an_error_where_there_is_no_network(name, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    for place in ("timm.models._hub.hf_hub_download", "timm.models._hub.load_state_dict_from_hf"):
        monkeypatch.setattr(place, refuse)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", refuse)
    weights = "timm" if name.startswith("timm") else "imagenet"
    with pytest.raises(MedsslError, match="not to be had"):
        build_encoder(name, {"weights": weights}, 1)
