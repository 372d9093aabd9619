#!/usr/bin/env python3
"""Kills training at random moments, resumes it until it ends, and compares with a run left alone.

    tools/kill_training.py --data build/corpus/bible.txt [--kills 10] [--steps 60] [-- FLAG...]

Both runs are 10_full_model/deepseek train with the same flags; those after -- are passed on
(--device cuda --dtype bf16, say). Model, best model and training state must be the same bytes, and the
metrics must have each step once. Exits with 1 if they are not.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = Path(__file__).resolve().parent.parent / "10_full_model" / "deepseek"
FILES = ["model.safetensors", "last/model.safetensors", "last/training.safetensors"]


def command(options, out):
    flags = ["--steps", options.steps, "--eval-every", options.eval_every, "--vocab", 512]
    flags += ["--warmup", options.steps // 4, "--constant", options.steps // 4, "--dropout", 0.1]
    flags += ["--peak", 0, "--resume", "--data", options.data, "--out", out]
    return [str(word) for word in [PROGRAM, "train", *flags, *options.more]]


def train(options, out, seconds=None):
    """Runs it, for `seconds` at most. True if it came to its end."""
    process = subprocess.Popen(
        command(options, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        _, text = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return False
    if process.returncode:
        sys.exit(f"kill_training.py: training failed: {text.strip().splitlines()[-1]}")
    return True


def steps_in(out):
    lines = (out / "metrics.csv").read_text().splitlines()
    return [int(line.split(",")[0]) for line in lines if line[0].isdigit()]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="build/corpus/bible.txt")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--eval-every", type=int, default=5, help="and save (default 5)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("more", nargs="*", help="flags for deepseek train, after --")
    options = parser.parse_args()
    random.seed(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="kill-training-"))
    whole, parts = folder / "whole", folder / "parts"
    begin = time.monotonic()
    train(options, whole)
    length = time.monotonic() - begin
    print(f"left alone: {options.steps} steps in {length:.1f} s", flush=True)
    done = False
    for kill in range(options.kills):
        # From "hardly started" to "nearly done with what is left": short enough to need many.
        seconds = random.uniform(0.1, 0.6) * length
        done = train(options, parts, seconds)
        if done:
            break
        reached = steps_in(parts)[-1:] if (parts / "metrics.csv").exists() else []
        print(f"killed after {seconds:.2f} s, at step {reached[0] if reached else 0}", flush=True)
    if not done:
        train(options, parts)
    wrong = [f for f in FILES if (whole / f).read_bytes() != (parts / f).read_bytes()]
    for name in wrong:
        print(f"{name} differs: {whole / name} and {parts / name}")
    if steps_in(parts) != list(range(1, options.steps + 1)):
        wrong.append("metrics.csv")
        print(f"{parts / 'metrics.csv'} does not have each step once")
    if wrong:
        sys.exit(1)
    shutil.rmtree(folder)
    print("resumed to the end: every byte is the same")


if __name__ == "__main__":
    main()
