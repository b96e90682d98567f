"""The command ``predict``."""

from pathlib import Path

from regularization.runs import safe_loading
from regularization.training.parser import Parser


def make_parser() -> Parser:
    """The options of ``predict``."""
    parser = Parser(prog="regularization predict", description="Classifies images with a trained network.")
    checkpoint = "A checkpoint, or a run folder, whose best checkpoint is used."
    parser.add_argument("--ckpt_path", type=Path, required=True, help=checkpoint)
    images = "Image files, or folders to search for them. Files that are not images are listed and skipped."
    parser.add_argument("--images", type=Path, nargs="+", required=True, help=images)
    output = "The folder to write predictions.csv and predictions.png to."
    parser.add_argument("--output", type=Path, default=Path(), help=output)
    parser.add_argument("--trust", action="store_true", help=safe_loading.HELP)
    return parser


def predict(args: list[str]) -> None:
    """Classifies images; see ``inference.prediction``."""
    options = make_parser().parse_args(args)
    # Imported after parsing, because they import torch.
    import torch

    from regularization.inference.prediction import predict_files
    from regularization.inference.trained_model import load

    model = load(options.ckpt_path.expanduser(), options.trust).to("cuda" if torch.cuda.is_available() else "cpu")
    predict_files(model, options.images, options.output)
