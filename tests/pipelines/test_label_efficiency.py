"""Label efficiency: steps are chosen on validation, guesses stand in for missing labels alone."""

import json
from dataclasses import dataclass, field

import pytest

from pipelines._cases import cases_of
from pipelines._efficiency_curve import EfficiencyCurve
from pipelines.label_efficiency import main


@dataclass(frozen=True)
class Known(EfficiencyCurve):
    """Its validation Dice is told."""

    told: dict[int, float] = field(default_factory=dict)

    def validated(self, steps, seed):
        return self.told[steps]


def test_steps_grow_until_validation_stops_rising(tmp_path):
    def chosen(*dice):
        steps = (500, 1000, 2000)
        curve = Known(
            out=tmp_path, data=tmp_path, pretrain="", finetune="", pool={}, groups={},
            told=dict(zip(steps, dice, strict=True)),
        )  # fmt: skip
        return curve.plateau(steps)[0]

    assert chosen(0.80, 0.85, 0.90) == 2000
    assert chosen(0.80, 0.85, 0.851) == 1000
    assert chosen(0.80, 0.79, 0.90) == 500


@pytest.mark.slow
def test_smoke(tmp_path):
    cases = cases_of(None, tmp_path / "phantom", patients=36, tested=None)
    data, out = cases.folder, tmp_path / "runs"
    names = sorted([*cases.pool, *cases.test])
    split = {"train": [*names[:6], *names[7:13]], "test": names[14:16]}  # two runs of numbers
    (data / "split.json").write_text(json.dumps(split))
    main(data=data, out=out, smoke=True, results=tmp_path / "page.md")
    assert "| 2 | pretrained, then self-trained |" in (tmp_path / "page.md").read_text()
    [guessed] = (out / "guessed").glob("*/labelsTr")
    known = {path.resolve() for path in (data / "labelsTr").iterdir()}
    taken = [path.resolve() for path in guessed.iterdir()]
    assert sum(path in known for path in taken) == 2
    assert len(taken) == 12
    assert all(path.is_file() for path in taken)
