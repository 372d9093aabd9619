#!/usr/bin/env python3
"""Runs a demo's experiment with several seeds and settings, and keeps every row of what it found: for
lessons that compare, one run is an anecdote.

    tools/seeds.py 05_moe/figures/seeds.csv        an experiment that is listed below
    tools/seeds.py --list

Each run is the demo with the setting's flags and --seed 1, 2, ...; the CSV that it leaves is copied row
by row (or its last row alone), behind two columns:

    flags    the setting, - for none
    seed

Lessons quote the lowest and highest of the seeds by <!-- table: ... --> (tools/lesson_sync.py). Only
results are kept, no times, so other programs may use the machine meanwhile. Build first.
"""

import argparse
import csv
import datetime
import pathlib
import shlex
import subprocess
import sys

from measure import commit

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIBLE = "build/corpus/bible.txt"  # make corpus

# The file; the demo, what it leaves, whether of a run only the last row counts; the flags of each setting.
LISTED = {
    "05_moe/figures/seeds.csv": {
        "command": f"05_moe/demo --text {BIBLE}",
        "leaves": "05_moe/figures/out/runs.csv",
        "settings": [
            "",
            "--experts 4",
            "--experts 16",
            "--experts 32 --top-k 4",
            "--shared 0",
            "--shared 2",
            "--top-k 1",
            "--top-k 4",
            "--balance seq",
            "--scoring softmax --balance aux",
            "--router noisy --scoring softmax --balance cv",
            "--router centroid",
        ],
    },
    "07_rope/figures/seeds.csv": {
        "command": "07_rope/demo",
        "leaves": "07_rope/figures/out/length.csv",
        "settings": ["", "--beta-fast 1.01 --tune 0", "--mscale 0"],
    },
    "08_quant/figures/seeds.csv": {
        "command": "08_quant/demo",
        "leaves": "08_quant/figures/out/methods.csv",
        "settings": ["", "--steps 960"],
    },
    "09_grpo/figures/seeds.csv": {
        "command": "09_grpo/demo",
        "leaves": "09_grpo/figures/out/reward.csv",
        "settings": [""],
    },
    "09_grpo/figures/settings.csv": {
        "command": "09_grpo/demo --steps 200",
        "leaves": "09_grpo/figures/out/reward.csv",
        "last": True,
        "settings": [
            "",
            "--beta 1",
            "--scale none",
            "--scale batch",
            "--generations 2 --prompts 256",
            "--generations 32 --prompts 16",
            "--rewards format",
            "--rewards format --beta 1",
            "--lr 1e-4",
            "--lr 1e-2",
            "--lr 3e-2",
            "--steps 50 --iterations 4",
            "--steps 50 --iterations 16",
            "--steps 50 --iterations 16 --loss reinforce",
            "--loss grpo",
            "--loss dr_grpo",
            "--loss cispo",
            "--loss sapo",
        ],
    },
}


def run(command, setting, seed, leaves):
    """The rows that one run leaves, and what its CSV says of the machine."""
    words = shlex.split(f"./{command} {setting} --seed {seed} --threads 1")
    print(f"$ {' '.join(words)}", flush=True)
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"seeds.py: that ended with status {done.returncode}; nothing was written:\n{done.stdout[-2000:]}")
    lines = (ROOT / leaves).read_text().splitlines()
    head = [line for line in lines if line.startswith(("# compiler", "# cpu", "# blas", "# device"))]
    return list(csv.DictReader(line for line in lines if not line.startswith("#"))), head


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="the CSV to write")
    parser.add_argument("--list", action="store_true", help="the experiments, and their settings")
    parser.add_argument("--seeds", type=int, default=5, help="1 to N (default 5)")
    c = parser.parse_args()
    if c.list or not c.file:
        for file, e in LISTED.items():
            print(file, *(f"{e['command']} {s}" for s in e["settings"]), sep="\n    ")
        return
    if c.file not in LISTED:
        parser.error(f"{c.file} is not listed (--list)")
    experiment, rows, head = LISTED[c.file], [], []
    for setting in experiment["settings"]:
        for seed in range(1, c.seeds + 1):
            new, head = run(experiment["command"], setting, seed, experiment["leaves"])
            kept = new[-1:] if experiment.get("last") else new
            rows += [{"flags": setting or "-", "seed": seed, **row} for row in kept]
    with open(ROOT / c.file, "w", newline="") as file:
        for line in [f"# made by: tools/seeds.py {c.file}", f"# commit: {commit()}",
                     f"# command: {experiment['command']} FLAGS --seed SEED --threads 1", *head,
                     f"# date: {datetime.date.today()}"]:
            file.write(line + "\n")
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"seeds.py: {c.file}: {len(rows)} rows")


if __name__ == "__main__":
    main()
