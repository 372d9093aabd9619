#!/usr/bin/env python3
"""What training in FP8 costs: the same runs with `deepseek train --fp8` and without, and their losses on validation
text.

    tools/fp8_loss.py TEXT FILE.csv [--device cuda --dtype bf16] [--steps 1000] [--seeds 1 2 3] [-- FLAGS of train]
                                                      make 10_full_model first

Both runs of a seed begin with the same weights and see the same windows, so they differ by FP8's rounding alone; but
after some hundred steps any difference, however small, has become another run. How much that is the column `chance`
says: a third run, whose first learning rate is 1e-6 larger. On a CPU FP8 is imitated: right numbers, no speed.

    seed, plain, fp8, chance     loss of the last step on validation text (as many windows as --windows says)
    fp8_percent, chance_percent  of `plain`
"""

import argparse
import csv
import datetime
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

from measure import commit

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEEPSEEK = ROOT / "10_full_model/deepseek"
COLUMNS = "seed,plain,fp8,chance,fp8_percent,chance_percent".split(",")
RATE = 0.003  # train's own


def deepseek(*arguments):
    done = subprocess.run([DEEPSEEK, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"fp8_loss.py: deepseek {' '.join(map(str, arguments))}\n{done.stdout}")
    return done.stdout


def trained(c, seed, scratch, *flags):
    """The validation loss of a run's last step."""
    where = ["--device", c.device] + (["--dtype", c.dtype] if c.dtype else [])
    deepseek("train", "--data", c.text, "--steps", c.steps, "--seed", seed, "--out", scratch / "run", "--overwrite",
             "--eval-every", c.steps, *where, *c.flags, *flags)  # fmt: skip
    tail = scratch / "tail.txt"  # train keeps the last twentieth for validation
    tail.write_bytes(c.text.read_bytes()[-c.text.stat().st_size // 20 :])
    out = deepseek("eval", "--model", scratch / "run" / "last", "--data", tail, "--windows", c.windows, *where)
    return float(re.search(r"loss ([\d.]+)", out)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("csv", type=pathlib.Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", help="bf16 on a GPU, where FP8 needs it")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--windows", type=int, default=900)
    parser.add_argument("flags", nargs="*", help="more flags of train, behind --")
    c = parser.parse_args()
    c.text = c.text.resolve()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        for seed in c.seeds:
            plain = trained(c, seed, scratch)
            fp8 = trained(c, seed, scratch, "--fp8")
            chance = trained(c, seed, scratch, "--learning-rate", RATE * (1 + 1e-6))
            rows.append(dict(seed=seed, plain=f"{plain:.4f}", fp8=f"{fp8:.4f}", chance=f"{chance:.4f}",
                             fp8_percent=f"{100 * (fp8 / plain - 1):.3f}", chance_percent=f"{100 * (chance / plain - 1):.3f}"))  # fmt: skip
            print(f"seed {seed}: loss {plain:.4f}, in FP8 {fp8:.4f} ({rows[-1]['fp8_percent']} %), by chance {chance:.4f} "
                  f"({rows[-1]['chance_percent']} %)", flush=True)  # fmt: skip
    for name in "fp8", "chance":
        print(f"{name}: {statistics.mean(float(r[name + '_percent']) for r in rows):+.3f} % on average of {len(rows)} seeds")
    with open(c.csv, "w", newline="") as file:
        for line in [f"# command: tools/fp8_loss.py {c.text.name} --device {c.device} --steps {c.steps} -- {' '.join(c.flags)}".rstrip(" -"),
                     f"# commit: {commit()}", f"# date: {datetime.date.today()}"]:  # fmt: skip
            file.write(line + "\n")
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
