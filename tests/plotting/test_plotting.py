"""Figures: what is drawn where, how large the regions are, degenerate input, and atomic files."""

import itertools
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Ellipse
from matplotlib.text import Text

from jdmm.errors import InputError
from jdmm.plotting import plane, runs, style
from jdmm.plotting import series as plots
from jdmm.plotting.plane import Panel
from jdmm.plotting.storyboard import HIDDEN, Strip, animation, save_animation, storyboard

NUM_STEPS = 100


def _panel(seed: int = 0, num_steps: int = NUM_STEPS, scale: float = 1.0) -> Panel:
    rng = np.random.default_rng(seed)
    angle = np.linspace(0.3, 4 * np.pi, num_steps)
    radius = np.linspace(0.5, 2.5, num_steps)
    truth = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    observed = truth + 0.1 * rng.normal(size=truth.shape)
    shown = rng.random(truth.shape) < 0.5
    sd = np.broadcast_to([0.1, 0.3], truth.shape)
    return Panel(truth, observed, shown, scale * (truth + 0.05), sd, 0.0123)


def _ellipses(axes) -> list[Ellipse]:
    return [patch for patch in axes.patches if isinstance(patch, Ellipse)]


def _texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))


def _draw(figure: Figure, tmp_path) -> np.ndarray:
    style.save(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size < 1_000_000
    return imread(tmp_path / "figure.png")


def test_task_grid_layout(tmp_path):
    tasks = ["reconstruction", "drop_half", "conditional_generation"]
    figure = plane.task_grid({task: [_panel(0), _panel(1)] for task in tasks}, ["best", "worst"])
    assert len(figure.axes) == 6
    assert [axes.get_title() for axes in figure.axes[:3]] == [t.replace("_", " ") for t in tasks]
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == ["best", "worst"]
    assert all("MSE 0.0123" in axes.texts[0].get_text() for axes in figure.axes)
    assert len(figure.legends) == 1 and "95%" in _texts(figure)
    image = _draw(figure, tmp_path)
    assert image.std() > 0.05
    below = figure.legends[0].get_window_extent().y1
    assert all(below <= axes.get_window_extent().y0 for axes in figure.axes)


def test_ellipses_are_joint_regions():
    panel = _panel()
    (axes,) = plane.task_grid({"task": [panel]}, ["row"]).axes
    ellipses = _ellipses(axes)
    assert len(ellipses) == 11
    for ellipse in ellipses:
        step = np.abs(panel.mean - np.asarray(ellipse.get_center())).sum(axis=1).argmin()
        np.testing.assert_allclose(ellipse.get_center(), panel.mean[step])
        np.testing.assert_allclose(ellipse.width, 2 * np.sqrt(5.991) * 0.1, rtol=1e-4)
        np.testing.assert_allclose(ellipse.height, 2 * np.sqrt(5.991) * 0.3, rtol=1e-4)


def test_region_holds_95_percent():
    draws = np.random.default_rng(0).normal(size=(200_000, 2))
    assert np.mean((draws**2).sum(axis=1) < plane.REGION**2) == pytest.approx(0.95, abs=2e-3)
    assert np.mean(np.abs(draws) < style.INTERVAL) == pytest.approx(0.95, abs=2e-3)


def test_points_are_marked_by_what_was_shown():
    panel = _panel()
    (axes,) = plane.task_grid({"task": [panel]}, ["row"]).axes
    lines = {line.get_label(): np.stack(line.get_data(), axis=1) for line in axes.lines}
    x, y = panel.shown.T
    for label, rows in {"x and y shown": x & y, "x only": x & ~y, "y only": ~x & y}.items():
        np.testing.assert_array_equal(lines[label], panel.observed[rows])
    np.testing.assert_array_equal(lines["hidden"], panel.observed[~x & ~y])


@pytest.mark.parametrize("scale", [1e3, 1e30, np.nan, np.inf])
def test_an_exploding_prediction_does_not_squash_the_truth(scale, tmp_path):
    panel = _panel(scale=scale)
    figure = plane.task_grid({"task": [panel._replace(sd=panel.sd * scale)]}, ["row"])
    (axes,) = figure.axes
    extent = np.abs(panel.truth).max()
    for low, high in (axes.get_xlim(), axes.get_ylim()):
        assert -1.3 * extent < low < -extent and extent < high < 1.3 * extent
    assert axes.get_aspect() == 1.0
    _draw(figure, tmp_path)


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_short_curves(num_steps, tmp_path):
    figure = plane.task_grid({"task": [_panel(num_steps=num_steps)]}, ["row"])
    assert 1 <= len(_ellipses(figure.axes[0])) <= 2
    _draw(figure, tmp_path)


def test_ragged_rows_are_refused():
    with pytest.raises(InputError, match="expected 2 panels .* drop_half, got 1"):
        plane.task_grid({"drop_half": [_panel()]}, ["best", "worst"])


def _history(count: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    epochs = np.arange(count)
    falling = 5.0 * np.exp(-epochs / 10) + 0.01
    names = [
        "loss",
        "filter_nll",
        "filter_kl",
        "smoother_nll",
        "smoother_kl",
        "prior_matching",
        "learning_rate",
    ]
    history = {f"train/{name}": (epochs, falling) for name in names}
    history["train/beta"] = (epochs, np.minimum(epochs / 10, 1.0))
    history["validation/loss"] = (epochs[::5], falling[::5] - 2)
    history["validation/score"] = (epochs[::5], falling[::5])
    history["train/gradient_norm"] = (epochs, falling)
    return history


@pytest.mark.parametrize("count", [1, 2, 60])
def test_learning_curves(count, tmp_path):
    figure = runs.learning_curves(_history(count), best_epoch=count - 1)
    titles = [axes.get_title() for axes in figure.axes]
    kinds = ["loss", "negative log-likelihood", "KL divergence", "score", "schedules"]
    assert titles == [*kinds, "gradient"]
    lines = {axes.get_title(): len(axes.lines) for axes in figure.axes}  # one more: best epoch
    assert list(lines.values()) == [3, 3, 4, 2, 3, 2]
    scales = [axes.get_yscale() for axes in figure.axes]
    log = "log" if count == 60 else "linear"
    assert scales == ["linear", log, log, log, "linear", log]  # the validation loss is negative
    assert f"best epoch: {count - 1}" in _texts(figure)
    _draw(figure, tmp_path)


def test_learning_curves_skip_what_is_empty(tmp_path):
    none = (np.arange(0), np.zeros(0))
    history = {"train/loss": none, "validation/score_x": (np.arange(3), np.ones(3))}
    figure = runs.learning_curves(history, None)
    assert [axes.get_title() for axes in figure.axes] == ["score"]
    assert len(figure.axes[0].lines) == 1
    _draw(figure, tmp_path)
    empty = runs.learning_curves({}, None)
    assert not empty.axes
    _draw(empty, tmp_path)


@pytest.mark.parametrize(
    ("series", "time", "latent", "axes"),
    [(1, 1, 3, 4), (1, 20, 1, 1), (3, 20, 2, 3), (40, 20, 5, 6)],
)
def test_latent_trajectories(series, time, latent, axes, tmp_path):
    mean = np.random.default_rng(0).normal(size=(series, time, latent)).cumsum(axis=1)
    mean[0, 15:] = np.nan  # padding
    figure = plots.latent_trajectories(mean, np.ones_like(mean))
    assert len(figure.axes) == axes
    assert len(figure.axes[0].lines) == min(series, 12)
    _draw(figure, tmp_path)


def test_latent_bands_components_and_labels():
    mean = np.zeros((2, 10, 3))
    mean[1, :, 1] = np.arange(10.0)  # all variance in one direction
    figure = plots.latent_trajectories(
        mean, np.full_like(mean, 0.5), np.array([0, 1]), ["clockwise", "anticlockwise"]
    )
    band = np.asarray(figure.axes[0].collections[0].get_paths()[0].vertices)
    assert np.ptp(band[:, 1]) == pytest.approx(2 * 1.96 * 0.5)
    assert "100% of the variance" in figure.axes[-1].get_xlabel()
    component = np.asarray(figure.axes[-1].lines[2].get_xdata())  # of the second series
    np.testing.assert_allclose(np.abs(np.diff(component)), 1.0)
    colors = [line.get_color() for line in figure.axes[0].lines]
    assert colors == list(style.PALETTE[:2])
    assert "anticlockwise" in _texts(figure)


def test_wide_latents_show_the_dimensions_that_vary_most():
    mean = np.random.default_rng(0).normal(size=(4, 30, 256)) * np.arange(256)
    figure = plots.latent_trajectories(mean, np.ones_like(mean))
    shown = [int(axes.get_title().split()[1]) for axes in figure.axes[:-1]]
    assert len(shown) == 15 and shown == sorted(shown) and min(shown) > 128


@pytest.mark.parametrize("series", [1, 7, 50])
def test_samples_grid(series, tmp_path):
    samples = np.stack([_panel(seed).observed for seed in range(series)])
    if series > 1:
        samples[0] *= 1e30
    figure = plane.samples_grid(samples, "spirals")
    assert len(figure.axes) == min(series, 36)
    assert all(2.5 < axes.get_xlim()[1] < 5 for axes in figure.axes)
    _draw(figure, tmp_path)


@pytest.mark.parametrize(("features", "rows"), [(1, 2), (3, 4), (12, 8)])
def test_imputations(features, rows, tmp_path):
    rng = np.random.default_rng(0)
    sizes = {"price ($x)": features, "label": 1}  # the first is not to be read as mathematics
    values, mean = ({n: rng.normal(size=(2, 30, d)) for n, d in sizes.items()} for _ in range(2))
    observed = {name: rng.random(array.shape) < 0.7 for name, array in values.items()}
    shown = {name: mask & (rng.random(mask.shape) < 0.5) for name, mask in observed.items()}
    sd = {name: np.full(array.shape, 0.5) for name, array in values.items()}
    sd["label"][:] = np.nan  # no interval
    figure = plots.imputations(values, observed, shown, mean, sd)
    names = [f"price ($x)[{d}]" for d in range(features)] if features > 1 else ["price ($x)"]
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == [*names, "label"][:rows]
    for place, axes in enumerate(figure.axes[: 2 * features : 2][:rows]):
        line, dots, circles = axes.lines
        given, every = shown["price ($x)"][0, :, place], observed["price ($x)"][0, :, place]
        own = values["price ($x)"][0, :, place]
        np.testing.assert_allclose(line.get_ydata(), mean["price ($x)"][0, :, place])
        np.testing.assert_array_equal(dots.get_ydata(), own[given])
        np.testing.assert_array_equal(circles.get_ydata(), own[every & ~given])
    assert ("first 8 of 13" in _texts(figure)) == (features == 12)
    _draw(figure, tmp_path)


def test_imputations_that_explode_or_observe_nothing(tmp_path):
    values = {"x": np.linspace(0.0, 1.0, 20).reshape(2, 10, 1)}
    observed = {"x": np.arange(10)[None, :, None] < np.array([5, 0])[:, None, None]}
    wild = {"x": np.full((2, 10, 1), 1e30)}
    figure = plots.imputations(values, observed, observed, wild, wild)
    low, high = figure.axes[0].get_ylim()
    assert -1 < low < 0 < 4 / 19 < high < 1
    _draw(figure, tmp_path)
    nothing = {"x": np.zeros((2, 10, 1), bool)}
    _draw(plots.imputations(values, nothing, nothing, values, wild), tmp_path)


@pytest.mark.parametrize("series", [1, 50])
def test_curves_of_samples(series, tmp_path):
    samples = {
        "x": np.random.default_rng(0).normal(size=(series, 20, 2)),
        "y": np.zeros((series, 20, 1)),
    }
    samples["x"][0, 3] = 1e30
    figure = plots.curves(samples, "samples")
    assert [axes.get_ylabel() for axes in figure.axes] == ["x[0]", "x[1]", "y"]
    assert [len(axes.lines) for axes in figure.axes] == [min(series, 12)] * 3
    _draw(figure, tmp_path)


def test_save_replaces_whole_files_only(tmp_path):
    path = tmp_path / "plots" / "curves.png"
    style.save(runs.learning_curves(_history(3), 1), path)
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")

    def fail(target, **_):
        target.write_bytes(b"half a file")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        style.save(SimpleNamespace(savefig=fail), path)  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["curves.png"]


def test_no_pyplot_and_no_change_of_settings():
    code = """
import sys, matplotlib
before = matplotlib.rcParams.copy()
from jdmm.plotting import plane
import numpy as np
import PIL.Image
plane.samples_grid(np.ones((2, 5, 2)), "title")
assert matplotlib.rcParams.copy() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_reliability(tmp_path):
    """Curves are the shares of |pit - 0.5| below half the level."""
    rng = np.random.default_rng(0)
    figure = runs.reliability({"good": rng.random(5000), "too_sure": rng.random(5000) > 0.5})
    diagonal, good, sure = figure.axes[0].lines
    np.testing.assert_allclose(diagonal.get_ydata(), [0, 1])
    np.testing.assert_allclose(good.get_ydata(), good.get_xdata(), atol=0.03)
    np.testing.assert_array_equal(np.asarray(sure.get_ydata())[:-1], 0)
    assert "too sure" in _texts(figure)
    _draw(figure, tmp_path)


@pytest.mark.parametrize("lowest", [2e-6, 0.003, 0.02])
def test_labels_of_a_logarithmic_axis_do_not_overlap(lowest):
    figure = runs.scores({"reconstruction": {"a": {"mean": lowest}, "b": {"mean": 0.09}}}, "")
    figure.canvas.draw()
    (axes,) = figure.axes[:1]
    left, right = axes.get_xlim()
    labels = [
        label.get_window_extent()
        for label in axes.get_xticklabels()
        if left <= label.get_position()[0] <= right
    ]
    assert len(labels) >= 2
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(labels))


def test_scores_as_dots_and_as_curves(tmp_path):
    own = {"a": {"mean": 0.1, "sd": 0.01}, "b": {"mean": 0.4, "sd": 0.0}}
    dots = runs.scores({"drop_half": own, "other": own}, "MSE")
    places = [
        line.get_xydata()[0].tolist() for line in dots.axes[0].lines if line.get_marker() == "o"
    ]
    assert places == [[0.1, 0], [0.4, -1]]
    assert dots.axes[0].get_title() == "drop half" and dots.axes[0].get_xscale() == "log"
    assert [label.get_text() for label in dots.axes[0].get_yticklabels()] == ["a", "b"]
    _draw(dots, tmp_path)
    means = {"a@0.5": 0.2, "a@0": 0.1, "b@0": 0.12, "b@0.5": 0.14}
    own = {name: {"mean": mean, "sd": 0.0} for name, mean in means.items()}
    curves = runs.scores({"drop_half": own}, "MSE")
    first, second = (line for line in curves.axes[0].lines if line.get_marker() == "o")
    np.testing.assert_allclose(first.get_xydata(), [[0, 0.1], [0.5, 0.2]])
    np.testing.assert_allclose(second.get_xydata(), [[0, 0.12], [0.5, 0.14]])
    assert curves.axes[0].get_yscale() == "linear" and "b" in _texts(curves)
    _draw(curves, tmp_path)


def test_storyboards_and_animations_show_every_row(tmp_path):
    frames = np.zeros((6, 8, 10, 1))
    frames[np.arange(6), :, np.arange(6)] = 1.0
    hidden = np.where(np.arange(6)[:, None, None, None] < 3, frames, np.nan)
    captions = [f"walk {t}" for t in range(6)]
    strips = [
        Strip("one", {"truth": frames, "shown": hidden}, captions, [True] * 5 + [False]),
        Strip("two", {"truth": frames[:4]}),
    ]
    figure = storyboard(strips)
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["truth", "shown"]
    assert first.get_xticklabels()[5].get_text() == "5\nwalk 5"
    colours = [label.get_color() for label in first.get_xticklabels()]
    assert colours[0] != colours[5]
    assert second.get_title(loc="left") == "two"
    picture = first.get_images()[0].get_array()
    assert picture.shape == (2 * 10, 6 * 12, 3)  # two pixels between the images
    np.testing.assert_allclose(picture[0, 5 * 12 + 5], 1.0)
    np.testing.assert_allclose(picture[10, 5 * 12], HIDDEN)

    moving = animation(strips, scale=1)
    assert moving.shape == (6, 2 * 10, 2 * 12, 3)
    assert moving[5, 0, 5].tolist() == [255] * 3 and moving[5, 10, 3].tolist() == [255] * 3
    save_animation(moving, tmp_path / "figures" / "a.gif")
    with PIL.Image.open(tmp_path / "figures" / "a.gif") as image:
        assert image.n_frames == 6 and image.size == (24, 20)
