"""Mistakes on the command line of main.py."""

from pathlib import Path

import command_lines
import pytest

ROOT = Path(__file__).parents[2]

MISTAKES = [
    ([], ["--config"]),
    (["--config=configs/absent.py"], ["absent.py"]),
    (["--config=configs/spirals.py:opulent"], ["opulent", "smoke"]),
    (["--config=configs/spirals.py", "--config.learning_rat=1"], ["learning_rate"]),
    (["--config=configs/spirals.py", "--config.epochs=many"], ["epochs"]),
    (["--config=configs/spirals.py", "--config.epochs=-1"], ["epochs", "-1"]),
    (["--config=configs/spirals.py", "--colour=red"], ["colour"]),
    (["--config=configs/spirals.py", "train"], ["'train'"]),
    (["--mode=dance"], ["dance"]),
    (["--mode=evaluate", "--workdir=absent"], ["absent", "train first"]),
    (["--mode=infer", "--workdir=absent"], ["--input"]),
]


@pytest.fixture(scope="module")
def outcomes():
    return command_lines.outcomes([arguments for arguments, _ in MISTAKES])


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=lambda n: " ".join(MISTAKES[n][0]))
def test_mistakes_on_the_command_line_print_one_line(outcomes, number):
    status, error = outcomes[number]
    assert status == 2, error
    assert "Traceback" not in error
    lines = error.strip().splitlines()
    assert len(lines) == 1, error
    for word in MISTAKES[number][1]:
        assert word in lines[0]
    assert not (ROOT / "absent").exists()
