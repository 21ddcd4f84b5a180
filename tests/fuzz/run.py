"""Mutated files through a reader: ``python -m tests.fuzz.run --reader nifti --n 1000 --seed 0``.

A child process reads; when it dies or hangs the mutation is noted and a new child goes on behind
it. Prints one JSON summary; ``--log FILE`` keeps a line per mutation.
"""

import argparse
import json
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from tests.fuzz.mutate import apply, mutation
from tests.fuzz.seeds import MAKERS, seeds_of

HANG_S = 5.0
KILL_S = 60.0


def write(folder, files):
    for name, content in files.items():
        Path(folder, name).write_bytes(content)


def case(reader, number, seed):
    """Name of the seed file and the edits of one mutation."""
    names = sorted(seeds_of(reader))
    name = names[number % len(names)]
    rng = np.random.default_rng([seed, number])
    return name, mutation(seeds_of(reader)[name], rng)


def run_folder(folder, files):
    """What becomes of these files in a folder."""
    from tests.fuzz.judge import read_all

    write(folder, files)
    return read_all(Path(folder))


def run_one(files, original):
    """Outcome of one mutated folder as a JSON-able line."""
    from tests.fuzz.judge import changes

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_folder(folder, files)
    seconds = time.perf_counter() - started
    changed = changes(original, outcome)
    if not outcome.records:
        kind = "refused" if outcome.reasons else "ignored"
    else:
        kind = "different" if changed else "equal"
    return {
        "kind": kind,
        "changed": changed if kind == "different" else [],
        "reasons": sorted(set(outcome.reasons)),
        "lost": len(outcome.lost),
        "wrong": outcome.wrong,
        "seconds": round(seconds, 3),
    }


def serve(reader, start, n, seed):
    """The child: one JSON line per mutation."""
    originals = {}
    for name, files in seeds_of(reader).items():
        with tempfile.TemporaryDirectory() as folder:
            originals[name] = run_folder(folder, files)
            assert originals[name].records, (reader, name, originals[name])
            assert not originals[name].wrong, (reader, name, originals[name].wrong)
            assert not originals[name].lost, (reader, name, originals[name].lost)
    sys.stdout.write(json.dumps({"ready": True}) + "\n")
    for number in range(start, n):
        name, edits = case(reader, number, seed)
        line = {"n": number, "seed": name, "edits": edits}
        try:
            line |= run_one(apply(seeds_of(reader)[name], edits), originals[name])
        except Exception as error:  # noqa: BLE001 - this is what the harness looks for
            line |= {"kind": "crash", "error": f"{type(error).__name__}: {error}"[:300]}
            line["where"] = _where(error)
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def _where(error):
    trace = error.__traceback__
    places = []
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{Path(code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return places[-4:]


def lines(reader, n, seed):
    """Every mutation's line; a child that dies or hangs is a line too."""
    start = 0
    while start < n:
        arguments = ["--child", "--reader", reader, "--n", str(n), "--seed", str(seed)]
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.run", *arguments, "--start", str(start)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        watch = selectors.DefaultSelector()
        watch.register(child.stdout, selectors.EVENT_READ)
        ready = False
        while True:
            if not watch.select(KILL_S):
                child.kill()
                child.wait()
                yield _lost(reader, start, seed, "hang")
                start += 1
                break
            text = child.stdout.readline()
            if not text:
                if child.wait() == 0 and start >= n:
                    return
                if not ready:
                    raise RuntimeError(f"{reader}: the unmutated files are not read")
                yield _lost(reader, start, seed, "crash")
                start += 1
                break
            line = json.loads(text)
            if "ready" in line:
                ready = True
                continue
            start = line["n"] + 1
            yield line


def _lost(reader, number, seed, kind):
    name, edits = case(reader, number, seed)
    return {"n": number, "seed": name, "edits": edits, "kind": kind, "error": "the process ended"}


def summary(reader, n, seed, log=None):
    """Counts of all outcomes, and every mutation that must not be."""
    kinds, reasons, changed, bad = Counter(), Counter(), Counter(), []
    slowest = 0.0
    for line in lines(reader, n, seed):
        if log is not None:
            log.write(json.dumps(line) + "\n")
        slow = line.get("seconds", 0.0) > HANG_S
        kinds["hang" if slow else line["kind"]] += 1
        reasons.update(line.get("reasons", []))
        changed.update(["+".join(line.get("changed", []))] if line.get("changed") else [])
        slowest = max(slowest, line.get("seconds", 0.0))
        if slow or line["kind"] in {"crash", "hang"} or line.get("wrong") or line.get("lost"):
            bad.append(line)
    return {
        "reader": reader,
        "n": n,
        "kinds": dict(kinds),
        "changed": dict(changed.most_common()),
        "reasons": dict(reasons.most_common()),
        "contradictions": sum(bool(line.get("wrong")) for line in bad),
        "lost_files": sum(line.get("lost", 0) for line in bad),
        "slowest_s": slowest,
        "bad": bad,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", choices=[*MAKERS, "all"], default="all")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--child", action="store_true")
    parser.add_argument("--start", type=int, default=0)
    given = parser.parse_args()
    if given.child:
        serve(given.reader, given.start, given.n, given.seed)
        return
    readers = list(MAKERS) if given.reader == "all" else [given.reader]
    log = given.log.open("w", encoding="utf-8") if given.log else None
    for reader in readers:
        sys.stdout.write(json.dumps(summary(reader, given.n, given.seed, log), indent=1) + "\n")


if __name__ == "__main__":
    main()
