"""Storyboards and animations of videos of a known colour per step."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from jdmm.plotting import storyboard, style
from jdmm.plotting.storyboard import FRAMES, GAP, HIDDEN, Strip
from jdmm.plotting.style import GREEN, VERMILLION


def video(num_steps, size=(4, 6), channels=3):
    """Brighter from step to step: step t has the value t / 100."""
    return np.full((num_steps, *size, channels), np.arange(num_steps)[:, None, None, None] / 100)


def strip(num_steps=40, **options):
    shown = video(num_steps)
    shown[::2] = np.nan
    return Strip("a video", {"truth": video(num_steps), "shown": shown}, **options)


def test_storyboard_has_evenly_spaced_frames_and_coloured_captions(tmp_path):
    correct = [None if step == 13 else step < 20 for step in range(40)]
    first = strip(captions=[f"class {step}" for step in range(40)], correct=correct)
    figure = storyboard.storyboard([first, strip(3)])
    style.save(figure, tmp_path / "story.png")
    axes, short = figure.axes
    labels = axes.get_xticklabels()
    steps = [0, 4, 9, 13, 17, 22, 26, 30, 35, 39]
    assert [label.get_text().split()[-1] for label in labels] == [str(step) for step in steps]
    colors = [to_hex(label.get_color()).upper() for label in labels]
    assert colors == [GREEN] * 3 + ["#000000"] + [GREEN] + [VERMILLION] * 5
    assert [label.get_text() for label in axes.get_yticklabels()] == ["truth", "shown"]
    pixels = np.asarray(axes.images[0].get_array())
    columns = [(6 + GAP) * place for place in range(FRAMES)]
    np.testing.assert_allclose(pixels[0, columns, 0], np.array(steps) / 100)
    shown = [HIDDEN if step % 2 == 0 else step / 100 for step in steps]
    np.testing.assert_allclose(pixels[4 + GAP, columns, 0], shown)
    assert [label.get_text() for label in short.get_xticklabels()] == ["step 0", "1", "2"]


def test_images_of_any_size_and_number_of_channels():
    rows = {
        "large": video(3),
        "small": video(3, (2, 2), 1) + 0.5,
        "two": np.concatenate([video(3, channels=1), 1 - video(3, channels=1)], -1),
        "beyond": video(3) + 5,
    }
    frames = storyboard.animation([Strip("", rows)], scale=1)
    assert frames.shape == (3, 4 + GAP, 4 * (6 + GAP), 3)
    whole = [frames[2, :4, start : start + 6] for start in range(0, 32, 6 + GAP)]
    for part, value in zip(whole, (0.02, 0.52, 0.5, 1.0), strict=True):
        np.testing.assert_allclose(part, 255 * value, atol=0.51)
    storyboard.storyboard([Strip("", rows)])


@pytest.mark.parametrize("steps", [1, 12])
def test_an_animation_is_read_back_by_pillow(steps, tmp_path):
    """The shorter video keeps its last frame."""
    frames = storyboard.animation([strip(steps), strip(max(steps // 2, 1))], scale=3)
    assert frames.dtype == np.uint8
    assert frames.shape == (steps, 3 * 2 * (4 + GAP), 3 * 2 * (6 + GAP), 3)
    path = tmp_path / "figures" / "video.gif"
    storyboard.save_animation(frames, path, per_second=20)
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == steps
        assert image.info.get("duration", 50) == 50
        for step in range(steps):
            image.seek(step)
            found = np.asarray(image.convert("RGB"), int)
            np.testing.assert_allclose(found, frames[step], atol=4)
    last = (steps // 2 or 1) - 1
    np.testing.assert_array_equal(frames[-1, 3 * (4 + GAP), 0], round(255 * last / 100))
    assert [file.name for file in path.parent.iterdir()] == ["video.gif"]
