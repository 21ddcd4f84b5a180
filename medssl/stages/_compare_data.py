"""The data of a comparison: who is tested on, what the arms learn from, links to the test scans.

The test patients are those that the data set names; where it names none they are drawn, always the
same ones. What is written to learn from and to test on holds paths: its owner alone may read it.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medssl.archive.cases import Case, refuse_leaks
from medssl.archive.datasets import FILE_NAME
from medssl.archive.identity import case_stem
from medssl.archive.labelled import Labelled, load_labelled
from medssl.archive.labelled_classes import ClassCase, LabelledClasses, load_classes
from medssl.core.errors import NothingUsableError, UsageError
from medssl.core.runlog import file_digest, write_text
from medssl.core.seeding import generator
from medssl.stages._classify import stratified_order

_OWNER = 0o600
_TABLE = "first line: image,label,patient,split; test patients have split=test"


@dataclass(frozen=True)
class Data:
    """What a comparison works on.

    Attributes:
        labelled: all of it.
        learnt: labelled cases to learn from; ``patients`` of them.
        tested: labelled cases to test on.
        drawn: the test patients were drawn here.
    """

    labelled: Labelled
    learnt: tuple[Case, ...]
    tested: tuple[Case, ...]
    drawn: bool

    @property
    def patients(self) -> int:
        named = any(case.split == "val" for case in self.learnt)
        return len({case.patient for case in self.learnt if case.split != "val" or not named})

    def tested_classes(self) -> dict[str, int]:
        """Test patients of each class; empty where there are none."""
        if not isinstance(self.labelled, LabelledClasses):
            return {}
        found = {(_target(case), case.patient) for case in self.tested}
        return {name: sum(k == n for k, _ in found) for n, name in self.labelled.labels.items()}


def load(data: Path, task: str, test_fraction: float) -> Data:
    """The labelled cases, divided.

    Raises:
        UsageError: a patient in two splits, or videos.
        NothingUsableError: nobody is left to learn from, or to test on; or to tell apart there.
    """
    labelled = load_classes(data) if task == "classification" else load_labelled(data)
    if labelled.kind == "clip":
        raise UsageError("videos are not compared", fix="compare pictures or volumes")
    usable = [case for case in labelled.cases if _has_label(case)]
    tested = [case for case in usable if case.split == "test"]
    drawn = not tested
    if drawn:
        who = draw_test(usable, test_fraction)
        tested = [case for case in usable if case.patient in who]
    refuse_leaks(usable)
    taken = {case.patient for case in tested}
    learnt = [case for case in usable if case.patient not in taken]
    if not tested or not learnt:
        what = f"{len(learnt)} labelled cases to learn from, {len(tested)} to test on"
        raise NothingUsableError(what, fix="add labelled patients")
    found = Data(labelled, tuple(learnt), tuple(tested), drawn)
    if sum(patients > 0 for patients in found.tested_classes().values()) == 1:
        # A network that always says this class would be perfect.
        fix = "test patients of every class: name them with split=test, or a larger test_fraction"
        raise NothingUsableError("the test cases are all of one class", fix=fix)
    return found


def draw_test(cases: Sequence[Case], fraction: float) -> set[str]:
    """Patients to test on, at least one of two; of classes in proportion, where there are some.

    Patients of a named validation split stay there.
    """
    pool = [case for case in cases if case.split != "val"]
    classes = [case for case in pool if isinstance(case, ClassCase)]
    if classes:
        order = stratified_order(classes, 0)[0]
        order.reverse()  # the first ones show every class: they are learnt from
    else:
        names = sorted({case.patient for case in pool})
        order = [names[i] for i in generator(0, "test patients").permutation(len(names))]
    return set(order[: max(1, round(fraction * len(order)))]) if len(order) > 1 else set()


def write_learnt(data: Data, given: Path, out: Path) -> Path:
    """What ``finetune`` reads: the data set as given where it names the test patients itself.

    Raises:
        UsageError: a layout that cannot be written without them.
    """
    if not data.drawn:
        return given
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    if isinstance(data.labelled, LabelledClasses):
        names = data.labelled.labels
        write_table(out / "labelled.csv", [(case, names[_target(case)]) for case in data.learnt])
    elif (given / FILE_NAME).is_file():
        content = _described(data)
        write_text(out / FILE_NAME, json.dumps(content, indent=1) + "\n", mode=_OWNER)
    else:
        rows = [(case, str(_label(case).resolve())) for case in data.learnt]
        write_table(out / "labelled.csv", rows)
    return out


def write_table(path: Path, rows: Iterable[tuple[Case, str]], split: str = "") -> None:
    """A table ``image,label,patient,split`` of these cases."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(("image", "label", "patient", "split"))
    for case, label in rows:
        table.writerow((_place(case), label, case.patient, split or case.split or ""))
    write_text(path, text.getvalue(), mode=_OWNER)


def link_tested(data: Data, out: Path) -> dict[str, str]:
    """Links to the test scans in ``images``, and their references in ``references``.

    Returns:
        Patient of each case, by the name that ``evaluate`` gives it.
    """
    shutil.rmtree(out, ignore_errors=True)  # links of another choice
    for part in ("images", "references"):
        (out / part).mkdir(parents=True, mode=0o700)
    patients: dict[str, str] = {}
    linked = []
    for case in data.tested:
        place, name = _link(case, out / "images")
        linked.append(replace(case, images=(place,), split="test"))
        if isinstance(data.labelled, LabelledClasses):
            name = case_stem(place)
        else:
            label = _label(case)
            (out / "references" / f"{name}{_ending(label)}").symlink_to(label.resolve())
        patients[name] = case.patient
    if isinstance(data.labelled, LabelledClasses):
        names = data.labelled.labels
        rows = [(case, names[_target(case)]) for case in linked]
        write_table(out / "references" / "classes.csv", rows)
    rows_of = "".join(f"{_quoted(c)},{_quoted(p)}\n" for c, p in patients.items())
    write_text(out / "patients.csv", f"case,patient\n{rows_of}", mode=_OWNER)
    return patients


def _link(case: Case, folder: Path) -> tuple[Path, str]:
    """Where the case lies below ``folder`` now, and what ``predict`` calls its result."""
    name = case.name.replace("/", "_")
    first = case.images[0]
    found = case.records()[0]
    if found.format == "dicom":
        if first.is_dir():
            (folder / name).symlink_to(first.resolve())
        else:
            (folder / name).mkdir()
            for file in case.images:
                (folder / name / file.name).symlink_to(file.resolve())
        number = found.series_number
        return folder / name, name if number is None else f"{name}_{number}"
    for channel, file in enumerate(case.images):
        numbered = f"_{channel:04d}" if len(case.images) > 1 else ""
        (folder / f"{name}{numbered}{_ending(file)}").symlink_to(file.resolve())
    return folder / f"{name}{_ending(first)}", name


def _described(data: Data) -> dict[str, Any]:
    """A ``dataset.json`` in Decathlon layout; channels in files of their own are named so."""
    entries = []
    for case in data.learnt:
        image = case.images[0].resolve()
        if len(case.images) > 1:
            image = image.with_name(f"{case.name}{_ending(image)}")
        entries.append({"image": str(image), "label": str(_label(case).resolve())})
    labelled = data.labelled
    return {
        "modality": {str(k): name for k, name in enumerate(labelled.channels)},
        "labels": {str(k): name for k, name in labelled.labels.items()},
        "training": entries,
    }


def _place(case: Case) -> str:
    """The file of a case, or the folder that is its own."""
    first = case.images[0]
    if len(case.images) == 1:
        return str(first.absolute())
    own = {file for file in first.parent.iterdir() if file.is_file()}
    if own != set(case.images):
        what = "several files make one image, and their folder holds others"
        raise UsageError(what, where=str(first), fix=f"name the test patients in a table: {_TABLE}")
    return str(first.parent.absolute())


def _ending(path: Path) -> str:
    name = path.name
    return ".nii.gz" if name.lower().endswith(".nii.gz") else path.suffix


def _has_label(case: Case) -> bool:
    return case.label is not None or (isinstance(case, ClassCase) and case.target is not None)


def _label(case: Case) -> Path:
    assert case.label is not None  # only labelled cases are used
    return case.label


def _target(case: Case) -> int:
    assert isinstance(case, ClassCase)
    assert case.target is not None  # only labelled cases are used
    return case.target


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def digests(data: Data, hashes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Of all that the data say: of each case its pixels, label, patient and split.

    The patient decides who is chosen; a label that was corrected is another reference.
    """
    return {
        "label_names": data.labelled.labels,
        **{
            key: sorted(
                [*hashes[case.name], _reference(case, data), case.patient, case.split or ""]
                for case in cases
            )
            for key, cases in (("learnt", data.learnt), ("tested", data.tested))
        },
    }


def _reference(case: Case, data: Data) -> str:
    """Name of its class, or hash of its label map."""
    if isinstance(data.labelled, LabelledClasses):
        return data.labelled.labels[_target(case)]
    return file_digest(_label(case))
