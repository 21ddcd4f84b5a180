"""See what an archive holds and what is wrong with it, then copy it without the patients' names."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import medssl

with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary)
    medssl.phantom(out=folder / "phantom")
    archive = folder / "phantom" / "archive"

    report = medssl.doctor(archive, out=folder / "report")
    for line in report.result["verdict"]:
        print("doctor:", line["text"])

    catalog = medssl.index(archive, out=folder / "catalog")
    print("records:", catalog.result["records"], "of", catalog.result["patients"], "patients")
    for line in catalog.ledger.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        print("not used:", entry["reason"], "-", entry["message"])

    copies = medssl.deidentify(archive, out=folder / "copies")
    print("copied:", copies.result["copied"], "not copied:", copies.result["quarantined"])
    kinds = Counter(f"{scan.modality} {scan.kind}" for scan in medssl.read_folder(copies.out))
    print("the copies read as:", dict(kinds))
