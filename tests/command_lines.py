"""main.py on many command lines: a process of its own for each, but one start of Python for all.

`outcomes` starts this file as a program, which reads a list of lists of arguments as JSON, and
writes [exit status, standard error] of each. Every process of main.py is a copy of that program,
which has imported the libraries and has started nothing.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def outcomes(command_lines):
    """Exit status and standard error of main.py for each list of arguments."""
    done = subprocess.run(
        [sys.executable, __file__],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=json.dumps(command_lines),
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=True,
    )
    return json.loads(done.stdout)


def _outcome(arguments):
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if not child:
            os.dup2(errors.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.argv = ["main.py", *arguments]
            sys.path[0] = os.getcwd()  # as for a script in this folder
            runpy.run_path("main.py", run_name="__main__")
            sys.exit()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        return status, errors.read().decode()


if __name__ == "__main__":
    from ml_collections import config_flags  # noqa: F401

    from jdmm.experiments import command, report, run  # noqa: F401

    print(json.dumps([_outcome(arguments) for arguments in json.load(sys.stdin)]))
