"""The table docs/results/fuzz.md: ``python -m tests.fuzz.table docs/results/fuzz.md``."""

import sys
from pathlib import Path

from tests.fuzz.run import MAKERS, summary
from tests.fuzz.seeds import seeds_of

N, SEEDS = 1000, (0, 2)
HEAD = f"""# Mutated files

<!-- written by: python -m tests.fuzz.table docs/results/fuzz.md -->

{N:,} mutations per reader and seed ({", ".join(map(str, SEEDS))}): bits flipped, bytes changed,
cut, deleted, doubled, numbers of text headers replaced, DICOM tags, lengths and representations
changed, files of a series dropped, doubled or renamed. *Equal*: everything read equals the
original. *Different*: read and consistent with itself, its series and the size of its files, by
rules that use other libraries than the readers (tests/fuzz/judge.py); what changed is counted
below. *Refused*: in the ledger with a reason, nothing read. *Ignored*: no longer recognisable as
imaging, counted by kind.

| reader | seed files | n | equal | different | refused | ignored | crashes | hangs > 5 s \
| contradictions | files without outcome | slowest |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def main(target):
    rows, changed, reasons = [], [], []
    for reader in MAKERS:
        results = [summary(reader, N, seed) for seed in SEEDS]
        kinds = [sum(r["kinds"].get(kind, 0) for r in results) for kind in KINDS]
        last = [sum(r[key] for r in results) for key in ("contradictions", "lost_files")]
        slowest = max(r["slowest_s"] for r in results)
        cells = [reader, ", ".join(seeds_of(reader)), N * len(SEEDS), *kinds, *last]
        rows.append("| " + " | ".join(map(str, cells)) + f" | {slowest:.2f} s |")
        changed.append(f"| {reader} | {_counts(results, 'changed')} |")
        reasons.append(f"| {reader} | {_counts(results, 'reasons')} |")
    text = HEAD + "\n".join(rows)
    text += "\n\n## What differs in records that were read\n\n| reader | fields: mutations |\n"
    text += "|---|---|\n" + "\n".join(changed)
    text += "\n\n## Reasons\n\n| reader | reason: mutations |\n|---|---|\n" + "\n".join(reasons)
    Path(target).write_text(text + "\n", encoding="utf-8")


KINDS = ("equal", "different", "refused", "ignored", "crash", "hang")


def _counts(results, key):
    total = {}
    for result in results:
        for name, count in result[key].items():
            total[name] = total.get(name, 0) + count
    ordered = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name.replace('+', ' + ')}: {count}" for name, count in ordered)


if __name__ == "__main__":
    main(sys.argv[1])
