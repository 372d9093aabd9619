#!/usr/bin/env python3
"""Runs a benchmark and its peers one after the other and keeps every row of their tables: the numbers
that the lessons quote.

    tools/measure.py 02_causal/figures/measured_cuda.csv             a measurement that is listed below
    tools/measure.py --list
    tools/measure.py FILE.csv --ours "COMMAND" --peer "COMMAND"      any other

A table is what common/program/bench.c and tools/peers/table.py print: a title, then rows with the
fastest time, the median, and rates of the fastest. The CSV has a line for each row:

    who      ours, or the peer's script
    table    the title above it
    row      its name
    min_ms, median_ms, gflops (of the fastest), percent_of_peak, gbs, percent_of_copy
    note     what else the row says: tokens/s, memory

Lessons quote it by <!-- table: ... --> (tools/lesson_sync.py). Build first; --programs DIR takes
programs from there, named as gpu_pack names them (05_moe.bench for 05_moe/bench).
"""

import argparse
import csv
import datetime
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLUMNS = "who,table,row,min_ms,median_ms,gflops,percent_of_peak,gbs,percent_of_copy,note".split(",")

# What the lessons quote: the file, our command, the peers' commands.
GPU = "--device cuda --dtype bf16"
STEP = "--config 109m --batch 32 --context 1024 --vocab 50257"
LISTED = {
    "02_causal/figures/measured_cuda.csv": [
        f"02_causal/bench {GPU} --seconds 0.3",
        "tools/peers/attention.py --device cuda --seconds 0.3",
    ],
    "03_multihead/figures/measured_cuda.csv": [
        "03_multihead/bench --device cuda --seconds 0.2",
    ],
    "04_mla/figures/measured_cuda.csv": [
        f"04_mla/bench {GPU} --seconds 0.2",
        "tools/peers/mla.py --device cuda --seconds 0.2 --ways matmul",  # the fastest there
    ],
    "05_moe/figures/measured_cuda.csv": [
        f"05_moe/bench_grouped {GPU} --seconds 0.2",
        "tools/peers/moe_grouped.py --seconds 0.2",
    ],
    "07_rope/figures/measured_cuda.csv": [
        f"07_rope/bench {GPU} --seconds 0.1",
        "tools/peers/rope.py --device cuda",
    ],
    "09_grpo/figures/step_cuda.csv": [
        f"09_grpo/bench_step {GPU}",
        f"tools/peers/grpo_step.py {GPU}",
    ],
    "10_full_model/figures/measured_cuda.csv": [
        f"10_full_model/bench {GPU} {STEP}",
        f"tools/peers/train_step.py {GPU} {STEP} --experts grouped_mm --mode compile --what train --steps 10",
    ],
    "02_causal/figures/measured_cpu.csv": [
        "02_causal/bench --threads 1 --seconds 0.5",
        *(f"tools/peers/attention.py --threads 1 --tokens {t} --dims 64 --seconds 0.5" for t in (256, 512, 1024, 2048)),
    ],
    "04_mla/figures/measured_cpu.csv": [
        "04_mla/bench --seconds 0.5",
        "tools/peers/mla.py --naive --seconds 0.5",
    ],
    "05_moe/figures/measured_cpu.csv": [
        "05_moe/bench --seconds 0.5",
        "tools/peers/moe.py --compile --seconds 0.5",
    ],
    "07_rope/figures/measured_cpu.csv": [
        "07_rope/bench --seconds 0.5",
        "tools/peers/rope.py --seconds 0.5",
    ],
    "10_full_model/figures/measured_cpu.csv": [
        "10_full_model/bench",
        "tools/peers/train_step.py",
    ],
}

TIME = r"(\d[\d.e+-]*) (us|ms|s)"
ROW = re.compile(rf"^  (\S.*?)\s+{TIME}\s+{TIME}(.*)$")
MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
MACHINE = re.compile(r"^(cpu|gpu|ceilings|PyTorch|transformers|model)\b")


def rates(text):
    """The four columns behind the times, and what follows them."""
    m = re.match(r"\s+([\d.]+|-)\s+(?:([\d.]+)%|-)\s+([\d.]+|-)\s+(?:([\d.]+)%|-)\s*(.*)$", text)
    if not m:
        return ["", "", "", ""], " ".join(text.split())
    return [g if g and g != "-" else "" for g in m.groups()[:4]], m[5].strip()


def rows_of(who, text):
    """The rows in what a program printed, and the lines that describe the machine."""
    rows, machine, table, last = [], [], "", ""
    for line in text.splitlines():
        m = ROW.match(line)
        if m:
            numbers, note = rates(m[6])
            times = [f"{float(m[i]) * MILLISECONDS[m[i + 1]]:.6g}" for i in (2, 4)]
            rows.append([who, table, m[1].strip(), *times, *numbers, note])
        elif re.match(r"^\s+min\s+median\b", line):
            table = last
        elif MACHINE.match(line):
            machine.append(f"{who}: {line}")
        if line.strip():
            last = line.strip()
    return rows, machine


def run(command, programs):
    """What the command prints; shown while it runs."""
    words = shlex.split(command)
    if words[0].endswith(".py"):
        words = [sys.executable, str(ROOT / words[0]), *words[1:]]
    elif programs:
        words[0] = str(pathlib.Path(programs) / words[0].replace("/", "."))
    else:
        words[0] = "./" + words[0]
    print(f"$ {' '.join(words)}", flush=True)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        sys.exit(f"measure.py: '{command}' ended with status {process.returncode}; nothing was written")
    return "".join(lines)


def commit():
    done = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout.strip() or "unknown"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="the CSV to write")
    parser.add_argument("--list", action="store_true", help="the measurements that have a name")
    parser.add_argument("--ours", help="our command, for a file that is not listed")
    parser.add_argument("--peer", action="append", default=[], help="a peer's command")
    parser.add_argument("--programs", help="folder of built programs, named 05_moe.bench")
    parser.add_argument("--commit", default=commit(), help="for a tree without git")
    c = parser.parse_args()
    if c.list or not c.file:
        for file, commands in LISTED.items():
            print(file, *commands, sep="\n    ")
        return
    commands = [c.ours, *c.peer] if c.ours else LISTED.get(c.file)
    if not commands:
        parser.error(f"{c.file} is not listed (--list): say how by --ours and --peer")
    rows, head = [], []
    for command in commands:
        who = pathlib.Path(command.split()[0]).stem if command.split()[0].endswith(".py") else "ours"
        new, machine = rows_of(who, run(command, c.programs))
        if not new:
            sys.exit(f"measure.py: '{command}' printed no table; nothing was written")
        rows += new
        head += [f"command: {command}", *machine]
    target = ROOT / c.file
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target, "w", newline="") as file:
        for line in [f"made by: tools/measure.py {c.file}", f"commit: {c.commit}", *head,
                     f"date: {datetime.date.today()}"]:
            file.write(f"# {line}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    print(f"measure.py: {c.file}: {len(rows)} rows")


if __name__ == "__main__":
    main()
