"""The label curve on pictures with masks: groups of look-alikes instead of patients."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import medssl
from medssl.core.seeding import generator
from medssl.stages._jobs import read_rows
from pipelines._label_curve import Curve


@dataclass(frozen=True)
class PictureCurve(Curve):
    """The experiment; ``data`` holds ``images`` and ``masks`` of equal names."""

    modality: str = "unknown"
    """Of the pretraining pictures, whose files do not state one."""

    def pretrained(self) -> Path:
        """As for volumes; every training picture is learnt from, without its mask."""
        run, catalog = self.out / "pretrain", self.out / "catalog"
        if (run / "run.json").is_file():
            return run
        split = {"train": 1.0, "val": 0.0, "test": 0.0}
        medssl.index(
            archive=self.out / "train", out=catalog, split=split, modality=self.modality, quiet=True
        )
        medssl.pretrain(
            config=self.pretrain, data=catalog, out=run, resume=True, **self.pretrain_overrides
        )
        return run

    def labelled(self, labels: int, seed: int) -> Path:
        """Write the table of ``labels`` pictures, look-alikes last; the same for both arms."""
        rng = generator(seed, "labelled pictures")
        groups = [sorted(self.pool)[i] for i in rng.permutation(len(self.pool))]
        rounds = max(len(names) for names in self.pool.values())
        order = [
            (self.pool[group][k], group)
            for k in range(rounds)
            for group in groups
            if k < len(self.pool[group])
        ]
        folder = self.labelled_folder(labels, seed)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "labelled.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(("image", "label", "patient"))
            for name, group in order[:labels]:
                image, mask = (self.data / part / name for part in ("images", "masks"))
                table.writerow((image.resolve(), mask.resolve(), group))
        return folder

    def _method(self, seeds: Sequence[int]) -> str:
        rows = read_rows(self.out / "ledger.jsonl")
        minutes = sum(row["wall_s"] for row in rows) / 60
        n = sum(map(len, self.pool.values()))
        return (
            f"Written by `pipelines/{self.finetune}.py`; medssl {medssl.__version__}. Test Dice, "
            f"{len(self.groups)} pictures in {len(set(self.groups.values()))} groups of "
            f"look-alikes, {len(seeds)} seeds; trained on the other {n} pictures, no look-alikes "
            "on both sides. 95 % intervals: groups drawn 10,000 times, Student's t over seeds; the "
            "difference is paired by seed and picture. Both arms have the same labelled pictures, "
            "recipe and number of steps; the last checkpoint counts. JPEG masks are cut at half "
            f"of 255. {len(rows)} trainings of one thread took {minutes:.0f} minutes."
        )


def link_pictures(data: Path, folder: Path, part: str, names: Iterable[str]) -> None:
    """Links to these pictures (or masks) in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        link = folder / name
        if not link.exists():
            link.symlink_to((data / part / name).resolve())
