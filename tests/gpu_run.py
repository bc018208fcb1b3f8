"""`make gpu`: tests, benchmarks and the demonstration on a GPU, in at most eight minutes.

Each part is a process of its own with a time limit. Its output goes to FOLDER/gpu.log. After every part FOLDER/gpu.json
and FOLDER/gpu.md are written again, so an interruption loses nothing but the part that was running.
"""
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from benchmarks.measure import machine, machine_line
from utils.files import write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
STREETS = ("--height", "1024", "--width", "2048", "--train", "12", "--val", "1", "--length", "6")
LEARNED = 0.35  # average mIoU that GSVNet has to reach in the demonstration; untrained networks stay below 0.05


@dataclass(frozen=True)
class Part:
    """A command, its time limit in seconds, and the JSON file that it writes, if any."""

    name: str
    seconds: int
    command: tuple[str, ...]
    result: Path | None = None


def parts(made: Path) -> list[Part]:
    """The parts in order: correctness, speed, learning, further precisions. `made`: folder for data and results."""
    python, streets, logs = sys.executable, made / "streets", str(made / "logs")
    training = (
        "--benchmark", "train", "--dataset", "synthetic", "--data-path", str(streets), "--crop-height", "768",
        "--crop-width", "1536", "--batch-size", "8", "--multi-step", "4", "--num-worker", "8",
    )
    benchmarks = {
        "training step, fp32": (60, training),
        "training step, bf16": (60, (*training, "--amp", "bf16")),
        "video, fp32": (60, ("--benchmark", "video")),
        "video, fp16": (60, ("--benchmark", "video", "--amp", "fp16")),
        "cameras, fp16": (60, ("--benchmark", "cameras", "--engine", "eager", "--precision", "fp16")),
        "published table, fp32": (90, ("--benchmark", "table")),
        "video, bf16": (60, ("--benchmark", "video", "--amp", "bf16")),
        "training step, bf16, compiled": (90, (*training, "--amp", "bf16", "--compile", "1")),
    }
    roofline = made / "roofline.json"
    parallel = ("-n", "4") if importlib.util.find_spec("xdist") else ()
    tests = ("-m", "pytest", "-v", *parallel, "-p", "no:cacheprovider", "-m", "cuda", "--durations", "10", "tests/cuda")
    found = [
        Part("tests", 150, (python, *tests)),
        Part("streets for the training step", 60, (python, "-m", "streets", "--root", str(streets), *STREETS)),
        Part("roofline", 60, (python, "-m", "tests.roofline", str(roofline)), roofline),
    ]
    for number, (name, (seconds, words)) in enumerate(benchmarks.items()):
        result = made / f"{number}.json"
        command = (python, "main.py", "--device", "cuda", "--log-folder", logs, "--metrics-file", str(result), *words)
        found.append(Part(name, seconds, command, result))
    demo = (python, "main.py", "--demo", "1", "--device", "cuda")
    found.insert(-2, Part("learning (the demonstration)", 150, demo, ROOT / "demo" / "metrics.json"))
    return found


def run_part(part: Part, seconds: float, log: IO[str]) -> dict[str, Any]:
    """Run a part for at most `seconds`.

    Returns its name, status ("ok", "failed" or "over time"), seconds, the tail of its output, and its result, if any.
    """
    log.write(f"\n=== {part.name}: {' '.join(part.command)}\n")
    log.flush()
    begin, started = log.tell(), time.monotonic()
    process = subprocess.Popen(part.command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        status = "ok" if process.wait(seconds) == 0 else "failed"
    except subprocess.TimeoutExpired:
        status = "over time"
    finally:
        if process.poll() is None:
            kill_group(process)
    taken = round(time.monotonic() - started, 1)
    output = Path(log.name).read_bytes()[begin:].decode(errors="replace")
    found: dict[str, Any] = {"name": part.name, "status": status, "seconds": taken, "tail": output.splitlines()[-40:]}
    if status == "ok" and part.result is not None:
        found["result"] = json.loads(part.result.read_text())
    return found


def kill_group(process: subprocess.Popen) -> None:
    """End a process and all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def learned(found: dict[str, Any]) -> dict[str, Any]:
    """Judge the demonstration by the mIoU that GSVNet reached."""
    reached = found.get("result", {}).get("avg_miou") or 0.0
    status = found["status"] if found["status"] != "ok" or reached >= LEARNED else "failed"
    table = [f"average mIoU of GSVNet: {reached:.4f}, at least {LEARNED} required", *found["tail"][-12:]]
    return found | {"status": status, "result": {"table": table}}


def as_markdown(content: dict[str, Any]) -> str:
    """The page: a table of the parts, then what each of them printed as its result."""
    lines = [machine_line(content["machine"]), "", "| part | status | seconds |", "|---|---|---:|"]
    lines += [f"| {part['name']} | {part['status']} | {part['seconds']:.0f} |" for part in content["parts"]]
    for part in content["parts"]:
        table = part.get("result", {}).get("table") or part["tail"][-25:]
        lines += ["", f"## {part['name']}", "", *(f"    {line}" for line in table)]
    return "\n".join(lines) + "\n"


def main(words: Sequence[str]) -> int:
    """Run the parts. words: FOLDER, the budget in seconds, first words of the parts to run (all by default).

    Returns 0 if every part is in order, 1 if not, 2 without a GPU.
    """
    folder, budget, chosen = Path(words[0]), float(words[1]), tuple(words[2:]) or ("",)
    if not torch.cuda.is_available():
        print("error: make gpu: PyTorch finds no usable GPU here", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"machine": machine(torch.device("cuda")), "parts": []}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as made, open(folder / "gpu.log", "w") as log:
        for part in (part for part in parts(Path(made)) if part.name.startswith(chosen)):
            left = budget - (time.monotonic() - started)
            if left < 10:
                found: dict[str, Any] = {"name": part.name, "status": "no time left", "seconds": 0.0, "tail": []}
            else:
                found = run_part(part, min(part.seconds, left), log)
            found = learned(found) if part.name.startswith("learning") else found
            content["parts"].append(found)
            write_json(folder / "gpu.json", content)
            write_text(folder / "gpu.md", as_markdown(content))
            said = (f"{found['name']}: {found['status']}, {found['seconds']:.0f} s", *found["tail"][-12:])
            print(*said, sep="\n    ", flush=True)
    return int(any(part["status"] != "ok" for part in content["parts"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
