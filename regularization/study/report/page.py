"""The report: one page that works without network, with the answer at its top; and a picture for papers."""

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from regularization.callbacks.curves import save
from regularization.runs import directory
from regularization.study import statistics
from regularization.study.conclusion import ArmSummary, Conclusion, percent, points
from regularization.study.config import Study
from regularization.study.report import figures, image_pairs
from regularization.study.results import Result

REPORT = "report.html"
PICTURE = "figure.png"


@dataclass(frozen=True)
class Cell:
    """A table's cell: what is read, and what it is sorted by."""

    text: str
    value: str | float


@dataclass(frozen=True)
class TableRow:
    """A table's row."""

    cells: list[Cell]
    chosen: bool = False


@dataclass(frozen=True)
class Plot:
    """A figure's heading, and what should be known to read it."""

    title: str
    note: str = ""


def write_report(found: Conclusion, everything: Sequence[Result], study: Study, folder: Path, command: str) -> Path:
    """Writes ``report.html`` and ``figure.png`` into ``folder``; returns the path of the page.

    Args:
        found: The answer.
        everything: All finished runs, those of a search too.
        study: What was asked.
        folder: Where the files go.
        command: What was typed, for the page.
    """
    figures.with_norm(everything)
    save(figures.picture(found, study), folder / PICTURE)
    loader = jinja2.PackageLoader("regularization.study.report", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
    plots, drawn = _plots(found, study)
    page = environment.get_template("report.html.j2").render(
        title=f"{folder.parent.name}/{folder.name}",
        found=found,
        plots=plots,
        # A closing tag inside a text must not close the script.
        figures=f"[{', '.join(figure.to_json() for figure in drawn)}]".replace("</", "<\\/"),
        plotly=get_plotlyjs(),
        command=command,
        speaks_for=_speaks_for(study, found),
        versions=_versions(),
        **_pictures(found),
        **_arms(found, everything),
        **_trials(everything),
    )
    directory.write_text(folder / REPORT, page)
    return folder / REPORT


def _plots(found: Conclusion, study: Study) -> tuple[list[Plot], list[go.Figure]]:
    reading = "Dots are seeds, bars 95% t-intervals over seeds; the dashed line is the recommendation."
    if study.axis:
        first = Plot(f"Validation accuracy against {study.axis}", reading + " 0 stands apart at the left.")
    else:
        first = Plot(
            "Validation accuracy", "" if len(study.vary) == 2 else reading.replace("recommendation", "baseline")
        )
    plots, drawn = [first], [figures.main_figure(found, study)]
    for metric, title, share in (
        ("val_accuracy", "Validation accuracy by epoch", True),
        ("gap_accuracy", "Gap between clean training and validation accuracy", True),
        ("weight_norm", "Norm of all weights", False),
    ):
        figure = figures.over_epochs(found, metric, title, share)
        if figure.data:
            plots.append(Plot(title, "Means over seeds. A click on a name hides an arm, a double click all others."))
            drawn.append(figure)
    return plots, drawn


def _arms(found: Conclusion, everything: Sequence[Result]) -> dict[str, object]:
    columns = ["arm", "validation accuracy", "against the baseline", "p", "by image", "fixed", "broken"]
    columns += [
        "clean accuracy",
        "NLL",
        "ECE",
        "τ in epochs",
        "run length / τ",
        "test accuracy",
        "trials",
        "steps",
        "seconds",
    ]
    rows = []
    for arm in found.arms:
        # What was spent on tuning it counts too.
        spent = [one for one in everything if one.group == arm.results[0].group]
        rows.append(TableRow([*_arm_cells(arm, found), *_costs(spent)], arm is found.chosen))
    note = (
        "Mean over seeds ± half of the 95% interval. Differences are in percentage points; p values are corrected by "
        "Holm's method. By image: difference on the same images, with a bootstrap interval over seeds and images; "
        "fixed and broken count answers. NLL and ECE are the validation images' negative log-likelihood in nats and "
        "expected calibration error. Trials, steps and seconds count what was spent on tuning as well."
    )
    return {"arm_columns": columns, "arm_rows": rows, "arms_note": note}


def _arm_cells(arm: ArmSummary, found: Conclusion) -> list[Cell]:
    spread = "" if math.isnan(arm.ci_half_width) else f" ± {100 * arm.ci_half_width:.2f}"
    decay = sum(one.decay for one in arm.results) / len(arm.results)
    return [
        Cell(arm.name, arm.name),
        Cell(percent(arm.mean) + spread, arm.mean),
        *_compared_cells(arm),
        *_paired_cells(arm, found),
        _share(arm.average("clean_accuracy")),
        *_from_logits(arm),
        Cell(f"{arm.timescale:.3g}", arm.timescale) if arm.timescale else Cell("–", ""),
        Cell(f"{decay:.2g}", decay),
        _tested(arm),
    ]


def _costs(spent: Sequence[Result]) -> list[Cell]:
    seconds = round(sum(one.seconds for one in spent))
    return [_number(len(spent)), _number(sum(one.steps for one in spent)), _number(seconds)]


def _compared_cells(arm: ArmSummary) -> list[Cell]:
    if arm.comparison is None:
        return [Cell("–", "")] * 2
    interval = (
        "" if math.isnan(arm.comparison.low) else f" ({points(arm.comparison.low)} to {points(arm.comparison.high)})"
    )
    p = Cell("–", "") if math.isnan(arm.comparison.p) else Cell(f"{arm.comparison.p:.2g}", arm.comparison.p)
    return [Cell(points(arm.comparison.difference) + interval, arm.comparison.difference), p]


def _tested(arm: ArmSummary) -> Cell:
    tests = [one.test_accuracy for one in arm.results if one.test_accuracy is not None]
    if not tests:
        return Cell("–", "")
    mean = sum(tests) / len(tests)
    return Cell(percent(mean) + (f" ± {100 * statistics.half_width(tests):.2f}" if len(tests) > 1 else ""), mean)


def _number(value: int) -> Cell:
    return Cell(f"{value:,}", value)


def _paired_cells(arm: ArmSummary, found: Conclusion) -> list[Cell]:
    compared = found.baseline is not None and arm is not found.baseline
    paired = image_pairs.pair(arm.results, found.baseline.results) if compared and found.baseline else None
    if paired is None:
        return [Cell("–", "")] * 3
    gain = paired.gain
    text = f"{points(gain.difference)} ({points(gain.low)} to {points(gain.high)})"
    return [
        Cell(text, gain.difference),
        Cell(f"{paired.fixed:,}", paired.fixed),
        Cell(f"{paired.broken:,}", paired.broken),
    ]


def _from_logits(arm: ArmSummary) -> list[Cell]:
    kept = [logits for one in arm.results if (logits := one.logits()) is not None]
    if not kept:
        return [Cell("–", "")] * 2
    nll = sum(statistics.negative_log_likelihood(logits, labels) for logits, labels, _ in kept) / len(kept)
    ece = sum(statistics.calibration_error(logits, labels) for logits, labels, _ in kept) / len(kept)
    return [Cell(f"{nll:.4f}", nll), Cell(f"{ece:.4f}", ece)]


def _share(value: float) -> Cell:
    return Cell("–", "") if math.isnan(value) else Cell(percent(value), value)


def _pictures(found: Conclusion) -> dict[str, object]:
    """The two contact sheets: the chosen arm against the baseline, or the best against the chosen baseline."""
    nothing: dict[str, object] = {"fixed": [], "broken": [], "images_note": ""}
    if found.baseline is None or found.baseline is found.chosen:
        return nothing
    paired = image_pairs.pair(found.chosen.results, found.baseline.results)
    data = image_pairs.data_of(found.chosen.results[0]) if paired is not None else None
    if paired is None or data is None:
        return nothing
    fixed, broken = image_pairs.contact_sheets(paired, data)
    note = (
        f"Validation images that {found.baseline.name} gets wrong and {found.chosen.name} right, the clearest first. "
        f"In all, {paired.fixed:,} answers were fixed and {paired.broken:,} broken over the seeds (McNemar's "
        f"p = {paired.p:.2g}, which speaks for these trained networks alone)."
    )
    return {"fixed": fixed, "broken": broken, "images_note": note}


def _trials(everything: Sequence[Result]) -> dict[str, object]:
    columns = [
        "arm",
        "seed",
        "stage",
        "validation accuracy",
        "validation loss",
        "clean accuracy",
        "gap",
        "test accuracy",
    ]
    columns += ["epochs", "steps", "seconds", "folder"]
    rows = [TableRow(_trial_cells(one)) for one in everything]
    return {"trial_columns": columns, "trial_rows": rows}


def _trial_cells(one: Result) -> list[Cell]:
    loss = one.row.get("val_loss", math.nan)
    return [
        Cell(one.arm, one.arm),
        _number(one.seed),
        Cell(one.stage + (" (stopped early)" if one.pruned else ""), one.stage),
        _share(one.accuracy),
        Cell("–", "") if math.isnan(loss) else Cell(f"{loss:.4f}", loss),
        _share(one.row.get("clean_accuracy", math.nan)),
        _share(one.row.get("gap_accuracy", math.nan)),
        _share(math.nan if one.test_accuracy is None else one.test_accuracy),
        _number(len(one.rows)),
        _number(one.steps),
        Cell(f"{one.seconds:,.1f}", one.seconds),
        Cell(str(one.folder), str(one.folder)),
    ]


def _speaks_for(study: Study, found: Conclusion) -> str:
    if not study.base:
        return (
            "These runs were not planned as one study: the intervals take them for seeds that differ by chance alone."
        )
    what = "initialization and the order of images"
    split = (
        ", and which images are held out: the intervals speak for training anew on other draws of these images"
        if study.resamples
        else "; the same images are held out each time: the intervals speak for training anew on this split alone"
    )
    told = f"The {study.score} epoch's validation accuracy counts, as was fixed beforehand. Seeds redraw {what}{split}."
    tested = " The test images were scored once, with the chosen arm and the baseline, after the choice."
    again = " The arms here were chosen by a search and trained again with fresh seeds." if study.adaptive else ""
    return told + again + (tested if any(one.test_accuracy is not None for one in found.chosen.results) else "")


def _versions() -> str:
    names = ("torch", "torchvision", "lightning", "numpy", "scipy", "plotly")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    return f"Python {platform.python_version()}, {packages}; {platform.machine()}, {platform.system()}."
