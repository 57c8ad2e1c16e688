"""main.py on many command lines: a process of its own for each, but one start of Python for all.

python tests/command_lines.py reads a list of lists of arguments as JSON, and writes
[exit status, standard error] of each. Every process is a copy of this one, which has imported the
libraries and has started nothing.
"""

import json
import os
import runpy
import sys
import tempfile

from ml_collections import config_flags  # noqa: F401

from jdmm.experiments import command, report, run  # noqa: F401


def outcome(arguments):
    """Exit status and standard error of main.py with these arguments."""
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
    print(json.dumps([outcome(arguments) for arguments in json.load(sys.stdin)]))
