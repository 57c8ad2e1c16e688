"""Trains, evaluates, samples from and infers with multimodal deep Markov models.

python main.py --config=configs/spirals.py [--config.epochs=50] [--workdir=runs/spirals]
python main.py --config=configs/files.py --config.data.path=air.csv --workdir=runs/air
python main.py --mode=infer --workdir=runs/air --input=air.csv --output=filled.csv --after=24
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from jdmm import compiling
from jdmm.data.tables.reading import is_table
from jdmm.data.tables.units import LEVELS
from jdmm.errors import InputError
from jdmm.experiments import command, report, run
from jdmm.training import parallel
from jdmm.training.parallel import Devices

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, FILE.py[:PRESET].")
_WORKDIR = flags.DEFINE_string("workdir", None, "Work directory [runs/<config name>].")
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    None,
    "Folder of compiled programs [~/.cache/jdmm/compiled]; '' keeps none.",
)
_DEVICES = flags.DEFINE_integer("devices", 0, "train: devices that share each batch; 0 for all.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", None, "Join the other processes of a cluster job; by default if one is detected."
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "sample", "infer"], "What to do.")
_SPLIT = flags.DEFINE_string("split", "test", "evaluate: train, validation or test.")
_COUNT = flags.DEFINE_integer("count", 16, "sample: number of series.")
_STEPS = flags.DEFINE_integer("steps", 100, "sample: time steps of each series.")
_REVERSE = flags.DEFINE_bool("reverse", False, "sample: start at the last step.")
_SEED = flags.DEFINE_integer("seed", 0, "sample, infer: seed of the random numbers.")
_INPUT = flags.DEFINE_string(
    "input",
    None,
    "infer: series with NaN or masks (.npz, or of write_series), or a table (CSV, Parquet).",
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "sample, infer: .npz file to write; infer of a table: .csv or .parquet."
)
_LEVELS = flags.DEFINE_list("levels", None, "infer of a table: levels of the intervals [0.95].")
_BEFORE = flags.DEFINE_integer(
    "before", 0, "infer: steps to extrapolate before the first.", lower_bound=0
)
_AFTER = flags.DEFINE_integer(
    "after", 0, "infer: steps to extrapolate after the last.", lower_bound=0
)


def main(arguments: list[str]) -> None:
    """Runs the mode that the flags choose, and prints the scores."""
    if len(arguments) > 1:
        raise InputError(f"expected options of the form --name=value, got {arguments[1]!r}")
    workdir = _workdir()
    parallel.initialise(_DISTRIBUTED.value)
    compiling.enable_compilation_cache(_CACHE.value)
    if _MODE.value != "train" and not parallel.is_primary():
        return
    if _MODE.value == "train":
        if _CONFIG.value is None:
            raise InputError("expected --config=configs/NAME.py to train, got none")
        devices = Devices.available(_DEVICES.value)
        results = run.train_and_evaluate(_CONFIG.value, workdir, devices)
        if parallel.is_primary():
            print("\n".join(report.table(results)), f"\n{workdir}/report.md")
    elif _MODE.value == "evaluate":
        print("\n".join(report.table(run.evaluate_workdir(workdir, _SPLIT.value))))
    elif _MODE.value == "sample":
        run.sample_workdir(
            workdir, _COUNT.value, _STEPS.value, _OUTPUT.value, _REVERSE.value, _SEED.value
        )
    else:
        if not _INPUT.value or not _OUTPUT.value:
            raise InputError(
                "expected --input=FILE and --output=FILE to infer, both .npz or tables"
            )
        how = (workdir, _INPUT.value, _OUTPUT.value, _BEFORE.value, _AFTER.value, _SEED.value)
        if is_table(_OUTPUT.value):
            table = run.infer_table(*how, levels=_levels())
            print("\n".join(table.account.lines()), f"\n{_OUTPUT.value}")
        elif _LEVELS.value is not None:
            raise InputError("expected --levels with an --output that is a table only")
        else:
            run.infer_file(*how)


def _levels() -> tuple[float, ...]:
    """--levels as numbers."""
    given = _LEVELS.value
    try:
        return LEVELS if given is None else tuple(map(float, given))
    except ValueError:
        raise InputError(f"expected --levels such as 0.5,0.95, got {given}") from None


def _workdir() -> str:
    """--workdir, or runs/<config name>[-<preset>]."""
    if _WORKDIR.value:
        return _WORKDIR.value
    if _CONFIG.value is None:
        raise InputError("expected --config=configs/NAME.py or --workdir, got neither")
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    name, _, preset = path.partition(":")
    return str(Path("runs", Path(name).stem + (f"-{preset}" if preset else "")))


if __name__ == "__main__":
    command.run(main)
