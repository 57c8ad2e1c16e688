"""The original archives, pixel by pixel, and everything that can be wrong with them."""

import shutil
import socket
import wave
import zipfile

import numpy as np
import pytest
from data.weizmann_files import archive, avi, masks, silhouette, video

from jdmm.data.weizmann import archives
from jdmm.data.weizmann.clips import read_clips
from jdmm.errors import InputError

MAT = "classification_masks.mat"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "jdmm"


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Two archives, one with a folder inside; copy them before changing them."""
    folder = tmp_path_factory.mktemp("originals")
    archive(folder / "jack.zip", {"eli_jack.avi": avi(video(4, 1)), "readme.txt": b"text"})
    clips = {"ido_walk.avi": avi(video(3, 2)), "lena_walk2.avi": avi(video(2, 3))}
    hidden = {"__MACOSX/walk/._ido_walk.avi": b"attributes"}
    archive(folder / "walk.zip", {f"walk/{name}": clip for name, clip in clips.items()} | hidden)
    steps = {"eli_jack": 4, "ido_walk": 3, "lena_walk2": 2, "daria_run": 3}
    masks(folder / MAT, {name: silhouette(count, 5) for name, count in steps.items()})
    return folder


@pytest.fixture
def folder(originals, tmp_path):
    return shutil.copytree(originals, tmp_path / "originals")


def halved(frames):
    """Means of 2 x 2 pixels of the square in the middle, ``(time, 64, 64, channel)``."""
    square = frames[:, 8:136, 26:154].astype(float)
    return (
        square[:, ::2, ::2] + square[:, 1::2, ::2] + square[:, ::2, 1::2] + square[:, 1::2, 1::2]
    ) / 4


def test_clips_of_all_archives(originals):
    clips = read_clips(originals)
    assert [clip[:3] for clip in clips] == [
        ("eli_jack", "eli", "jack"),
        ("ido_walk", "ido", "walk"),
        ("lena_walk2", "lena", "walk"),
    ]
    for clip, (steps, seed) in zip(clips, ((4, 1), (3, 2), (2, 3)), strict=True):
        assert clip.video.dtype == clip.silhouette.dtype == np.uint8
        assert np.abs(clip.video - halved(video(steps, seed))).max() <= 0.5
        covered = halved(np.moveaxis(silhouette(steps, 5), -1, 0)[..., None])
        np.testing.assert_array_equal(clip.silhouette, np.where(covered >= 0.5, 255, 0))


def test_a_few_frames_more_than_silhouettes_are_cut(folder):
    masks(
        folder / MAT,
        {"eli_jack": silhouette(2), "ido_walk": silhouette(6), "lena_walk2": silhouette()},
    )
    assert [(len(c.video), len(c.silhouette)) for c in read_clips(folder)] == [
        (2, 2),
        (3, 3),
        (2, 2),
    ]


def test_first_use_is_quiet_and_offline_and_the_second_decodes_nothing(
    folder, cache, monkeypatch, capfd
):
    monkeypatch.setattr(socket, "socket", None)  # any connection would fail
    first = read_clips(folder)
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in folder.iterdir()) == [MAT, "jack.zip", "walk.zip"]
    monkeypatch.setattr(archives, "_decode", None)
    for clip, again in zip(first, read_clips(folder), strict=True):
        np.testing.assert_array_equal(clip.video, again.video)
        np.testing.assert_array_equal(clip.silhouette, again.silhouette)


def test_another_archive_is_noticed(folder):
    read_clips(folder)
    archive(folder / "run.zip", {"daria_run.avi": avi(video())})
    assert [clip.name for clip in read_clips(folder)][0] == "daria_run"


def test_damaged_records_are_named(folder, cache):
    read_clips(folder)
    (file,) = cache.rglob("*.array_record*")
    file.write_bytes(file.read_bytes()[:10_000])
    refused(folder, f"{file.parent}.*delete it")


def test_an_interrupted_first_use_leaves_nothing(folder, cache, monkeypatch):
    decode = archives._decode

    def interrupted(where, content):
        if "walk" in where:
            raise KeyboardInterrupt
        return decode(where, content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(archives, "_decode", interrupted)
        read_clips(folder)
    assert not [path for path in cache.rglob("*") if path.is_file()]
    assert len(read_clips(folder)) == 3


def refused(folder, *parts):
    """Reading raises one line that contains `parts`, in their order."""
    with pytest.raises(InputError, match=".*".join(parts)) as caught:
        read_clips(folder)
    assert "\n" not in str(caught.value)


def damaged(content):
    """With other bytes in the middle of the compressed data."""
    middle = len(content) // 2
    return content[:middle] + bytes(64) + content[middle + 64 :]


@pytest.mark.parametrize(
    "damage", [lambda _: b"text", lambda content: content[:-100], damaged, lambda _: b""]
)
def test_unreadable_archives(folder, cache, damage):
    path = folder / "walk.zip"
    path.write_bytes(damage(path.read_bytes()))
    refused(folder, "walk.zip", "expected a zip archive")
    assert not [path for path in cache.rglob("*") if path.is_file()]


def audio(path):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(1000))
    return path.read_bytes()


def cut_between_frames(content):
    """Four of six frames, which ffmpeg reads without an error."""
    return content[: content.find(b"movi") + 4 + 4 * (8 + 144 * 180 * 3)]


def test_bad_videos(folder, cache, tmp_path):
    good = avi(video(6))
    masks(folder / MAT, {"ira_jack": silhouette(6)})
    for content, line in (
        (good[:-50_000], "expected a video, got"),
        (cut_between_frames(good), "expected the 6 frames .*got 4: .*cut short"),
        (b"text", "expected a video, got"),
        (b"", "expected a video, got"),
        (audio(tmp_path / "audio"), "expected a video, got"),
        (avi([]), "expected a video"),
        (avi(video(6)[:, :100, :80], (100, 80)), "180 x 144 pixels, got 80 x 100"),
    ):
        archive(folder / "jack.zip", {"ira_jack.avi": content})
        refused(folder, "jack.zip, ira_jack.avi", line)
    assert not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "members, line",
    [
        (["bob_jack"], "<person>_<action>.*got 'bob_jack'"),
        (["eli_fly"], "<person>_<action>.*got 'eli_fly'"),
        (["eli"], "<person>_<action>.*got 'eli'"),
        (["eli_jack1"], "<person>_<action>.*got 'eli_jack1'"),
        (["a/eli_jack", "b/eli_jack"], "each clip once, got another eli_jack"),
        ([], "expected .avi files"),
    ],
)
def test_bad_names(folder, members, line):
    archive(folder / "jack.zip", {f"{member}.avi": avi(video(4)) for member in members})
    refused(folder, "jack.zip", line)


def test_silhouettes_that_do_not_belong_to_the_videos(folder):
    masks(folder / MAT, {"eli_jack": silhouette(4), "ido_walk": silhouette(3)})
    refused(folder, MAT, "silhouettes of every clip, got none of lena_walk2")
    masks(folder / MAT, {"eli_jack": silhouette(8)})
    refused(folder, "jack.zip", "eli_jack, got 4 and 8")


def test_stored_archives_are_read_too(folder):
    with zipfile.ZipFile(folder / "jack.zip", "w", zipfile.ZIP_STORED) as file:
        file.writestr("ELI/eli_jack.AVI", avi(video(4, 1)))
    assert len(read_clips(folder)) == 3
