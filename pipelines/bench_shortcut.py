"""Does a style that is shared within a batch take the scanner out of what SimCLR learns?

python -m pipelines.bench_shortcut --out RUNS

Slices of a synthetic torso, chest or belly, half of them from a site with a smooth gain field, a
blur and a coarser noise texture: what no preprocessing removes. Site and anatomy are drawn
independently of each other, each patient at one site. A second table says which of the three is
left in pictures that all have the style of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import typer
from PIL import Image
from scipy import ndimage

import medssl
from medssl.archive._phantom_body import draw_patient, mr_scan
from medssl.archive.store import Store
from medssl.core.geometry import Geometry
from medssl.core.preprocess import Contract, prepare
from medssl.core.runlog import write_text
from medssl.core.seeding import generator, seed_everything
from medssl.encoders._base import build_encoder
from medssl.evaluation.classification import balanced_accuracy
from medssl.evaluation.linear import linear_probe
from medssl.evaluation.shortcut import read_out
from medssl.stages._features import Frozen
from medssl.views.style import standardise_style
from pipelines._bench import RESULTS, table
from pipelines._bench_frozen import embed

Array = npt.NDArray[Any]
SIDE_PX = 32
STYLES = {"no style": None, "batch style": [0.6, 1.0]}
PARTS = ("gain", "blur", "texture")
# Sides of the window of frequencies whose amplitudes are those of one picture; 1.01 = all of them.
SHARES = (0.6, 1.01)
LEFT = (
    "What is left of the site in the style of one picture, by neighbours among features of "
    "random weights (excess of the site; nothing is trained). Blur shows in the highest "
    "frequencies, which a window below 1 leaves alone. A gain that grows across the picture "
    "multiplies it: that moves phases, which every style keeps. So this style takes a blur "
    "away where all frequencies take part, and a gain field never; views with a bias field "
    "are made for that."
)
# Heights of the slices above the middle of the torso.
_LEVELS_MM = {"chest": 45.0, "belly": -55.0}


class Slices(NamedTuple):
    """Pictures with what they show and where they were made."""

    pictures: list[Array]
    part_N: Array
    site_N: Array
    patient_N: Array


def main(
    out: Annotated[Path, typer.Option(help="Where the runs go.")],
    patients: Annotated[int, typer.Option(help="To pretrain on, and as many to probe.")] = 100,
    steps: Annotated[int, typer.Option()] = 400,
    seeds: Annotated[int, typer.Option()] = 2,
) -> None:
    """Pretrain both arms, probe site and anatomy, and write docs/results/shortcut.md."""
    train, probe = slices(0, patients), slices(1, patients)
    archive = out / "archive"
    archive.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(train.pictures):
        Image.fromarray(picture).save(archive / f"{number:04d}.png")
    rows: list[Sequence[object]] = []
    for name, style in STYLES.items():
        found = []
        for seed in range(seeds):
            run = out / f"{name.replace(' ', '_')}-{seed}"
            if not (run / "model").is_dir():
                pretrain(archive, run, style, steps, seed)
            found.append(probed(Frozen.of_run(run)[0], run, probe))
        rows.append((name, *_cells(np.array(found))))
        if name == "no style":
            random = [
                probed(Frozen.of_run(run)[0].untrained(seed), run, probe) for seed in range(seeds)
            ]
            rows.insert(0, ("random weights", *_cells(np.array(random))))
    header = ["arm", "site, kNN", "anatomy, kNN", "site, linear", "anatomy, linear"]
    note = (
        f"SimCLR with its shipped views on the smallest ResNet of timm, {steps} steps of 32 slices "
        f"of {SIDE_PX} pixels, {patients} patients; probed on {len(probe.pictures)} unstyled "
        f"slices of {patients} others. Excess over chance, (balanced accuracy - 1/2) x 2: mean "
        f"over {seeds} seeds, lowest to highest. Goal of the batch style: half the site's excess."
    )
    text = table("Site shortcut and batch style", header, rows, note, by="bench_shortcut")
    write_text(RESULTS / "shortcut.md", "\n".join([text, *_left(patients)]))
    typer.echo(f"wrote {RESULTS / 'shortcut.md'}")


def _left(patients: int) -> list[str]:
    """What random weights still see of the site when all slices have the style of one."""
    lines = [
        LEFT,
        "",
        "| site differs by | as it is | window of 0.6 | all frequencies |",
        "|---|---|---|---|",
    ]
    for parts in (*((part,) for part in PARTS), PARTS):
        probe = slices(1, patients, parts)
        cells = [f"{_site_excess(probe, share):.2f}" for share in (0.0, *SHARES)]
        lines.append(f"| {', '.join(parts)} | {' | '.join(cells)} |")
    return [*lines, ""]


def _site_excess(probe: Slices, share: float) -> float:
    """With random weights, all slices in the style of the first one; a share of 0 changes none."""
    seed_everything(0)
    encoder = build_encoder("timm/test_resnet", {"output_stride": 16}, 1)
    x_N1HW = [picture[None] / np.float32(255) for picture in probe.pictures]
    styled = [standardise_style(x, x_N1HW[0], share, copy_mean=share > 0) for x in x_N1HW]
    z_ND = embed(encoder, torch.from_numpy(np.stack(styled)))
    found = read_out(z_ND, [str(k) for k in probe.site_N], probe.patient_N)
    assert found is not None  # there are two sites
    return found.excess


def slices(seed: int, patients: int, parts: Sequence[str] = PARTS) -> Slices:
    """Two slices of each patient, one of the chest and one of the belly."""
    pictures, part, site, patient = [], [], [], []
    for number in range(patients):
        rng = generator(seed, "shortcut", number)
        body, own_site = draw_patient(rng), int(rng.integers(2))
        for k, level_mm in enumerate(_LEVELS_MM.values()):
            affine = np.diag([9.5, 7.0, 6.0, 1.0])
            affine[:3, 3] = -9.5 * 15.5, -7.0 * 15.5, level_mm + rng.uniform(-8, 8)
            x_HW = mr_scan(body, affine, (SIDE_PX, SIDE_PX, 1), rng)[0]
            pictures.append(_at_site(x_HW / x_HW.max(), parts if own_site else (), rng))
            part.append(k)
            site.append(own_site)
            patient.append(number)
    return Slices(pictures, np.array(part), np.array(site), np.array(patient))


def _at_site(x_HW: Array, parts: Sequence[str], rng: np.random.Generator) -> Array:
    """8 bits as the site makes them; its texture scales with the signal."""
    noise = rng.standard_normal(x_HW.shape)
    across = np.linspace(-0.5, 0.5, len(x_HW))
    if "gain" in parts:
        x_HW = x_HW * np.exp(across[None] + 0.6 * across[:, None])
    if "blur" in parts:
        x_HW = ndimage.gaussian_filter(x_HW, 0.7)
    if "texture" in parts:
        noise = ndimage.gaussian_filter(noise, 0.8)
    x_HW = x_HW * (1 + 0.1 * noise / noise.std())
    return np.asarray(np.rint(255 * np.clip(x_HW / 1.6, 0, 1)), dtype=np.uint8)


def pretrain(archive: Path, run: Path, style: Any, steps: int, seed: int) -> None:
    """SimCLR on the slices, with or without a style."""
    options: dict[str, Any] = {"objective.views.style": style} if style else {}
    options["encoder.output_stride"] = 16  # two cells a side are left of such a small slice
    medssl.pretrain(
        data=archive,
        out=run,
        objective="simclr",
        encoder="timm/test_resnet",
        crop=[SIDE_PX, SIDE_PX],
        batch_size=32,
        steps=steps,
        seed=seed,
        lr=1e-3,
        warmup=20,
        accelerator="cpu",
        check_every=steps,
        health=False,
        **options,
    )


def probed(frozen: Frozen, run: Path, probe: Slices) -> list[float]:
    """Excess over chance of site and anatomy, by neighbours and by a linear map."""
    store = Store(run / "probe", _contract_of(run))
    vectors = []
    for number, picture in enumerate(probe.pictures):
        key = f"p{number:04d}"
        if key not in store:
            ready = prepare(picture[None], Geometry(kind="image"), "unknown", store.contract)
            store.put(key, ready, key)
        vectors.append(frozen.vector(store, store.entry(key)))
    z_ND = np.stack(vectors)
    near, linear = [], []
    for label_N in (probe.site_N, probe.part_N):
        found = read_out(z_ND, [str(k) for k in label_N], probe.patient_N)
        assert found is not None  # both labels have two values
        near.append(found.excess)
        part_N = probe.patient_N % 4  # two quarters to learn from, one to choose by, one to test
        sets = [(z_ND[m], label_N[m]) for m in (part_N < 2, part_N == 2, part_N == 3)]
        right = balanced_accuracy(sets[2][1], linear_probe(*sets[:2]).predict(sets[2][0]), 2)
        linear.append(2 * right - 1)
    return [*near, *linear]


def _contract_of(run: Path) -> Contract:
    return Frozen.of_run(run)[1].contract


def _cells(found_S4: Array) -> list[str]:
    return [f"{one.mean():.2f} ({one.min():.2f} to {one.max():.2f})" for one in found_S4.T]


if __name__ == "__main__":
    typer.run(main)
