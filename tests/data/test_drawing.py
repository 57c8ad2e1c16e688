"""The figures and animations that every data set with images has, and the columns of its report."""

from dataclasses import dataclass

import numpy as np

from jdmm import Bernoulli, Categorical, Modality, series_from_arrays
from jdmm.data.base import Dataset, Outcome, Split
from jdmm.experiments import report
from jdmm.networks import Image

STEPS = np.arange(12)


@dataclass(frozen=True)
class Videos(Dataset):
    modalities = (
        Modality("video", image=Image((4, 4, 3), (1,))),
        Modality("mask", likelihood=Bernoulli(), image=Image((4, 4, 1), (1,))),
        Modality("speed", features=2),
        Modality("action", likelihood=Categorical(2)),
    )

    def class_name(self, modality, number):
        return f"{modality} {('run', 'walk')[number]}"

    def load(self):
        raise NotImplementedError


@dataclass(frozen=True)
class Silent(Videos):
    modalities = Videos.modalities[:1]


def split():
    values = {m.name: np.full((4, 12, m.features), 0.25) for m in Videos.modalities}
    values["action"] = np.array([0.0, 1.0, 1.0, 0.0])[:, None, None] * np.ones((1, 12, 1))
    values["action"][1] = np.nan
    return Split(series_from_arrays(values, lengths=np.array([12, 5, 1, 12])))


def outcome(series):
    """Half of the video and nothing of the masks is shown; class 1 is predicted from step 6 on."""
    half = STEPS[None, :, None] % 2 == 0
    shown = series.hide({"video": half, "mask": half & False, "speed": half, "action": half})
    later = (STEPS >= 6)[None, :, None] * np.ones((4, 1, 1))
    sd = {name: np.ones_like(series.values[name]) for name in ("video", "mask", "speed")}
    probabilities = {"action": np.where(later[..., None] > 0, [0.2, 0.8], [0.9, 0.1])}
    states = np.zeros((4, 12, 0))
    return Outcome(shown, {**series.values, "action": later}, sd, states, states, probabilities)


def test_storyboards_of_images_and_curves_of_the_other_numbers():
    own = split()
    figures = Videos().draw(own, {"task": outcome(own.series)})
    assert list(figures) == ["task", "task_curves"]
    panels = figures["task"].axes
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == ["action action run", "series 1", "action action walk"]
    rows = ["video", "video shown", "video predicted", "mask", "mask predicted"]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == rows
    labels = panels[0].get_xticklabels()
    assert labels[0].get_text() == "step 0\naction run 0.90"
    assert labels[-1].get_text() == "11\naction walk 0.80"
    colors = [[label.get_color() for label in axes.get_xticklabels()] for axes in panels]
    assert len(set(colors[0])) == 2 and set(colors[1]) == {"black"}  # no label is known there
    assert [len(each) for each in colors] == [10, 5, 1]
    drawn = figures["task_curves"].axes
    assert [axes.get_ylabel() for axes in drawn if axes.get_ylabel()] == ["speed[0]", "speed[1]"]


def test_animations_of_images():
    own = split()
    frames = Videos().animate(own, {"task": outcome(own.series)})["task_video"]
    assert frames.dtype == np.uint8 and len(frames) == 12
    assert (frames[0, :4, :4] == frames[0, :4, 6:10]).all()  # step 0 is shown
    assert (frames[1, :4, 6:10] != frames[1, :4, :4]).all()  # step 1 is not
    assert Silent().animate(own, {"task": outcome(own.series)})["task_video"].shape[0] == 12


def test_samples_of_images():
    values = {m.name: np.full((5, 12, m.features), 0.5) for m in Videos.modalities}
    panels = Videos().draw_samples(values, "Samples").axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        "Samples, 0",
        "Samples, 1",
        "Samples, 2",
    ]


def test_scores_of_modalities_have_columns():
    tasks = {
        "task": {
            "ssim_video": {"mean": 0.9, "sd": 0.1},
            "pixel_mse_video": {"mean": 0.01, "sd": 0.001},
            "accuracy": 0.5,
            "accuracy_action": 0.75,
            "series_accuracy_action": 1.0,
            "nll": 1.0,
        }
    }
    heading, _, row = report.table({"tasks": tasks})
    assert [cell.strip() for cell in heading.split("|")[1:-1]] == [
        "task",
        "SSIM, video",
        "pixel MSE, video",
        "accuracy, action",
        "accuracy by series, action",
        "accuracy",
        "NLL",
    ]
    assert "| 0.900 (0.100) | 0.0100 (0.0010) | 0.750 | 1.000 | 0.500 | 1.000 |" in row
    columns = report.columns([{"tasks": tasks}])
    assert columns["ssim_video"].meaning == "structural similarity of video, 1 for equal images"
