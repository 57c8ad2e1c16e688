"""The Weizmann configurations: every preset is an experiment, and the smallest one runs."""

import json

import numpy as np
import PIL.Image
import pytest

from configs import weizmann
from configs.studies import weizmann_persons
from jdmm import InputError
from jdmm.experiments import run, settings


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Bright squares that move to the right or downwards, of four persons."""
    path = tmp_path_factory.mktemp("clips") / "clips.npz"
    arrays = {}
    for number, person in enumerate(("eli", "ido", "moshe", "shahar")):
        for action in ("bend", "jack"):
            video = np.full((6 + number, 64, 64, 3), 60, np.uint8)
            mask = np.zeros(video.shape[:-1], np.uint8)
            for time in range(len(video)):
                x, y = (5 * time, 20) if action == "bend" else (20, 5 * time)
                video[time, y : y + 12, x : x + 12] = 220
                mask[time, y : y + 12, x : x + 12] = 1
            arrays |= {f"{person}_{action}_video": video, f"{person}_{action}_mask": mask}
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("preset", weizmann.PRESETS)
def test_every_preset_is_an_experiment(preset):
    config = weizmann.get_config(preset)
    experiment = settings.build(config)
    assert [m.name for m in experiment.model.modalities] == list(config.data.include)


def test_the_published_preset_has_the_published_settings():
    config = weizmann.get_config()
    assert (config.model.latent, config.model.hidden) == (256, 256)
    assert (config.epochs, config.batch_size, config.learning_rate) == (400, 25, 5e-4)
    assert config.data.channels == (16, 32, 64) and config.data.normalisation == "batch"
    assert config.loss.multipliers.action == 10 and config.train.beta_rise == 0.625


def test_the_study_holds_out_every_person():
    study = weizmann_persons.get_study()
    assert len(study) == 9
    pairs = {(c.data.test_person, c.data.validation_person) for c in study.values()}
    assert len({test for test, _ in pairs}) == 9 and all(a != b for a, b in pairs)


@pytest.fixture(scope="module")
def finished(clips, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "weizmann"
    config = weizmann.get_config("smoke")
    config.data.path = str(clips)
    config.data.segment = config.data.stride = config.batch_size = 4
    config.data.normalisation = "batch"
    return run.train_and_evaluate(config, workdir), workdir


def test_a_small_run_scores_images_and_labels(finished):
    results, workdir = finished
    for scores in results["tasks"].values():
        assert -1 <= scores["ssim_video"]["mean"] <= 1
        assert 0 <= scores["pixel_mse_silhouette"]["mean"] <= 1
        assert 0 <= scores["accuracy_action"] <= 1
        assert {"series_accuracy_action", "series_accuracy_person", "nll"} <= set(scores)
    report = (workdir / "report.md").read_text()
    assert "| SSIM, silhouette | SSIM, video |" in report
    for name in ("reconstruction.png", "forward_extrapolation_video.gif"):
        assert f"figures/{name}" in report and (workdir / "figures" / name).exists()
    with PIL.Image.open(workdir / "figures" / "forward_extrapolation_video.gif") as image:
        assert image.n_frames == 9
    gif = (workdir / "figures" / "forward_extrapolation_video.gif").read_bytes()
    assert any(gif in path.read_bytes() for path in workdir.glob("events.*"))  # TensorBoard


def test_running_statistics_are_no_parameters(finished):
    results, workdir = finished
    experiment = settings.build(settings.load_config(workdir / "config.json"))
    from jdmm.experiments.train import restore

    variables = restore(experiment, workdir).of_seed(0)
    assert set(variables) == {"params", "batch_stats"}
    params = [leaf.size for leaf in _leaves(variables["params"])]
    assert results["parameters"] == sum(params)
    means = [leaf for leaf in _leaves(variables["batch_stats"]) if np.any(leaf != 1)]
    assert any(np.abs(leaf).max() > 0 for leaf in means)  # they moved
    assert json.loads((workdir / "results.json").read_text())["parameters"] == sum(params)


def _leaves(tree):
    return (
        [leaf for each in tree.values() for leaf in _leaves(each)]
        if isinstance(tree, dict)
        else [np.asarray(tree)]
    )


def test_a_folder_without_archives_is_refused(tmp_path):
    config = weizmann.get_config("smoke")
    config.data.path = str(tmp_path)
    with pytest.raises(InputError, match="expected the archives of the Weizmann actions"):
        run.train_and_evaluate(config, tmp_path / "run")
