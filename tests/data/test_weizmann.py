"""The Weizmann actions from files of the original form, made by the tests."""

import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from data import weizmann_files

from jdmm import InputError
from jdmm.data.weizmann.clips import ACTIONS, PERSONS, read_clips
from jdmm.data.weizmann.dataset import Weizmann

HEIGHT, WIDTH = 144, 180


def rectangle(frames: int, step: int = 4) -> np.ndarray:
    """Silhouettes ``(time, 144, 180)`` of a rectangle that moves to the right."""
    found = np.zeros((frames, HEIGHT, WIDTH), np.uint8)
    for time in range(frames):
        found[time, 40:100, 40 + step * time : 60 + step * time] = 1
    return found


def write_video(path: Path, silhouettes: np.ndarray) -> None:
    """A video, red where the silhouettes are and grey elsewhere."""
    pixels = np.full((*silhouettes.shape, 3), 100, np.uint8)
    pixels[silhouettes > 0] = (200, 20, 20)
    path.write_bytes(weizmann_files.avi(pixels, silhouettes.shape[1:]))


def write_masks(path: Path, masks: dict[str, np.ndarray]) -> None:
    """The file of silhouettes from name -> ``(time, 144, 180)``."""
    weizmann_files.masks(path, {name: np.moveaxis(own, 0, -1) for name, own in masks.items()})


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Three persons, one of whom walks twice; the archives with and without folders inside."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "archives"
    place.mkdir()
    masks = {}
    for action, persons in {"walk": ("ido", "lena", "eli"), "bend": ("ido", "eli")}.items():
        with zipfile.ZipFile(place / f"{action}.zip", "w") as archive:
            for number, person in enumerate(persons):
                for repeat in ("1", "2") if (person, action) == ("lena", "walk") else ("",):
                    name = f"{person}_{action}{repeat}"
                    masks[name] = rectangle(5 + number)
                    write_video(tmp_path / f"{name}.avi", masks[name])
                    inside = f"{action}/{name}.avi" if action == "walk" else f"{name}.avi"
                    archive.write(tmp_path / f"{name}.avi", inside)
    write_masks(place / "classification_masks.mat", masks)
    return place


def test_archives_give_aligned_videos_and_silhouettes(folder):
    clips = read_clips(folder)
    assert [clip.name for clip in clips] == [
        "eli_bend",
        "eli_walk",
        "ido_bend",
        "ido_walk",
        "lena_walk1",
        "lena_walk2",
    ]
    assert [len(clip.video) for clip in clips] == [6, 7, 5, 5, 6, 6]
    for clip in clips:
        assert clip.video.shape[1:] == (64, 64, 3) and clip.video.dtype == np.uint8
        seen = clip.silhouette[..., 0] > 0
        assert set(np.unique(clip.silhouette)) == {0, 255}
        assert seen.any((1, 2)).all()
        # the centre of 128 x 128 pixels, halved; the rectangle has even corners
        np.testing.assert_array_equal(clip.video[seen], [[200, 20, 20]] * seen.sum())
        np.testing.assert_array_equal(clip.video[~seen], [[100, 100, 100]] * (~seen).sum())
        expected = rectangle(len(seen))[:, 8:136:2, 26:154:2] > 0
        np.testing.assert_array_equal(seen, expected)
    lena = clips[-1]
    assert (lena.person, lena.action) == ("lena", "walk")


def test_a_second_reading_takes_the_prepared_records(folder, monkeypatch):
    first = read_clips(folder)
    monkeypatch.setattr("jdmm.data.weizmann.archives._videos", lambda path: pytest.fail("again"))
    for a, b in zip(first, read_clips(folder), strict=True):
        np.testing.assert_array_equal(a.video, b.video)


def dataset(path: Path, **fields) -> Weizmann:
    settings = {"test_person": "ido", "validation_person": "lena", "segment": 4, "stride": 2}
    return Weizmann(path=str(path), **(settings | fields))


def test_splits_hold_whole_videos_of_one_person_and_segments_of_the_others(folder):
    found = dataset(folder)
    data = found.load()
    test, train = data["test"].series, data["train"].series
    assert test.lengths.tolist() == [5, 5] and data["validation"].series.lengths.tolist() == [6, 6]
    assert (test.values["person"] == PERSONS.index("ido")).all()
    assert test.values["action"][:, 0, 0].tolist() == [ACTIONS.index("bend"), ACTIONS.index("walk")]
    # of 6 and 7 steps: from 0, 2 and 0, 2, 3
    assert train.lengths.tolist() == [4] * 5
    clip = next(clip for clip in read_clips(folder) if clip.name == "eli_walk")
    expected = clip.video.reshape(7, -1)
    assert train.values["video"].dtype == np.uint8
    for row, start in enumerate((0, 2, 3), 2):
        np.testing.assert_array_equal(train.values["video"][row], expected[start : start + 4])
    assert test.values["video"].dtype == np.float32
    np.testing.assert_allclose(train.as_float().values["video"], train.values["video"] / 255.0)
    for split in data.values():
        split.check(found.modalities)


def test_a_video_shorter_than_a_segment_stays_whole(folder):
    train = dataset(folder, segment=7).load()["train"].series
    assert train.lengths.tolist() == [6, 7]
    assert not train.observed["video"][0, 6].any()


def test_tasks_show_the_video_alone(folder):
    found = dataset(folder)
    series = found.load()["test"].series
    for name, task in found.tasks.items():
        shown = series.hide(task(jax.random.key(0), series))
        assert not any(shown.observed[m].any() for m in ("silhouette", "person", "action"))
        share = shown.observed["video"].any(-1).mean()
        expected = {"reconstruction": 1.0, "drop_half": 0.6}.get(name, 0.8)
        assert share == pytest.approx(expected)
    alone = dataset(folder, include=("silhouette", "action"))
    series = alone.load()["test"].series
    shown = series.hide(alone.tasks["reconstruction"](jax.random.key(0), series))
    assert shown.observed["silhouette"].all() and not shown.observed["action"].any()


def test_silhouettes_alone(folder):
    clips = read_clips(folder / "classification_masks.mat")
    assert len(clips) == 6 and all(clip.video is None for clip in clips)
    with pytest.raises(InputError, match=r"expected a video of every clip, got none of eli_bend"):
        dataset(folder / "classification_masks.mat").load()


def test_clips_of_an_npz_file(tmp_path):
    video = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    mask = (video[..., 0] > 99).astype(np.uint8)
    arrays = {}
    for person in ("ido", "lena", "eli"):
        arrays |= {f"{person}_jack_video": video, f"{person}_jack_mask": mask}
    path = tmp_path / "clips.npz"
    np.savez(path, **arrays)
    test = dataset(path).load()["test"].series
    np.testing.assert_allclose(test.values["video"][0], video.reshape(3, -1) / 255, rtol=1e-6)
    np.testing.assert_array_equal(test.values["silhouette"][0], mask.reshape(3, -1))

    np.savez(path, ido_jack_video=video[:, :32])
    with pytest.raises(InputError, match=r"clips.npz: expected ido_jack_video of uint8"):
        read_clips(path)
    np.savez(path, ido_jack_video=video, ido_jack_mask=mask[:2])
    with pytest.raises(InputError, match=r"clips.npz: expected as many silhouettes as frames"):
        read_clips(path)
    np.savez(path, ido_dance_video=video)
    with pytest.raises(InputError, match=r"clips.npz: expected clips named .* got 'ido_dance'"):
        read_clips(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"clips.npz: expected an .npz file of plain arrays, got"):
        read_clips(path)


def zipped(folder: Path, name: str, content: bytes) -> None:
    with zipfile.ZipFile(folder / "walk.zip", "w") as archive:
        archive.writestr(name, content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "walk.zip").write_bytes(b"no zip"), r"walk\.zip: expected a zip archive"),
        (
            lambda f: (f / "walk.zip").write_bytes((f / "walk.zip").read_bytes()[:-500]),
            r"walk\.zip: expected a zip archive",
        ),
        (lambda f: zipped(f, "ido_walk.avi", b"none"), r"walk\.zip, ido_walk\.avi: expected a vid"),
        (lambda f: zipped(f, "readme.txt", b""), r"walk\.zip: expected \.avi files"),
        (lambda f: (f / "classification_masks.mat").unlink(), "got no classification_masks.mat"),
        (
            lambda f: (f / "classification_masks.mat").write_bytes(b"nothing"),
            r"classification_masks\.mat: expected the original file of silhouettes",
        ),
        (
            lambda f: write_masks(f / "classification_masks.mat", {"ido_bend": rectangle(5)}),
            r"classification_masks\.mat: expected silhouettes of every clip, got none of eli_bend",
        ),
        (
            lambda f: write_masks(f / "classification_masks.mat", {"a": np.zeros((2, 9, 9))}),
            r"classification_masks\.mat: expected silhouettes of 144 x 180",
        ),
    ],
)
def test_damaged_archives_are_refused_by_name(folder, damage, message):
    damage(folder)
    with pytest.raises(InputError, match=message):
        read_clips(folder)
    # nothing half-written is left
    assert not list((folder.parent / "cache").rglob("*.array_record*"))


def test_videos_of_another_size_or_length_are_refused(folder, tmp_path):
    write_video(tmp_path / "ido_walk.avi", rectangle(5)[:, :100])
    zipped(folder, "ido_walk.avi", (tmp_path / "ido_walk.avi").read_bytes())
    with pytest.raises(InputError, match=r"ido_walk\.avi: expected frames of 180 x 144 .* 180 x 1"):
        read_clips(folder)
    write_video(tmp_path / "ido_walk.avi", rectangle(20, 1))
    zipped(folder, "ido_walk.avi", (tmp_path / "ido_walk.avi").read_bytes())
    with pytest.raises(
        InputError, match=r"as many frames as silhouettes in ido_walk, got 20 and 5"
    ):
        read_clips(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"include": ("video", "sound")}, "expected data.include .* got 'sound'"),
        ({"include": ("action",)}, "expected 'video' or 'silhouette' in data.include"),
        ({"test_person": "nobody"}, "expected data.test_person among daria, .* got 'nobody'"),
        ({"test_person": "lena"}, "expected two persons to hold out, got 'lena' twice"),
        ({"segment": 0}, "expected data.segment of at least 1, got 0"),
        ({"shift": 64}, "expected data.shift within 0..63, got 64"),
        ({"likelihood": "poisson"}, "expected data.likelihood among bernoulli, normal"),
        ({"channels": (3, 3, 3, 3, 3, 3, 3)}, "multiples of 128"),
    ],
)
def test_impossible_settings_are_refused(fields, message, tmp_path):
    with pytest.raises(InputError, match=message):
        dataset(tmp_path, **fields)


def test_missing_sources_and_persons_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="expected data.path, got none"):
        Weizmann().load()
    with pytest.raises(InputError, match="which does not exist"):
        Weizmann(path=str(tmp_path / "none.zip")).load()
    with pytest.raises(InputError, match="expected clips of daria for the test split"):
        dataset(folder, test_person="daria").load()
    with pytest.raises(InputError, match="got no any of bend.zip"):
        read_clips(tmp_path)


def test_copies_are_moved_and_mirrored_alike(folder):
    """Video and silhouette stay aligned, and the first copies are the segments themselves."""
    plain = dataset(folder).load()["train"].series
    found = dataset(folder, copies=5, shift=3).load()["train"].series
    assert found.batch == 5 * plain.batch
    np.testing.assert_array_equal(found.values["video"][:5], plain.values["video"])
    assert not np.array_equal(found.values["video"][5:10], plain.values["video"])
    video = found.values["video"].reshape(*found.values["video"].shape[:2], 64, 64, 3)
    seen = found.values["silhouette"].reshape(video.shape[:-1]) > 0
    np.testing.assert_array_equal(seen, video[..., 0] == 200)
    # the rectangle moves to the left in mirrored copies
    centre = [np.mean(np.nonzero(frame)[1]) for frame in seen[:, [0, -1]].reshape(-1, 64, 64)]
    towards = np.sign(np.diff(np.reshape(centre, (-1, 2)), axis=1))[:, 0]
    assert (towards[:5] == 1).all() and set(towards[5:]) == {1, -1}
