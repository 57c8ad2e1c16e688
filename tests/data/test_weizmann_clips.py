"""Weizmann clips in .npz and .mat files: splits, segments of ragged videos, and what is refused."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from data.weizmann_files import masks, silhouette

from configs import weizmann as config_file
from jdmm.data.tasks import show
from jdmm.data.weizmann.clips import read_clips
from jdmm.data.weizmann.dataset import Weizmann
from jdmm.errors import InputError
from jdmm.experiments import settings

LENGTHS = {
    "daria_bend": 60,
    "daria_run": 50,
    "eli_jack": 10,
    "ido_skip": 27,
    "ido_wave2": 41,
    "lena_walk2": 25,
    "shahar_walk": 30,
}
"""Clip -> frames; the first pixel of a frame counts them."""

PEOPLE = {"test_person": "ido", "validation_person": "shahar"}


def arrays():
    """The arrays of an .npz file of clips."""
    random, found = np.random.default_rng(0), {}
    for name, steps in LENGTHS.items():
        pixels = random.integers(0, 256, (steps, 64, 64, 3), np.uint8)
        pixels[:, 0, 0, 0] = np.arange(steps)
        found[f"{name}_video"] = pixels
        found[f"{name}_mask"] = (pixels[..., 0] > 127).astype(np.uint8)
    return found


@pytest.fixture(scope="module")
def clips():
    return arrays()


@pytest.fixture(scope="module")
def npz(tmp_path_factory, clips):
    path = tmp_path_factory.mktemp("clips") / "clips.npz"
    np.savez(path, **clips)
    return str(path)


@pytest.fixture(scope="module")
def splits(npz):
    return Weizmann(npz, **PEOPLE).load()


def pixels(series, name, row):
    return np.asarray(series.values[name])[row, : series.lengths[row]]


def test_whole_videos_of_the_held_out_persons(splits, clips):
    for split, names in {"test": ["ido_skip", "ido_wave2"], "validation": ["shahar_walk"]}.items():
        series = splits[split].series
        assert series.lengths.tolist() == [LENGTHS[name] for name in names]
        for row, name in enumerate(names):
            steps = LENGTHS[name]
            for modality, key in (("video", "video"), ("silhouette", "mask")):
                found = pixels(series, modality, row)
                assert found.dtype == np.float32
                largest = 255 if key == "video" else 1
                expected = clips[f"{name}_{key}"].reshape(steps, -1) / largest
                np.testing.assert_allclose(found, expected, atol=1e-6)
                observed = np.asarray(series.observed[modality])[row]
                assert observed[:steps].all() and not observed[steps:].any()
                assert not np.asarray(series.values[modality])[row, steps:].any()


def test_training_videos_are_cut_into_segments_of_bytes(splits, clips):
    series = splits["train"].series
    segments = [  # person and action by their place in the alphabet, first frame, length
        (0, 0, 0, 25),  # daria_bend of 60 frames
        (0, 0, 25, 25),
        (0, 0, 35, 25),
        (0, 4, 0, 25),  # daria_run of 50
        (0, 4, 25, 25),
        (2, 1, 0, 10),  # eli_jack of 10
        (5, 7, 0, 25),  # lena_walk2 of 25
    ]
    assert series.batch == len(segments) and series.num_steps == 25
    assert series.lengths.tolist() == [length for *_, length in segments]
    for row, (person, action, first, length) in enumerate(segments):
        np.testing.assert_array_equal(
            pixels(series, "video", row)[:, 0], np.arange(first, first + length)
        )
        assert (pixels(series, "person", row) == person).all()
        assert (pixels(series, "action", row) == action).all()
    assert not np.asarray(series.observed["video"])[5, 10:].any()
    whole = clips["lena_walk2_video"].reshape(25, -1)
    np.testing.assert_array_equal(pixels(series, "video", 6), whole)
    mask = 255 * clips["lena_walk2_mask"].reshape(25, -1)
    np.testing.assert_array_equal(pixels(series, "silhouette", 6), mask)
    kinds = {name: str(values.dtype) for name, values in series.values.items()}
    assert kinds == {
        "video": "uint8",
        "silhouette": "uint8",
        "person": "float32",
        "action": "float32",
    }


@pytest.mark.parametrize(
    "segment, stride, firsts",
    [(25, 10, [0, 10, 20, 30, 35]), (25, 35, [0, 35]), (60, 1, [0]), (20, 20, [0, 20, 40])],
)
def test_segments_overlap_below_their_length_and_end_with_the_video(npz, segment, stride, firsts):
    dataset = Weizmann(npz, ("video", "action"), segment=segment, stride=stride, **PEOPLE)
    series = dataset.load()["train"].series
    bend = np.asarray(series.values["action"])[:, 0, 0] == 0
    assert np.asarray(series.values["video"])[bend][:, 0, 0].tolist() == firsts
    assert set(np.asarray(series.lengths)[bend].tolist()) == {segment}


def test_an_experiment_keeps_the_bytes(npz):
    """Checking the splits and withholding steps of them leaves bytes as they are."""
    config = config_file.get_config("smoke")
    config.data.update(path=npz, **PEOPLE)
    config.data.withheld.uniform = 0.4
    series = settings.build(config).load()["train"].series
    assert series.values["video"].dtype == np.uint8
    shown = np.asarray(series.observed["video"])[0]
    assert shown.any(1).sum() == 15 and not series.values["video"][0][~shown].any()


def test_modalities_in_the_order_of_include(npz):
    dataset = Weizmann(npz, ("action", "silhouette"), normalisation="group", channels=(4, 8))
    action, outline = dataset.modalities
    assert (action.name, action.features, action.likelihood.classes) == ("action", 1, 10)
    assert (outline.name, outline.features, outline.image.shape) == (
        "silhouette",
        64 * 64,
        (64, 64, 1),
    )
    assert (outline.image.channels, outline.image.normalisation) == ((4, 8), "group")
    video = Weizmann(npz, ("video",), likelihood="normal").modalities[0]
    assert type(video.likelihood).__name__ == "Normal" and video.features == 64 * 64 * 3


def test_tasks_show_the_video_alone(npz, splits):
    tasks, series = Weizmann(npz, **PEOPLE).tasks, splits["test"].series
    assert list(tasks) == [
        "reconstruction",
        "drop_half",
        "forward_extrapolation",
        "backward_extrapolation",
    ]
    shown = show(tasks, list(tasks), series, jax.random.key(0))
    for name in ("silhouette", "person", "action"):
        assert not np.asarray(shown.observed[name]).any()
    masks = np.asarray(shown.observed["video"])[..., 0].reshape(4, 2, -1)
    np.testing.assert_array_equal(masks.sum(-1), [[27, 41], [13, 21], [20, 31], [20, 31]])
    assert masks[2, 0, :20].all() and masks[3, 1, 10:41].all()


def refused(dataset, *parts):
    """Loading raises one line that contains `parts`, in their order."""
    with pytest.raises(InputError, match=".*".join(parts)) as caught:
        dataset.load()
    assert "\n" not in str(caught.value)


def test_persons_that_the_data_lack(npz):
    dataset = Weizmann(npz, test_person="moshe", validation_person="ido")
    refused(dataset, npz, "clips of moshe", "got those of daria, eli, ido", "data.test_person")


def changed(**changes):
    """A damage that replaces arrays, or leaves out those that are None."""

    def write(path):
        everything = {**arrays(), **changes}
        np.savez(path, **{name: a for name, a in everything.items() if a is not None})

    return write


def cut(path):
    np.savez_compressed(path, **arrays())
    path.write_bytes(path.read_bytes()[:-5000])


def corrupt(path):
    np.savez_compressed(path, **arrays())
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    path.write_bytes(content)


def single_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


FRAMES = np.zeros((10, 64, 64, 3), np.uint8)


@pytest.mark.parametrize(
    "damage, line",
    [
        (cut, "npz"),
        (corrupt, "npz"),
        (single_array, "npz"),
        (lambda path: path.write_text("text"), "npz"),
        (lambda path: np.savez(path), "<person>_<action>_video, got none"),
        (changed(eli_jack_mask=None), "a silhouette of every clip, got none of eli_jack"),
        (changed(eli_jack_video=None), "got eli_jack_mask"),
        (changed(speed=np.ones(3)), "got speed"),
        (changed(bob_jack_video=FRAMES), "persons .*got 'bob_jack'"),
        (changed(eli_fly_video=FRAMES), "actions .*got 'eli_fly'"),
        (changed(eli_jack_video=FRAMES[:, :32]), "eli_jack_video .*got uint8 .10, 32, 64, 3."),
        (changed(eli_jack_video=FRAMES / 255), "eli_jack_video .*got float64"),
        (changed(eli_jack_video=FRAMES[:9]), "as many silhouettes .*eli_jack, got 10 and 9"),
        (changed(eli_run_video=FRAMES[:0]), "frames in the clip eli_run, got none"),
    ],
)
def test_bad_files_of_clips(tmp_path, damage, line):
    path = tmp_path / "clips.npz"
    damage(path)
    refused(Weizmann(str(path), **PEOPLE), str(path), line)


@pytest.mark.parametrize("size", [0, 100, 0.3, 0.9])
def test_truncated_files_of_silhouettes(tmp_path, size):
    path = tmp_path / "masks.mat"
    masks(path, {name: silhouette(steps) for name, steps in LENGTHS.items()})
    content = path.read_bytes()
    path.write_bytes(content[: int(size if size > 1 else size * len(content))])
    refused(Weizmann(str(path), ("silhouette",), **PEOPLE), str(path), "original file")


@pytest.mark.parametrize(
    "name, mask, line",
    [
        ("eli_jack", np.zeros((144, 180, 0), np.uint8), r"eli_jack.*got uint8 \(144, 180, 0\)"),
        ("eli_jack", np.zeros((64, 64, 5), np.uint8), r"eli_jack.*got uint8 \(64, 64, 5\)"),
        ("eli_jack", np.zeros((144, 180, 5, 2), np.uint8), r"\(144, 180, 5, 2\)"),
        ("eli_jack", "text", "eli_jack.*got"),
        ("bob_jack", silhouette(), "got 'bob_jack'"),
    ],
)
def test_bad_silhouettes(tmp_path, name, mask, line):
    masks(tmp_path / "masks.mat", {name: mask})
    refused(Weizmann(str(tmp_path / "masks.mat"), ("silhouette",)), "masks.mat", line)


@pytest.mark.parametrize("height, width", [(100, 40), (128, 128), (150, 31), (200, 200)])
def test_aligned_silhouettes_are_in_the_middle(tmp_path, height, width):
    """Of any size; larger ones are cut alike at opposite sides."""
    path, steps = tmp_path / "masks.mat", 4
    whole = {name: silhouette(steps) for name in LENGTHS}
    blocks = np.random.default_rng(1).integers(0, 2, (height // 2, width // 2, steps), np.uint8)
    aligned = np.zeros((height, width, steps), np.uint8)
    own = blocks.repeat(2, 0).repeat(2, 1)
    aligned[: own.shape[0], : own.shape[1]] = own
    masks(path, whole, dict.fromkeys(LENGTHS, aligned))
    found = read_clips(path, aligned=True)[0].silhouette
    canvas = np.zeros((400, 400, steps), np.uint8)
    top, left = 200 - height // 2 - height % 2, 200 - width // 2 - width % 2
    canvas[top : top + height, left : left + width] = aligned
    square = canvas[136:264, 136:264].reshape(64, 2, 64, 2, steps).mean((1, 3))
    np.testing.assert_array_equal(found[..., 0], 255 * (np.moveaxis(square, -1, 0) >= 0.5))
    with pytest.raises(InputError, match="masks.mat: .* fields of aligned_masks"):
        masks(path, whole)
        read_clips(path, aligned=True)
    with pytest.raises(InputError, match="classification_masks.mat alone for aligned"):
        read_clips(tmp_path, aligned=True)


def test_the_data_set_is_known_without_importing_readers():
    code = "import sys, jdmm.data.datasets; print({'av', 'tensorflow_datasets'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "set()\n"
