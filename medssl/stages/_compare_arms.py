"""The arms of a comparison: runs, public weights, and random weights of the same networks.

Every arm is a model folder that ``finetune --init`` takes. That of random weights has the card of
the pretrained one, so that input, preprocessing and network are the same, and nothing else is.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medssl.archive.labelled import Labelled
from medssl.core.config import Component
from medssl.core.errors import UsageError
from medssl.core.seeding import seed_everything
from medssl.encoders._base import build_encoder
from medssl.encoders.card import Card, build_from_card, load_card, save_model
from medssl.stages import _train
from medssl.stages._init import of_images
from medssl.stages._seen import NOTHING, Seen, read_seen
from medssl.stages.finetune import FinetuneConfig

SCRATCH = "scratch"


@dataclass(frozen=True)
class Arm:
    """What a fine-tuning starts from.

    Attributes:
        name: of its rows and folders.
        weights: hash of the pretrained weights; of random ones that of the card.
        folder: model folder; of random weights one per seed, ``<folder>_seed<k>``.
        against: the arm of random weights of the same network; empty for that arm itself.
        like: a longer training from random weights that has seen as many samples as this arm.
        samples, wall_s, cpu_s: of the pretraining; of ``like``, samples beyond the others'.
    """

    name: str
    weights: str
    folder: Path
    against: str = ""
    like: str = ""
    objective: str = ""
    encoder: str = ""
    samples: int = 0
    wall_s: float | None = None
    cpu_s: float | None = None

    def init(self, seed: int) -> Path:
        """What ``finetune`` starts from."""
        return self.folder if self.against else Path(f"{self.folder}_seed{seed}")

    def seen(self) -> Seen:
        """Records that the weights were trained on."""
        return read_seen(self.folder) if self.against else NOTHING

    def steps(self, config: FinetuneConfig) -> int:
        """Of its fine-tuning."""
        more = math.ceil(self.samples / config.batch_size) if self.like else 0
        return config.steps + more

    def as_json(self) -> dict[str, Any]:
        """For the results; where it lies is left out."""
        return {key: value for key, value in asdict(self).items() if key != "folder"}


def arms_of(
    given: Sequence[Path],
    config: FinetuneConfig,
    labelled: Labelled,
    out: Path,
    *,
    equal_compute: bool = False,
) -> list[Arm]:
    """Random weights of each network, then what was given, in its order.

    Args:
        given: runs, or ``NAME=WEIGHTS``: an encoder and its public weights.
        config: the fine-tuning.
        labelled: the data set.
        out: where models are written that are not there yet.
        equal_compute: also random weights trained for as long as each pretrained arm in all.

    Raises:
        UsageError: nothing given, no model, or two runs of one name.
    """
    if not given:
        raise UsageError("nothing to compare with", fix="medssl compare --init RUN")
    pretrained = [_pretrained(one, config, labelled, out) for one in given]
    twice = [n for n, times in Counter(arm.name for arm, _ in pretrained).items() if times > 1]
    if twice:
        what = f"two of --init are called '{twice[0]}'"
        raise UsageError(what, fix="give their folders names that differ")
    scratch: dict[str, Arm] = {}
    paired = []
    networks = {_network(card) for _, card in pretrained}
    for arm, card in pretrained:
        key = _network(card)
        if key not in scratch:
            name = SCRATCH if len(networks) == 1 else f"{SCRATCH}_{_safe(card.encoder.name)}"
            taken = sum(one.name.startswith(name) for one in scratch.values())
            name = f"{name}_{taken + 1}" if taken else name
            encoder = card.encoder.name
            scratch[key] = Arm(name, card.digest, out / name, encoder=encoder)
        paired.append(replace(arm, against=scratch[key].name))
    longer = []
    if equal_compute:
        of = {arm.name: arm for arm in scratch.values()}
        longer = [_as_long(of[arm.against], arm) for arm in paired if arm.samples]
    return [*scratch.values(), *longer, *paired]


def write_random(arms: Sequence[Arm], seed: int, labelled: Labelled) -> None:
    """The model folders of random weights for this seed, where they are not there yet."""
    for arm in arms:
        if arm.against:
            continue
        pretrained = next(one for one in arms if one.against in (arm.name, arm.name.split(_AS)[0]))
        folder, card = arm.init(seed), _card(pretrained.folder, labelled)
        if (folder / "card.json").is_file() and _card(folder, labelled) == card:
            continue
        # Of another network: a run was stopped, and goes on with another --init.
        (folder / "card.json").unlink(missing_ok=True)
        seed_everything(seed)
        encoder = build_from_card(card)
        save_model(folder, card, {"encoder": encoder})


_AS = "_as_long_as_"


def _as_long(scratch: Arm, arm: Arm) -> Arm:
    return replace(
        scratch, name=f"{scratch.name}{_AS}{arm.name}", like=arm.name, samples=arm.samples
    )


def _pretrained(
    given: Path, config: FinetuneConfig, labelled: Labelled, out: Path
) -> tuple[Arm, Card]:
    encoder, _, weights = str(given).partition("=")
    folder = given
    if weights and not given.exists():
        folder = out / _safe(encoder)
        _write_public(folder, Component(name=encoder, weights=weights), config, labelled)
    card = load_card(folder)[0]
    facts = _facts(folder)
    pretraining = card.provenance if card.provenance.get("stage") == "pretrain" else {}
    arm = Arm(
        name=_safe(folder.resolve().name),
        weights=card.weights_sha256,
        folder=folder,
        objective=card.objective or "",
        encoder=card.encoder.name,
        samples=pretraining.get("steps", 0) * pretraining.get("batch_size", 0),
        wall_s=facts.get("wall_s"),
        cpu_s=facts.get("cpu_s"),
    )
    return arm, _card(folder, labelled)


def _card(folder: Path, labelled: Labelled) -> Card:
    """What random weights of the same network say of themselves."""
    card = load_card(folder)[0]
    card = of_images(card) if labelled.kind == "image" else card
    blank: dict[str, Any] = {"objective": None, "head": None, "parts": ("encoder",)}
    blank |= {"embedding": {}, "temporal": {}, "labels": {}, "provenance": {}, "weights_sha256": ""}
    return card.model_copy(update=blank)


def _network(card: Card) -> str:
    """Equal for runs that the same random weights stand against."""
    own = card.model_dump(mode="json", exclude={"medssl", "licence", "patch_size", "channels"})
    return json.dumps(own, sort_keys=True)


def _write_public(
    folder: Path, encoder: Component, config: FinetuneConfig, labelled: Labelled
) -> None:
    channels = 3 if config.match_channels else len(labelled.channels)
    net = build_encoder(encoder.name, encoder.options, channels)
    card = Card(
        encoder=encoder,
        in_channels=channels,
        channels=tuple(f"channel {i}" for i in range(channels)),
        contract=_train.contract_of(config, channels),
        modality=labelled.modality,
        patch_size=config.crop or ((224, 224) if net.kind == "image" else (64, 64, 64)),
    )
    save_model(folder, card, {"encoder": net})


def _facts(folder: Path) -> dict[str, Any]:
    file = folder / "run.json"
    content: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return content


def _safe(name: str) -> str:
    """A name that a folder may have."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
