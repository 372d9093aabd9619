#!/usr/bin/env python3
"""Kills deepseek (SIGKILL) at random moments, as often as it is told to, and looks at what is left.

    tools/kill_training.py --data build/corpus/bible.txt [--kills 20] [--steps 60] [-- FLAG...]
    tools/kill_training.py --what grpo [--kills 20] [--steps 60] [-- FLAG...]
    tools/kill_training.py --what convert|data [--kills 20]

train, grpo: runs are killed and resumed until they end, one run after the other until there were so many
kills. After each kill every model that is in the folder must load; each run that came to its end
must be, in every byte of its models and its training state, what a run is that was left alone, and
have the same steps in its metrics. FLAGs are passed on (--device cuda --dtype bf16, say).
convert, data: one model, or set of shards, takes the place of another. After each kill the folder
must hold the one or the other, whole.

Exits with 1 at the first thing that is wrong, and leaves the folders there.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = Path(__file__).resolve().parent.parent / "10_full_model" / "deepseek"
STATE = ["model.safetensors", "last/model.safetensors", "last/training.safetensors"]


def deepseek(*words, seconds=None):
    """Runs it, for `seconds` at most. What it printed; None if it was killed."""
    process = subprocess.Popen(
        [str(word) for word in [PROGRAM, *words]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None
    if process.returncode:
        wrong(f"deepseek {words[0]} failed: {err.strip().splitlines()[-1]}")
    return out


def wrong(what):
    sys.exit(f"kill_training.py: {what}")


def timed(*words):
    begin = time.monotonic()
    deepseek(*words)
    return time.monotonic() - begin


class Kills:
    """The moments, and what was counted."""

    def __init__(self, wanted):
        self.wanted, self.done, self.found = wanted, 0, {}

    def try_one(self, length, *words):
        """Starts it and kills it within `length` seconds. True if it came to its end before."""
        seconds = random.uniform(0, length)
        if deepseek(*words, seconds=seconds) is not None:
            return True
        self.done += 1
        return False

    def note(self, what):
        self.found[what] = self.found.get(what, 0) + 1

    def report(self, more):
        found = ", ".join(f"{count} {what}" for what, count in sorted(self.found.items()))
        print(f"{self.done} kills: {found}; {more}")


# ---- training ----


def steps_in(out):
    path = out / "metrics.csv"
    lines = path.read_text().splitlines() if path.exists() else []
    return [int(line.split(",")[0]) for line in lines if line[:1].isdigit() and "," in line]


def look_at_run(out, data, kills):
    """Every model that is there must load."""
    models = [m for m in (out, out / "last") if (m / "config.json").exists()]
    for model in models:
        deepseek("eval", "--model", model, "--data", data, "--windows", 1, "--context", 16)
    state = "with" if (out / "last" / "training.safetensors").exists() else "before"
    kills.note(f"{state} a saved state")


def kill_training(options, folder, kills):
    words = ["train", "--vocab", 512, "--dropout", 0.1, "--peak", 0, "--data", options.data]
    kill_runs(options, folder, kills, words)


def kill_grpo(options, folder, kills):
    task = ["--task", "addition", "--reversed"]
    teach = ["sft", "--config", "nano", *task, "--steps", 40, "--batch", 32]
    deepseek(*teach, "--out", folder / "taught", *options.more)
    words = ["grpo", "--model", folder / "taught", *task, "--prompts", 4, "--num-generations", 4]
    words += ["--eval-prompts", 8, "--beta", 0.01, "--sync-ref-model", "yes"]
    kill_runs(options, folder, kills, words + ["--ref-model-sync-steps", 7])


def kill_runs(options, folder, kills, words):
    flags = ["--steps", options.steps, "--eval-every", options.eval_every, "--resume"]
    flags += ["--warmup", options.steps // 4, "--constant", options.steps // 4]
    words = [*words, *flags, *options.more]
    whole, parts, runs = folder / "whole", folder / "parts", 0
    length = timed(*words, "--out", whole)
    print(f"left alone: {options.steps} steps in {length:.1f} s", flush=True)
    while kills.done < kills.wanted or parts.exists():
        if kills.done < kills.wanted:
            done = kills.try_one(0.7 * length, *words, "--out", parts)
        else:
            done = deepseek(*words, "--out", parts) is not None
        if not done:
            look_at_run(parts, options.data, kills)
            continue
        for name in STATE:
            if (whole / name).read_bytes() != (parts / name).read_bytes():
                wrong(f"{parts / name} is not {whole / name}")
        steps = steps_in(whole)
        if steps_in(parts) != steps or steps != list(range(steps[0], options.steps + 1)):
            wrong(f"{parts / 'metrics.csv'} does not have each step once")
        if left := [p for p in parts.rglob("*") if ".tmp" in p.name or ".incoming" in p.name]:
            wrong(f"left behind: {left}")
        shutil.rmtree(parts)
        runs += 1
    kills.report(f"{runs} runs were resumed to their end: every byte is the same")


# ---- one set of files in the place of another ----


def kill_replacing(kills, length, old, target, look, *words):
    """look(folder) says what it holds: "the old", or "the new"."""
    while kills.done < kills.wanted:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(old, target)
        if not kills.try_one(1.1 * length, *words):
            kills.note(look(target))
    deepseek(*words)
    if left := [p for p in target.rglob("*") if ".tmp" in p.name or ".incoming" in p.name]:
        wrong(f"left behind: {left}")
    kills.report("each time one of them, whole")


def kill_convert(options, folder, kills):
    old, new, target = folder / "old", folder / "new", folder / "target"
    for out, vocab in ((folder / "a", 300), (folder / "b", 512)):
        flags = ["--steps", 2, "--vocab", vocab, "--peak", 0, "--data", options.data]
        deepseek("train", *flags, "--out", out, *options.more)
    deepseek("convert", "--model", folder / "a", "--out", old)
    words = ["convert", "--model", folder / "b", "--shard-mb", 0.5, "--out"]
    length = timed(*words, new)

    def measure(model):
        return deepseek("eval", "--model", model, "--data", options.data, "--windows", 4)

    known = {measure(old): "the old", measure(new): "the new"}

    def look(model):
        return known.get(measure(model)) or wrong(f"{model} is neither model")

    kill_replacing(kills, length, old, target, look, *words, target, "--overwrite")


def kill_data(options, folder, kills):
    old, new, target = folder / "old", folder / "new", folder / "target"
    words = ["data", options.data, "--split", "lines", "--no-limits", "--near", 0, "--vocab", 300]
    words += ["--shard-tokens", 100000]
    deepseek(*words, "--seed", 1, "--out", old)
    length = timed(*words, "--seed", 2, "--out", new)
    known = {(f / "index.json").read_bytes(): f"the {f.name}" for f in (old, new)}

    def look(shards):
        deepseek("data", "--verify", shards)
        return known.get((shards / "index.json").read_bytes()) or wrong(f"{shards} is neither")

    words += ["--seed", 2, "--out", target, "--overwrite"]
    kill_replacing(kills, length, old, target, look, *words)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = {"train": kill_training, "grpo": kill_grpo, "convert": kill_convert, "data": kill_data}
    parser.add_argument("--what", choices=what, default="train")
    parser.add_argument("--data", default="build/corpus/bible.txt")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--eval-every", type=int, default=5, help="and save (default 5)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("more", nargs="*", help="flags for deepseek, after --")
    options = parser.parse_args()
    random.seed(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="kill-training-"))
    what[options.what](options, folder, Kills(options.kills))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
