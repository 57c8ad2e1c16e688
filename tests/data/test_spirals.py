"""The noisy spirals: the published numbers, and a data set that survives its users."""

import shutil
import socket
from typing import Any

import numpy as np
import pytest

from jdmm.data import spirals
from jdmm.data.spirals import NoisySpirals, load_spirals
from jdmm.errors import InputError

VERSION = "noisy_spirals/1.0.0"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A prepared data set; copy it before changing it."""
    path = tmp_path_factory.mktemp("spirals")
    load_spirals(str(path), 100, 0)
    return path


@pytest.fixture
def copy(data_dir, tmp_path):
    return shutil.copytree(data_dir, tmp_path / "copy")


@pytest.fixture(scope="module")
def published():
    """Noisy and clean ``(1000, 100, 2)`` from the formula, and the numbers of train and test."""
    random = np.random.RandomState(1)
    numbers = list(range(1000))
    random.shuffle(numbers)
    noisy, clean = [], []
    for i in range(1000):
        r0, r1, a0, a1, shape = (random.random_sample() for _ in range(5))
        r = np.linspace(0.25 + 0.5 * r0, 2.25 + 0.5 * r1, 100)
        angle = np.linspace(np.pi * a0, 4 * np.pi + np.pi * a1, 100) * (-1 if i < 500 else 1)
        stretch = 2 ** (shape - 0.5)  # sqrt(R), R = 2^(2u - 1)
        clean.append(np.stack([stretch * r * np.cos(angle), r * np.sin(angle) / stretch], axis=-1))
        noisy.append(clean[-1] + 0.1 * np.stack([random.randn(100), random.randn(100)], axis=-1))
    return np.array(noisy), np.array(clean), numbers[:600], numbers[600:]


def noisy_of(split):
    return np.concatenate([split.noisy.values["x"], split.noisy.values["y"]], axis=-1)


def clean_of(split):
    return np.concatenate([split.clean["x"], split.clean["y"]], axis=-1)


def test_shapes_and_types(data_dir):
    splits = load_spirals(str(data_dir), 150, 0)
    assert list(splits) == ["train", "validation", "test"]
    for name, batch in {"train": 450, "validation": 150, "test": 400}.items():
        noisy, clean, again = splits[name]
        assert list(noisy.values) == list(clean) == list(again) == ["x", "y"]
        for array in (*noisy.values.values(), *clean.values(), *again.values()):
            assert array.shape == (batch, 100, 1) and array.dtype == np.float32
        assert all(mask.all() for mask in noisy.observed.values())
        assert (noisy.lengths == 100).all()


def test_test_series_are_the_published_ones_in_order(data_dir, published):
    noisy, clean, _, test = published
    split = load_spirals(str(data_dir), 100, 0)["test"]
    np.testing.assert_allclose(noisy_of(split), noisy[test], atol=1e-6)
    np.testing.assert_allclose(clean_of(split), clean[test], atol=1e-6)


def test_the_second_observation_has_noise_of_its_own(data_dir):
    """Of the published sd, and uncorrelated with the first's and between the coordinates."""
    for split in load_spirals(str(data_dir), 100, 0).values():
        first = noisy_of(split) - clean_of(split)
        second = np.concatenate([split.again["x"], split.again["y"]], -1) - clean_of(split)
        noise = np.stack([first[..., 0], first[..., 1], second[..., 0], second[..., 1]])
        found = np.cov(noise.reshape(4, -1))
        np.testing.assert_allclose(found, 0.01 * np.eye(4), atol=5 * 0.014 / noise[0].size ** 0.5)


def test_training_and_validation_series_are_the_other_600(data_dir, published):
    noisy, clean, train, _ = published
    splits = load_spirals(str(data_dir), 100, 3)
    got_noisy = np.concatenate([noisy_of(splits["train"]), noisy_of(splits["validation"])])
    got_clean = np.concatenate([clean_of(splits["train"]), clean_of(splits["validation"])])
    got, want = np.argsort(got_noisy[:, 0, 0]), np.argsort(noisy[train][:, 0, 0])
    np.testing.assert_allclose(got_noisy[got], noisy[train][want], atol=1e-6)
    np.testing.assert_allclose(got_clean[got], clean[train][want], atol=1e-6)


def test_no_series_is_in_two_splits(data_dir):
    splits = load_spirals(str(data_dir), 100, 0).values()
    assert len({series.tobytes() for split in splits for series in noisy_of(split)}) == 1000


def test_noise_has_standard_deviation_one_tenth(data_dir):
    for split in load_spirals(str(data_dir), 100, 0).values():
        noise = noisy_of(split) - clean_of(split)
        np.testing.assert_allclose(noise.std(axis=(0, 1)), 0.1, rtol=0.03)
        np.testing.assert_allclose(noise.mean(axis=(0, 1)), 0, atol=0.005)


def test_the_seed_decides_what_is_validation_and_never_what_is_test(data_dir):
    first, same, other = (load_spirals(str(data_dir), 100, seed) for seed in (5, 5, 6))
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(noisy_of(first[name]), noisy_of(same[name]))
    np.testing.assert_array_equal(noisy_of(first["test"]), noisy_of(other["test"]))
    sets = [{s.tobytes() for s in noisy_of(d["validation"])} for d in (first, other)]
    assert len(sets[0] & sets[1]) < 50


def test_stored_parameters_give_the_clean_curve(data_dir, published):
    builder: Any = NoisySpirals(data_dir=data_dir)
    rows = list(builder.as_data_source("test"))
    assert [row["direction"] for row in rows] == [-1 if i < 500 else 1 for i in published[3]]
    row = rows[0]
    angle = np.linspace(row["start_angle"], row["end_angle"], 100)
    radius = np.linspace(row["start_radius"], row["end_radius"], 100)
    x = row["clean_x"][:, 0] / np.sqrt(row["ratio"])
    y = row["clean_y"][:, 0] * np.sqrt(row["ratio"])
    np.testing.assert_allclose(x + 1j * y, radius * np.exp(1j * angle), atol=1e-5)


def test_first_use_is_quiet_offline_and_in_the_cache(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "socket", None)  # any connection would fail
    load_spirals(None, 100, 0)
    assert (tmp_path / "jdmm" / VERSION).is_dir()
    assert [path.name for path in (tmp_path / "jdmm").iterdir()] == ["noisy_spirals"]
    assert capfd.readouterr() == ("", "")


def test_second_use_generates_nothing(data_dir, monkeypatch):
    monkeypatch.setattr(spirals, "_spiral", None)
    load_spirals(str(data_dir), 100, 0)


def test_an_interrupted_first_use_leaves_nothing_in_place(tmp_path, monkeypatch):
    generate, made = spirals._spiral, []

    def interrupted(*arguments):
        made.append(None)
        if len(made) == 500:
            raise KeyboardInterrupt
        return generate(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(spirals, "_spiral", interrupted)
        load_spirals(str(tmp_path), 100, 0)
    assert not (tmp_path / VERSION).exists()

    # A killed process leaves its own directory too: the next one must not care.
    (tmp_path / ".incomplete-1" / VERSION).mkdir(parents=True)
    assert load_spirals(str(tmp_path), 100, 0)["test"].noisy.batch == 400


def test_another_process_may_be_first(data_dir, tmp_path, monkeypatch):
    generate = spirals._spiral

    def overtaken(*arguments):
        if not (tmp_path / VERSION).exists():
            shutil.copytree(data_dir / VERSION, tmp_path / VERSION)
            (tmp_path / VERSION / "of the other").touch()
        return generate(*arguments)

    monkeypatch.setattr(spirals, "_spiral", overtaken)
    assert load_spirals(str(tmp_path), 100, 0)["test"].noisy.batch == 400
    assert (tmp_path / VERSION / "of the other").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["noisy_spirals"]


@pytest.mark.parametrize("validation", [-1, 0, 600])
def test_validation_out_of_range(data_dir, validation):
    with pytest.raises(InputError, match=f"0 < validation < 600 spirals, got {validation}"):
        load_spirals(str(data_dir), validation, 0)


def test_negative_seed(data_dir):
    with pytest.raises(InputError, match="seed >= 0"):
        load_spirals(str(data_dir), 100, -1)


def test_unwritable_data_dir(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="data_dir that can be written, got .*file") as caught:
        load_spirals(str(tmp_path / "file"), 100, 0)
    assert "\n" not in str(caught.value)


def cut(directory):
    file = next(directory.glob("*train.array_record*"))
    file.write_bytes(file.read_bytes()[:200_000])


def change(directory):
    file = next(directory.glob("*test.array_record*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


def lose(directory):
    next(directory.glob("*test.array_record*")).unlink()


def empty(directory):
    shutil.rmtree(directory)
    directory.mkdir()


def break_info(directory):
    (directory / "dataset_info.json").write_text("{")


@pytest.mark.parametrize("damage", [cut, change, lose, empty, break_info])
def test_damaged_files_are_named_in_one_line(copy, damage):
    damage(copy / VERSION)
    with pytest.raises(InputError, match=f"{copy / VERSION}.*delete it") as caught:
        load_spirals(str(copy), 100, 0)
    assert "\n" not in str(caught.value)
