"""The report of ``medssl doctor`` as one page, and as tables of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from medssl.pages import page as html
from medssl.pages.picture import data_uri
from medssl.stages._doctor_samples import Sampled
from medssl.stages._doctor_verdict import gib

_COLOUR = {"good": "green", "warn": "yellow", "bad": "red"}
_COLUMNS = ("modality", "kind", "format", "role", "vendor", "body_part")


def as_page(report: dict[str, Any], pictures: Sequence[Sampled]) -> str:
    """The whole HTML page."""
    sections = [
        html.section(
            "Verdict", html.verdicts([(v["level"], v["text"]) for v in report["verdict"]])
        ),
        html.section("At a glance", html.tiles(_tiles(report))),
        html.section(
            "A look at some records", html.gallery([_picture(p) for p in pictures]), note=_LOOK_NOTE
        ),
        html.section("What is there", html.grid(*_bars(report)), note="Numbers of records."),
        html.section("What an index would quarantine", _quarantine(report["quarantine"])),
        html.section("Transfer syntaxes", _syntaxes(report["syntaxes"]), note=_SYNTAX_NOTE),
        html.section("Where identifiers may stand", html.table(*_risks(report)), note=_RISK_NOTE),
        html.section(
            "Structure and machine",
            html.grid(
                html.table(*_structure(report), title="series, labels, copies"),
                html.table(*_machine(report), title="this machine"),
                wide=True,
            ),
            note=_PLAN_NOTE,
        ),
    ]
    subtitle = (
        f"{_files(report):,} files, {gib(report['files']['bytes'])}, "
        f"{report['records']['total']:,} records of {report['records']['patients']:,} patients"
    )
    footer = f"medssl {report['medssl']}. No path and no identifier is on this page."
    return html.page("Archive report", subtitle, sections, footer)


def show(report: dict[str, Any], console: Console) -> None:
    """The report on a terminal."""
    console.print(Group(*_terminal(report)))


_SYNTAX_NOTE = (
    "The proof is a record decoded in a separate process with limits. Not tried: every file of the "
    "syntax is refused, or a copy of another file."
)
_RISK_NOTE = (
    "Counts only. A heuristic over spelling and strokes: a hit is no proof, and none is no proof "
    "of the opposite."
)
_PLAN_NOTE = (
    "The store holds volumes with 2 bytes per voxel at their own spacing; compression is not "
    "counted on. Times follow from this machine's speed on the records decoded here."
)
_LOOK_NOTE = (
    "Middle slices and frames, spread over modalities. Ultrasound is shown inside its sector only; "
    "pictures that may hold a name or a face are not shown. The numbers are random for each report."
)


def _files(report: dict[str, Any]) -> int:
    files = report["files"]
    return int(files["record"] + files["refused"] + sum(files["ignored"].values()))


def _tiles(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    files, machine, plan = report["files"], report["machine"], report["plan"]
    ignored = sum(files["ignored"].values())
    kinds = ", ".join(list(files["ignored"])[:3])
    free = machine["disk_free_bytes"]
    return [
        (f"{report['records']['total']:,}", "records", f"from {files['record']:,} files"),
        (f"{report['records']['patients']:,}", "patients", ""),
        (f"{files['refused']:,}", "imaging files not used", "reasons below"),
        (f"{ignored:,}", "files that are no imaging", kinds),
        (gib(plan["store_bytes"]), "store, at most", "" if free is None else f"{gib(free)} free"),
    ]


def _bars(report: dict[str, Any]) -> list[str]:
    records = report["records"]
    return [
        *(html.bars(name.replace("_", " "), list(records[name].items())[:8]) for name in _COLUMNS),
        html.bars("quality flags", list(report["flags"].items())[:8]),
        html.bars("no imaging, by kind", list(report["files"]["ignored"].items())[:8]),
    ]


def _quarantine(rows: list[dict[str, Any]]) -> str:
    cells = [[f"`{r['reason']}`", r["files"], r["items"], r["what"], r["fix"]] for r in rows]
    return html.table(["reason", "files", "items", "what it means", "what to do"], cells)


def _syntaxes(rows: list[dict[str, Any]]) -> str:
    cells = [
        [row["name"], f"`{row['uid']}`", row["files"], row["decoded"], f"`{row['reason']}`"]
        for row in rows
    ]
    return html.table(["name", "UID", "files", "decodes here", "reason"], cells)


def _structure(report: dict[str, Any]) -> tuple[list[str], list[list[html.Cell]]]:
    splits, orphans, copies = report["splits"], report["orphans"], report["duplicates"]
    rows: list[list[html.Cell]] = [
        ["series", splits["series"]],
        ["series with more than one record", splits["split"]],
        *([f"told apart by {tag}", n] for tag, n in splits["by_tag"].items()),
        ["labels", orphans["labels"]],
        ["labels without an image here", orphans["labels_without_image"]],
        ["headers without their pixel file", orphans["headers_without_pixels"]],
        ["records that copy another one's objects", copies["records"]],
        ["files that copy another one", copies["files"]],
    ]
    return ["what", "number"], rows


def _risks(report: dict[str, Any]) -> tuple[list[str], list[list[html.Cell]]]:
    risk = report["identity"]
    looked, seen = f"of {risk['headers_looked_at']:,} headers", "files and folders"
    rows: list[list[html.Cell]] = [
        *([f"`{name}` has a value", n, looked] for name, n in risk["header_fields"].items()),
        *([f"named like a {kind}", n, seen] for kind, n in sorted(risk["names"].items())),
        ["burned-in text found", risk["text_found"], f"of {risk['text_looked_at']:,} pictures"],
        ["burned-in text possible by the header", risk["burned_in_possible"], "records"],
        ["secondary captures", risk["secondary_captures"], "records"],
        ["ultrasound", risk["ultrasound"], "records"],
        ["ultrasound without stated regions", risk["ultrasound_without_regions"], "records"],
    ]
    plain = [[str(row[0]).replace("`", ""), *row[1:]] for row in rows]
    return ["what", "number", "of"], plain


def _machine(report: dict[str, Any]) -> tuple[list[str], list[list[html.Cell]]]:
    machine, plan = report["machine"], report["plan"]
    gpus = ", ".join(f"{g['name']} ({gib(g['memory_bytes'])})" for g in machine["gpus"])
    rate = plan["decode_bytes_per_s"]
    store_s = plan["store_s"]
    rows: list[list[html.Cell]] = [
        ["CPUs", str(machine["cpus"])],
        ["memory", gib(machine["memory_bytes"])],
        ["shared memory free", _size(machine["shared_memory_bytes"])],
        ["disk free for results", _size(machine["disk_free_bytes"])],
        ["GPUs", gpus or "none seen"],
        ["reading all headers took", f"{plan['headers_s']:,} s"],
        ["decoding, one process", f"{gib(rate)} per second" if rate else "not measured"],
        ["preparing the store, about", f"{store_s / 60:,.0f} min" if store_s else "not measured"],
    ]
    return ["what", "value"], rows


def _size(size: int | None) -> str:
    return "unknown" if size is None else gib(size)


def _picture(one: Sampled) -> html.Picture:
    record = one.record
    shape = " x ".join(map(str, record.shape[1:]))
    uri = "" if one.picture_CHW is None else data_uri(one.picture_CHW)
    return html.Picture(
        title=f"{record.modality} {record.kind}",
        caption=f"{shape} · {record.record_id}",
        data_uri=uri,
        hidden=f"{one.hidden} ({one.reason})" if one.reason else one.hidden,
    )


def _terminal(report: dict[str, Any]) -> list[RenderableType]:
    files, records = report["files"], report["records"]
    lines = [
        (
            f"[bold]{_files(report):,} files[/bold], {gib(files['bytes'])}: {files['record']:,} in "
            f"{records['total']:,} records of {records['patients']:,} patients, "
            f"{files['refused']:,} not used, {sum(files['ignored'].values()):,} no imaging"
        ),
        *(f"[{_COLOUR[v['level']]}]●[/] {escape(v['text'])}" for v in report["verdict"]),
        "",
    ]
    counts = Table("column", "records", title="what is there", title_justify="left")
    for name in _COLUMNS:
        values = ", ".join(f"{key} {n:,}" for key, n in list(records[name].items())[:8])
        counts.add_row(name.replace("_", " "), escape(values))
    blocks: list[RenderableType] = ["\n".join(lines), counts]
    if report["quarantine"]:
        bad = Table("reason", "files", "what it means", "what to do", title="quarantine preview")
        for row in report["quarantine"]:
            bad.add_row(escape(row["reason"]), f"{row['files']:,}", row["what"], row["fix"])
        blocks.append(bad)
    if report["syntaxes"]:
        codes = Table("transfer syntax", "files", "decodes here", title="DICOM codings")
        for row in report["syntaxes"]:
            codes.add_row(row["name"], f"{row['files']:,}", f"{row['decoded']} {row['reason']}")
        blocks.append(codes)
    for title, (header, rows) in (
        ("series, geometry, labels, copies", _structure(report)),
        ("where identifiers may stand", _risks(report)),
        ("this machine", _machine(report)),
    ):
        table = Table(*header, title=title, title_justify="left")
        for cells in rows:
            table.add_row(*(escape(str(cell)) for cell in cells))
        blocks.append(table)
    return blocks
