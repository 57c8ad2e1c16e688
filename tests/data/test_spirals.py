"""The noisy spirals: the published numbers, and a data set that survives its users."""

import shutil
import socket
from typing import Any

import numpy as np
import pytest

from jdmm.data.base import Outcome
from jdmm.data.spirals import builder
from jdmm.data.spirals.builder import NoisySpirals, load_arrays
from jdmm.data.spirals.dataset import Spirals, counterclockwise
from jdmm.errors import InputError

VERSION = "noisy_spirals/1.0.0"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A prepared data set; copy it before changing it."""
    path = tmp_path_factory.mktemp("spirals")
    load_arrays(str(path))
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
    return np.concatenate([split.series.values["x"], split.series.values["y"]], axis=-1)


def clean_of(split):
    return np.concatenate([split.truth["x"], split.truth["y"]], axis=-1)


def test_shapes_and_types(data_dir):
    dataset = Spirals(str(data_dir), 150)
    splits = dataset.load()
    assert list(splits) == ["train", "validation", "test"]
    for name, batch in {"train": 450, "validation": 150, "test": 400}.items():
        split = splits[name]
        split.check(dataset.modalities)
        for arrays in (split.series.values, split.truth, split.second):
            assert list(arrays) == ["x", "y"]
            for array in arrays.values():
                assert array.shape == (batch, 100, 1) and array.dtype == np.float32
        assert all(mask.all() for mask in split.series.observed.values())
        assert (split.series.lengths == 100).all()


def test_test_series_are_the_published_ones_in_order(data_dir, published):
    noisy, clean, _, test = published
    split = Spirals(str(data_dir), 100).load()["test"]
    np.testing.assert_allclose(noisy_of(split), noisy[test], atol=1e-6)
    np.testing.assert_allclose(clean_of(split), clean[test], atol=1e-6)


def test_the_second_observation_has_noise_of_its_own(data_dir):
    """Of the published sd, and uncorrelated with the first's and between the coordinates."""
    for split in Spirals(str(data_dir), 100).load().values():
        first = noisy_of(split) - clean_of(split)
        second = np.concatenate([split.second["x"], split.second["y"]], -1) - clean_of(split)
        noise = np.stack([first[..., 0], first[..., 1], second[..., 0], second[..., 1]])
        found = np.cov(noise.reshape(4, -1))
        np.testing.assert_allclose(found, 0.01 * np.eye(4), atol=5 * 0.014 / noise[0].size ** 0.5)


def test_training_and_validation_series_are_the_other_600(data_dir, published):
    noisy, clean, train, _ = published
    splits = Spirals(str(data_dir), 100).load()
    got_noisy = np.concatenate([noisy_of(splits["train"]), noisy_of(splits["validation"])])
    got_clean = np.concatenate([clean_of(splits["train"]), clean_of(splits["validation"])])
    got, want = np.argsort(got_noisy[:, 0, 0]), np.argsort(noisy[train][:, 0, 0])
    np.testing.assert_allclose(got_noisy[got], noisy[train][want], atol=1e-6)
    np.testing.assert_allclose(got_clean[got], clean[train][want], atol=1e-6)


def test_no_series_is_in_two_splits(data_dir):
    splits = Spirals(str(data_dir), 100).load().values()
    assert len({series.tobytes() for split in splits for series in noisy_of(split)}) == 1000


def test_noise_has_standard_deviation_one_tenth(data_dir):
    for split in Spirals(str(data_dir), 100).load().values():
        noise = noisy_of(split) - clean_of(split)
        np.testing.assert_allclose(noise.std(axis=(0, 1)), 0.1, rtol=0.03)
        np.testing.assert_allclose(noise.mean(axis=(0, 1)), 0, atol=0.005)


def test_validation_series_are_a_fixed_random_choice(data_dir):
    fewer, more = (Spirals(str(data_dir), size).load() for size in (50, 100))
    series = [{each.tobytes() for each in noisy_of(d["validation"])} for d in (fewer, more)]
    assert series[0] < series[1]
    np.testing.assert_array_equal(noisy_of(fewer["test"]), noisy_of(more["test"]))


def test_directions_and_figures(data_dir, published):
    split = Spirals(str(data_dir), 100).load()["test"]
    turns = counterclockwise(split)
    np.testing.assert_array_equal(turns, np.array(published[3]) >= 500)
    sd = {name: np.full_like(curve, 0.1) for name, curve in split.truth.items()}
    latents = np.random.default_rng(0).normal(size=(400, 100, 2))
    outcome = Outcome(split.series, split.truth, sd, latents, np.ones_like(latents))
    figures = Spirals().draw(split, {"reconstruction": outcome})
    assert list(figures) == ["tasks", "latents"]
    titles = [text.get_text() for text in figures["tasks"].axes[0].texts]
    assert titles == ["MSE 0"]  # the truth was predicted
    colors = [line.get_color() for line in figures["latents"].axes[0].lines]
    chosen = np.linspace(0, 399, 12).astype(int)
    assert (np.array(colors) == colors[0]).tolist() == (turns[chosen] == turns[0]).tolist()
    without = outcome._replace(latent_mean=latents[..., :0], latent_sd=latents[..., :0])
    assert list(Spirals().draw(split, {"reconstruction": without})) == ["tasks"]


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
    Spirals("", 100).load()
    assert (tmp_path / "jdmm" / VERSION).is_dir()
    assert [path.name for path in (tmp_path / "jdmm").iterdir()] == ["noisy_spirals"]
    assert capfd.readouterr() == ("", "")


def test_second_use_generates_nothing(data_dir, monkeypatch):
    monkeypatch.setattr(builder, "_spiral", None)
    Spirals(str(data_dir), 100).load()


def test_an_interrupted_first_use_leaves_nothing_in_place(tmp_path, monkeypatch):
    generate, made = builder._spiral, []

    def interrupted(*arguments):
        made.append(None)
        if len(made) == 500:
            raise KeyboardInterrupt
        return generate(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(builder, "_spiral", interrupted)
        Spirals(str(tmp_path), 100).load()
    assert not (tmp_path / VERSION).exists()

    # A killed process leaves its own directory too: the next one must not care.
    (tmp_path / ".incomplete-1" / VERSION).mkdir(parents=True)
    assert Spirals(str(tmp_path), 100).load()["test"].series.batch == 400


def test_another_process_may_be_first(data_dir, tmp_path, monkeypatch):
    generate = builder._spiral

    def overtaken(*arguments):
        if not (tmp_path / VERSION).exists():
            shutil.copytree(data_dir / VERSION, tmp_path / VERSION)
            (tmp_path / VERSION / "of the other").touch()
        return generate(*arguments)

    monkeypatch.setattr(builder, "_spiral", overtaken)
    assert Spirals(str(tmp_path), 100).load()["test"].series.batch == 400
    assert (tmp_path / VERSION / "of the other").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["noisy_spirals"]


@pytest.mark.parametrize("validation", [-1, 0, 600])
def test_validation_out_of_range(validation):
    with pytest.raises(InputError, match=f"data.validation between 1 and 599 .*, got {validation}"):
        Spirals(validation=validation)


def test_unwritable_data_dir(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="data_dir that can be written, got .*file") as caught:
        Spirals(str(tmp_path / "file"), 100).load()
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
        Spirals(str(copy), 100).load()
    assert "\n" not in str(caught.value)
