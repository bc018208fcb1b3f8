"""A script: runs the program several times in one process, each after a shell command, and prints how each ended.

The argument is a JSON list of {"before": shell command, "words": [...]}, the output one of {"status", "errors"}.
"""
import contextlib
import io
import json
import subprocess
import sys

import torch

from main import main


def run(case: dict) -> dict:
    subprocess.run(case["before"], shell=True, check=True)
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        status = main(case["words"])
    return {"status": status, "errors": errors.getvalue()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps([run(case) for case in json.loads(sys.argv[1])]))
