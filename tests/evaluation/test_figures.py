from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from mammo_mlflow.evaluation import figures

NOTE = "phantom data - no medical result"
LONG = "Benign against malignant: InceptionV3, last two layers unfrozen, 10-fold cross-validation over three seeds"
RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 2, 80)
P = np.clip(RANDOM.normal(0.35 + 0.3 * LABELS, 0.2), 0, 1)


def history(epochs: int = 6, tuned: int = 0, validation: bool = True) -> pd.DataFrame:
    falling = np.exp(-np.arange(epochs) / 4)
    frame = pd.DataFrame({"epoch": np.arange(1, epochs + 1), "loss": falling, "accuracy": 1 - falling / 2})
    if validation:
        frame["val_loss"], frame["val_accuracy"] = falling + 0.1, 0.9 - falling / 2
    if tuned:
        frame["stage"] = ["head"] * (epochs - tuned) + ["tuned"] * tuned
    return frame


def folds() -> pd.DataFrame:
    rows = [("VGG16", f, 0.8 + f / 100, 0.9 + f / 100) for f in range(3)] + [("ResNet50", 0, 0.7, np.nan)]
    return pd.DataFrame(rows, columns=["backbone", "fold", "accuracy", "roc_auc"])


def pairs(count: int) -> list:
    patches = RANDOM.integers(0, 60000, (count, 2, 20, 20)).astype(np.uint16)
    return [(f"mass, benign {i}", *pair) for i, pair in enumerate(patches)]


DRAW = {
    "curves of 3": lambda *of: figures.training_curves({f"fold {i}": history() for i in range(3)}, *of),
    "curves of 10": lambda *of: figures.training_curves({f"fold {i}": history(4 + i, 2) for i in range(10)}, *of),
    "curves of 1": lambda *of: figures.training_curves({"final": history(1, validation=False)}, *of),
    "confusion": lambda *of: figures.confusion_matrix(LABELS, P, 0.5, ["mass", "calcification"], *of),
    "roc": lambda *of: figures.roc_curves({f"model {i}": (LABELS, P, None) for i in range(9)}, *of),
    "roc of 3": lambda *of: figures.roc_curves({f"model {i}": (LABELS, P, None) for i in range(3)}, *of),
    "roc of 1": lambda *of: figures.roc_curves({"VGG16": (LABELS, P, np.arange(80) // 2)}, *of),
    "calibration": lambda *of: figures.calibration(LABELS, P, *of),
    "classes": lambda *of: figures.class_distribution({"training": {"mass": 3, "calcification": 5}}, *of),
    "patches": lambda *of: figures.patch_sheet(pairs(4), *of),
    "folds": lambda *of: figures.fold_overview(folds(), *of),
}


def texts(figure: Figure) -> list[str]:
    return [artist.get_text() for artist in figure.findobj(Text) if artist.get_visible() and artist.get_text()]


@pytest.mark.parametrize("name", DRAW)
def test_title_and_note_stand_whole_inside_the_figure_and_over_nothing_else(name):
    figure = DRAW[name](LONG, NOTE)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    written = [text.replace("\n", " ") for text in texts(figure)]
    assert LONG in written
    assert any(text.endswith(NOTE) for text in written)
    renderer = canvas.get_renderer()
    title, note = figure._suptitle.get_window_extent(renderer), figure._supxlabel.get_window_extent(renderer)
    for box in (title, note):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    inside = [axes.get_tightbbox(renderer) for axes in figure.axes if axes.get_visible()]
    inside += [legend.get_window_extent(renderer) for legend in figure.legends]
    for box in inside:
        assert box.y1 <= title.y0 + 1 and box.y0 >= note.y1 - 1
        assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1


@pytest.mark.parametrize("name", DRAW)
def test_a_figure_without_a_note_has_none_of_the_phantoms(name):
    assert not any("phantom" in text for text in texts(DRAW[name]("Short", None)))


def test_save_writes_a_png_at_150_dpi_and_empties_the_figure(tmp_path):
    figure = DRAW["confusion"]("Confusion", NOTE)
    inches = figure.get_size_inches()
    path = figures.save(figure, tmp_path / "new" / "confusion.png")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == pytest.approx(inches * 150, abs=1)
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        assert np.asarray(image.convert("L")).std() > 10
    assert [item.name for item in path.parent.iterdir()] == ["confusion.png"]
    assert not figure.axes


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    target = tmp_path / "figure.png"
    target.write_bytes(b"old")

    def half_written(_self, path, **_options):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", half_written)
    with pytest.raises(OSError, match="disk full"):
        figures.save(Figure(), target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_no_global_state():
    before = dict(matplotlib.rcParams)
    DRAW["roc of 1"]("Title", None)
    assert dict(matplotlib.rcParams) == before


def test_confusion_rows_are_actual_and_columns_predicted():
    labels = [0] * 3 + [1] * 5
    p = [0.1, 0.2, 0.9] + [0.9] * 4 + [0.1]
    figure = figures.confusion_matrix(labels, p, 0.5, ["mass", "calcification"], "Title", None)
    (axes,) = figure.axes
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("actual", "predicted")
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["mass", "calcification"]
    cells = {(round(t.get_position()[1]), round(t.get_position()[0]), t.get_text()) for t in axes.texts}
    assert cells == {
        (0, 0, "2"),
        (0, 0, "66.7 %"),
        (0, 1, "1"),
        (0, 1, "33.3 %"),
        (1, 0, "1"),
        (1, 0, "20.0 %"),
        (1, 1, "4"),
        (1, 1, "80.0 %"),
    }
    assert axes.images[0].origin == "upper"
    assert any("n = 8, threshold 0.5, accuracy 0.750" in text for text in texts(figure))


def test_training_curves_show_each_history_and_where_tuning_begins():
    figure = figures.training_curves({"fold 0": history(6, 2), "fold 1": history(5, 2)}, "Title")
    accuracy, loss = figure.axes
    assert (accuracy.get_ylabel(), loss.get_ylabel()) == ("accuracy", "loss")
    lines = [line for line in accuracy.lines if len(line.get_xdata()) > 2]
    assert len(lines) == 4
    assert lines[0].get_ydata() == pytest.approx(history(6)["accuracy"].to_numpy())
    starts = {line.get_xdata()[0] for line in accuracy.lines if len(line.get_xdata()) == 2}
    assert starts == {3.5, 4.5}
    assert "fine-tuning begins" in texts(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fold 0", "fold 1", "training", "validation"]


def test_missing_validation_is_not_in_the_legend():
    nothing = history().assign(val_loss=np.nan, val_accuracy=np.nan)
    for found in (history(validation=False), nothing):
        figure = figures.training_curves({"final": found}, "Title")
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["training"]


def test_the_mean_of_many_histories_ends_with_the_shortest():
    figure = figures.training_curves({f"fold {i}": history(4 + i) for i in range(6)}, "Title")
    thick = [line for line in figure.axes[0].lines if line.get_linewidth() > 2]
    assert [len(line.get_xdata()) for line in thick] == [4, 4]


def test_epochs_that_begin_again_are_counted_on():
    again = history(4).assign(epoch=[1, 2, 1, 2])
    line = figures.training_curves({"final": again}, "Title").axes[0].lines[0]
    assert line.get_xdata().tolist() == [1, 2, 3, 4]


def test_roc_legend_has_the_interval_and_the_note_its_assumption():
    figure = figures.roc_curves({"VGG16": (LABELS, P, np.arange(80) // 2)}, "Title", NOTE)
    (label,) = (text.get_text() for text in figure.axes[0].get_legend().get_texts())
    assert label.startswith("VGG16: AUC 0.") and "[0." in label
    assert any("patients as clusters; band: pointwise 95 %" in text for text in texts(figure))
    assert len(figure.axes[0].collections) == 1


def test_roc_marks_curves_of_different_assumptions_and_one_class():
    curves = {"a": (LABELS, P, None), "b": (LABELS, P, np.arange(80)), "c": ([1, 1], [0.2, 0.3], None)}
    figure = figures.roc_curves(curves, "Title")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels[0].endswith("(patches)") and labels[1].endswith("(patients)") and "patches of one class" in labels[2]
    assert len(figures.roc_curves({str(i): (LABELS, P, None) for i in range(4)}, "T").axes[0].collections) == 0


def test_calibration_bins_hold_equal_counts_and_the_right_frequencies():
    labels = np.tile([0, 1, 1, 1], 50)
    p = np.repeat([0.2, 0.4, 0.6, 0.8], 50)  # four values: four bins, whatever the quantiles
    figure = figures.calibration(labels, p, "Title")
    points = figure.axes[0].lines[1]
    assert points.get_xdata() == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert points.get_ydata() == pytest.approx([labels[i : i + 50].mean() for i in range(0, 200, 50)])
    segments = figure.axes[0].collections[0].get_segments()
    assert segments[0][:, 1] == pytest.approx([0.604, 0.841], abs=0.02)  # Wilson, 37 of 50
    brier = ((p - labels) ** 2).mean()
    assert any(text.startswith(f"Brier {brier:.3f}") for text in texts(figure))
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == 200


def test_class_distribution_writes_counts_and_shares():
    figure = figures.class_distribution({"training": {"mass": 30, "calcification": 10}, "test": {"mass": 2}}, "Title")
    written = [text.strip() for text in texts(figure)]
    assert {"30 (75 %)", "10 (25 %)", "2 (100 %)", "0 (0 %)", "training: 40 patches", "test: 2 patches"} <= set(written)


def test_a_pair_of_patches_shares_one_window():
    dark, bright = np.full((10, 12), 100, np.uint16), np.full((10, 12), 60000, np.uint16)
    figure = figures.patch_sheet([("mass", dark, bright)], "Title")
    shown = figure.axes[0].images[0]
    assert shown.get_array()[:, :12].max() == 100 and shown.get_array()[:, -12:].min() == 60000
    assert shown.get_clim() == (100, 60000)
    assert [text.get_text() for text in figure.axes[0].texts] == ["baseline", "abnormality"]


def test_fold_overview_writes_mean_and_deviation():
    figure = figures.fold_overview(folds())
    written = texts(figure)
    assert {"0.810 ± 0.010", "0.910 ± 0.010", "0.700", "no value", "VGG16", "ResNet50"} <= set(written)
    dots = figure.axes[0].lines[0]
    assert sorted(dots.get_xdata()) == pytest.approx([0.80, 0.81, 0.82])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.training_curves({}, "T"),
        lambda: figures.roc_curves({}, "T"),
        lambda: figures.class_distribution({}, "T"),
        lambda: figures.patch_sheet([], "T"),
        lambda: figures.patch_sheet([("mass", np.zeros((3, 3)), np.zeros((4, 3)))], "T"),
        lambda: figures.fold_overview(folds().iloc[:0]),
    ],
)
def test_nothing_to_draw_is_refused(draw):
    with pytest.raises(ValueError, match="expected"):
        draw()


@pytest.mark.parametrize("size", range(40, 400, 30))
def test_calibration_draws_perfectly_separated_classes(size: int) -> None:
    labels = np.arange(size) % 2
    figure = figures.calibration(labels, np.where(labels == 1, 0.999, 0.001), "perfect")
    assert figure.axes
