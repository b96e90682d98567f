"""The report page: one HTML file that works offline, with the conclusion at its top; and a figure for papers."""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import jinja2
import plotly.graph_objects as go
from matplotlib import rc_context
from plotly.offline import get_plotlyjs

from regularization.callbacks.curves import save
from regularization.models.objective import ACCURACY, Objective
from regularization.runs import directory
from regularization.study.analysis import statistics
from regularization.study.analysis.conclusion import Conclusion
from regularization.study.config import Study
from regularization.study.report import effects, figures, image_pairs, paper, tables
from regularization.study.report.axes import axis_name
from regularization.study.report.card import answer_card
from regularization.study.report.image_pairs import PairedImages, Thumbnail
from regularization.study.results import Result

REPORT = "report.html"
# The main figure as an image, and as vector graphics for papers.
FIGURES = ("figure.png", "figure.pdf", "figure.svg")

TABLE_NOTE = (
    "Accuracies are means over seeds with their 95% intervals. Differences are {differences}, between "
    "runs with the same seed, so that they may deviate from the differences of the means; "
    "their intervals and p are adjusted for the number of comparisons. An asterisk marks a mean that "
    "differs from the baseline's, tested in the same way. The difference by image compares predictions on the same "
    "images, with a bootstrap interval that resamples both seeds and images. Over all seeds, “corrected” counts the "
    "predictions that are correct in this arm and wrong in the baseline, and “newly wrong” the opposite. NLL is the "
    "negative log-likelihood in nats and ECE the expected calibration error, both on the validation images. Trials, "
    "steps and training time include tuning, and the training time is a sum over trials."
)


NORMS_NOTE = (
    "One row per layer, from the input to the output. Each number is the norm ‖w‖ of its weights, the mean over seeds; "
    "the color is that norm divided by the norm in the first column."
)


@dataclass(frozen=True)
class Plot:
    """A figure of the page, with its heading and a note on how to read it; small ones stand side by side."""

    figure: go.Figure
    title: str
    note: str = ""
    small: bool = False


@dataclass(frozen=True)
class ContactSheets:
    """The images that the recommended arm fixed and broke, compared with the baseline, and a note on them."""

    fixed: list[Thumbnail]
    broken: list[Thumbnail]
    note: str


def write_report(conclusion: Conclusion, results: Sequence[Result], study: Study, folder: Path, command: str) -> Path:
    """Writes ``report.html``, and its main figure as ``figure.png``, ``figure.pdf`` and ``figure.svg``.

    Args:
        conclusion: The conclusion of the study.
        results: All finished runs, those of a search included.
        study: The study's config.
        folder: The folder to write to.
        command: The command that ran the study, shown on the page.

    Returns:
        The path of the page.
    """
    figures.add_weight_norm(results)
    _save_figures(conclusion, study, folder)
    pairs = _pair_with_baseline(conclusion)
    plots = _plots(conclusion, study)
    page = _template().render(
        title=f"{folder.parent.name}/{folder.name}",
        conclusion=conclusion,
        card=answer_card(conclusion, results, study),
        plots=plots,
        # A closing tag inside of a string must not close the script.
        figures=f"[{', '.join(plot.figure.to_json() for plot in plots)}]".replace("</", "<\\/"),
        plotly=get_plotlyjs(),
        arm_rows=tables.arm_rows(conclusion, results, pairs),
        hidden_columns=tables.hidden_columns(conclusion.chosen.objective),
        table_note=TABLE_NOTE.format(differences=_unit(conclusion.chosen.objective)),
        sheets=_contact_sheets(conclusion, pairs),
        hidden_of_trials=tables.HIDDEN_OF_TRIALS,
        trial_rows=tables.trial_rows(results, conclusion.chosen.objective),
        command=command,
        method=_method(study, conclusion),
        versions=_versions(),
    )
    directory.write_text(folder / REPORT, page)
    return folder / REPORT


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("regularization.study.report", ".")
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True).get_template("report.html.j2")


def _unit(objective: Objective) -> str:
    """The unit of differences from the baseline, and the meaning of their sign."""
    if objective == ACCURACY:
        return "in percentage points"
    kind = "percentage points" if objective.is_fraction else "the unit"
    return f"in {kind} of {objective.with_article}, positive where the arm is better"


def _save_figures(conclusion: Conclusion, study: Study, folder: Path) -> None:
    # Journals require embedded fonts (type 42) instead of drawings of the letters.
    with rc_context({"pdf.fonttype": 42}):
        for name in FIGURES:
            save(paper.paper_figure(conclusion, study), folder / name)


def _pair_with_baseline(conclusion: Conclusion) -> dict[str, PairedImages | None]:
    baseline = conclusion.baseline
    if baseline is None:
        return {}
    others = [arm for arm in conclusion.arms if arm is not baseline]
    return {arm.name: image_pairs.compare_images(arm.results, baseline.results) for arm in others}


def _plots(conclusion: Conclusion, study: Study) -> list[Plot]:
    name = conclusion.chosen.objective.title
    title = f"{name} against {axis_name(study.axis)}" if study.axis else name
    line = "recommended value. λ = 0 is drawn at the left end" if study.axis else "baseline"
    note = (
        f"Each dot is one trial; bars are 95% intervals of the mean, which are wide with few seeds. The dashed line "
        f"marks the {line}. Runs with the same seed are compared, so a gain can be clear although the bars overlap. "
        "The interval and the p value of a gain are adjusted for the number of comparisons."
    )
    if conclusion.curve is not None and study.axis:
        note += (
            " The smooth curve leaves out values far below the others. The band is its 95% interval, which is usually "
            "narrower than the bars because the curve uses all trials."
        )
    plots = [Plot(figures.main_figure(conclusion, study), title, "" if len(study.vary) == 2 else note)]
    side_by_side = len(study.vary) != 2
    plots += [Plot(figure, title, small=side_by_side) for title, figure in effects.effect_figures(conclusion, study)]
    if study.axis and (norms := effects.layer_norms(conclusion, study.axis)) is not None:
        plots.append(Plot(norms, f"Norm of each layer by {axis_name(study.axis)}", NORMS_NOTE))
    return plots + _epoch_plots(conclusion)


def _epoch_plots(conclusion: Conclusion) -> list[Plot]:
    """Figures of metrics by epoch; metrics that were measured in a single epoch are in the table."""
    plots = []
    shown = {
        "val_accuracy": ("Validation accuracy by epoch", "validation accuracy", True),
        "gap_accuracy": ("Clean training accuracy minus validation accuracy by epoch", "gap", True),
        "weight_norm": ("Norm of all weights by epoch", "‖w‖", False),
    }
    it = conclusion.chosen.objective
    shown = {it.metric: (f"{it.title} by epoch", it.name, it.is_fraction)} | shown
    for metric, (title, axis, percent) in shown.items():
        figure = figures.epoch_curves(conclusion, metric, axis, percent)
        if any(len(trace.x) > 1 for trace in figure.data):
            note = "Means over seeds. Click an arm in the legend to hide it; double-click it to hide all others."
            plots.append(Plot(figure, title, note))
    return plots


def _contact_sheets(conclusion: Conclusion, pairs: Mapping[str, PairedImages | None]) -> ContactSheets | None:
    """The recommended arm against the baseline; None if they are the same, or if logits or images are missing."""
    paired = pairs.get(conclusion.chosen.name)
    if paired is None or conclusion.baseline is None:
        return None
    data = image_pairs.load_data(conclusion.chosen.results[0])
    if data is None:
        return None
    note = (
        f"Validation images that {conclusion.chosen.name} classifies correctly with more seeds than "
        f"{conclusion.baseline.name}, with the most frequent prediction of {conclusion.baseline.name}. They are "
        "ordered by the difference between the shares of correct seeds, among the seeds in which the image is used for "
        f"validation. Over all seeds, {paired.fixed:,} predictions became correct and {paired.broken:,} wrong."
    )
    return ContactSheets(*image_pairs.contact_sheets(paired, data), note)


def _method(study: Study, conclusion: Conclusion) -> str:
    """How arms were compared, and what the intervals are valid for."""
    if not study.base:
        return (
            "These runs were not planned as one study. The intervals assume that the runs of an arm differ by chance "
            "alone, and that runs with the same seed share what the seed decides."
        )
    how, objective = "within seeds" if study.paired else "between seeds", conclusion.chosen.objective
    sentences = [
        f"Arms are compared {how} by {objective.with_article} of the {study.score} epoch, with "
        "simultaneous 95% intervals (Dunnett's) of a model with effects of arms and seeds. Differences below "
        f"{objective.format_resolution(study.resolution)} (the resolution) do not matter."
    ]
    if study.until == "decided":
        sentences.append(
            "Results were analyzed several times while seeds were added until the study was decided. The error rate of "
            "5% is divided among these analyses."
        )
    sentences += [_validation_share(conclusion), _validity(study)]
    if study.adaptive and conclusion.chosen.results[0].stage == "final":
        sentences.append("These arms were chosen by a search and trained again with fresh seeds.")
    if any(result.test_accuracy is not None for result in conclusion.chosen.results):
        sentences.append("The test images were evaluated once, after the choice, with the chosen arm and the baseline.")
    return " ".join(sentence for sentence in sentences if sentence)


def _validity(study: Study) -> str:
    if study.resamples:
        return (
            "Each seed draws a new initialization, a new order of images and a new set of validation images: the "
            "intervals are valid for repeated training on other splits of these images."
        )
    return (
        "Each seed draws a new initialization and a new order of images, but uses the same validation images: the "
        "intervals are valid for repeated training on this split only."
    )


def _validation_share(conclusion: Conclusion) -> str:
    """How much of the spread of the accuracy between seeds comes from the size of the validation set."""
    arm = conclusion.baseline or conclusion.chosen
    logits = arm.results[0].logits()
    if logits is None:
        return ""
    images = len(logits[1])
    if arm.objective != ACCURACY:
        return f"Each trial is validated on {images:,} images."
    share = statistics.image_share(arm.accuracies, images)
    if math.isnan(share):
        return ""
    return (
        f"Each trial is validated on {images:,} images; the size of this set accounts for about {share:.0%} of the "
        f"variance between the seeds of {arm.name}."
    )


def _versions() -> str:
    names = ("torch", "torchvision", "lightning", "numpy", "scipy", "plotly")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    return f"Python {platform.python_version()}, {packages}; {platform.machine()}, {platform.system()}."
