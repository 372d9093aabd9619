#!/usr/bin/env python3
"""Asks the GPU's counters what limits each rung of a ladder: Nsight Compute over our benchmarks.

    tools/counters.py 01_self_attention           a chapter of the list below, into its figures/profile_cuda.csv
    tools/counters.py 01_self_attention 02_causal 04_mla
    tools/counters.py --list

A benchmark that is given --counters GLOB times the rows that fit as ever, then runs each of them once
more, alone between cudaProfilerStart and cudaProfilerStop, behind a kernel named profile_mark whose
number of blocks is the row's number. ncu repeats each kernel there a few times, because the chip can
count only so much at once. Of a row's kernels the longest is told, and what part of the row it is.

How a row reads. `time` is the benchmark's own, without ncu, and so are the shares of the peak and of
the copy; all else is ncu's, each kernel alone. The busiest unit is told in percent of what it can do,
over the kernel's time; one block fills one processor of 132, so of the steps of chapter 01 the busiest
processor counts. A warp that issues no instruction waits for something: told is what warps wait for
most, and the clocks of it for each instruction that is issued. A unit of 80 % and more limits; when none is
that busy, it is the waiting. Clocks are left as they are (--clock-control none), caches too.

It needs ncu in PATH, the right to read counters, and built programs; --programs DIR takes them from
there, named 05_moe.bench as tools/measure.py does.
"""

import argparse
import collections
import csv
import datetime
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

from measure import commit

ROOT = pathlib.Path(__file__).resolve().parent.parent

GPU = "--device cuda --dtype bf16 --seconds 0.05"
LISTED = {
    "01_self_attention": [
        "01_self_attention/bench --device cuda --seconds 0.05 --counters '*: @(F32|BF16)  *'",
        "01_self_attention/steps --counters",
    ],
    "02_causal": [
        f"02_causal/bench {GPU} --counters '*T 4096,*BF16: @(forward|backward): @(materialised|online|tiled|mma|hopper)'",
    ],
    "04_mla": [
        f"04_mla/bench {GPU} --counters '*: B @(128|1), H @(16|128), q 1, @(8192|65536)  @(naive|online|split|mma|hopper)'",
    ],
    "05_moe": [
        f"05_moe/bench_grouped {GPU} --counters '64 experts, 65536 rows, 2048 -> 1024: @(plain|mma|hopper)  *'",
    ],
    "10_full_model": [
        f"10_full_model/bench_sparse {GPU} --counters '*: @(B 128, q 1, of 131072|1 of 131072|2048 of 131072, 64|4096 of 65536)*'",
    ],
    "08_quant": [
        f"08_quant/bench_fp8 {GPU} --few --counters '4096 x 7168 x 16384: *'",
    ],
}

# What is asked for: our name, then ncu's, then what it is called in a sentence ("": no unit of its own).
UNITS = [
    ("dram", "dram__throughput.avg.pct_of_peak_sustained_elapsed", "memory"),
    ("l2", "lts__throughput.avg.pct_of_peak_sustained_elapsed", "L2 cache"),
    ("l1", "l1tex__throughput.avg.pct_of_peak_sustained_elapsed", "L1 and shared memory"),
    ("tensor", "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed", "tensor cores"),
    ("fma", "sm__inst_executed_pipe_fma.avg.pct_of_peak_sustained_elapsed", "multiply-add units"),
    ("xu", "sm__inst_executed_pipe_xu.avg.pct_of_peak_sustained_elapsed", "special functions"),
    ("issue", "sm__inst_issued.avg.pct_of_peak_sustained_elapsed", "instruction slots"),
]
COUNTS = [
    ("kernel_us", "gpu__time_duration.sum"),
    ("clock_mhz", "sm__cycles_elapsed.avg.per_second"),
    ("dram_mb", "dram__bytes.sum"),
    ("l2_mb", "lts__t_bytes.sum"),
    ("occupancy", "sm__warps_active.avg.pct_of_peak_sustained_active"),
    ("registers", "launch__registers_per_thread"),
    ("shared_wavefronts", "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum"),
    ("bank_conflicts", "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum"),
    ("sectors_a_load", "l1tex__average_t_sectors_per_request_pipe_lsu_mem_global_op_ld.ratio"),
]
SCALE = {"kernel_us": 1e-3, "clock_mhz": 1e-6, "dram_mb": 1e-6, "l2_mb": 1e-6}  # of ncu's base units
STALL = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
STALLS = {  # ncu's word, and ours
    "long_scoreboard": "data from memory or the L2 cache",
    "short_scoreboard": "data from shared memory",
    "mio_throttle": "the queue of shared memory",
    "lg_throttle": "the queue of loads and stores",
    "tex_throttle": "the queue of the texture unit",
    "math_pipe_throttle": "a busy arithmetic unit",
    "wait": "the instruction before, whose time is fixed",
    "barrier": "a barrier of the block",
    "membar": "a memory fence",
    "gmma": "the warpgroup's products",
    "sleeping": "a sleep",
    "branch_resolving": "a branch",
    "no_instruction": "instructions",
    "dispatch_stall": "dispatch",
    "drain": "stores at its end",
    "imc_miss": "constants",
    "misc": "other things",
    "not_selected": "its turn: another warp was chosen",
}
LIMITS = 80  # percent; from here on a unit is what limits
COLUMNS = (
    ["table", "row", "time_us", "percent_of_peak", "percent_of_copy", "kernel", "share_of_row", "kernels"]
    + [name for name, _ in COUNTS]
    + [name for name, _, _ in UNITS]
    + ["stall", "stall_clocks", "stall_share", "second_stall", "second_clocks", "limit"]
)


class Unreadable(Exception):
    """ncu ran and gave no counters; every other try would end like this one."""


def wanted_metrics():
    return [m for _, m in COUNTS] + [m for _, m, _ in UNITS] + [STALL.format(s) for s in STALLS]


def known_metrics(ncu):
    """Those of wanted_metrics() that this chip has; ncu lists them without what follows the dot."""
    said = subprocess.run([ncu, "--query-metrics"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    names = {line.split()[0] for line in said.stdout.splitlines() if line.strip()}
    if said.returncode or "gpu__time_duration" not in names:
        last = " / ".join(said.stdout.strip().split("\n")[-3:])
        raise Unreadable(f"ncu --query-metrics knows no counters here: {last}")
    stalls = any("issue_stalled" in name for name in names)  # else it lists no ratios, and may have them
    return [m for m in wanted_metrics()
            if m.split(".")[0] in names or m.startswith("launch__") or not stalls and m.endswith(".ratio")]


def number(text):
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return float("nan")


def read(text):
    """[(range, [kernel, ...]), ...] of what a program under ncu printed: range is its line's fields, a
    kernel {"kernel": name, metric: value}."""
    ranges, kernels, marked = {}, {}, collections.defaultdict(list)
    table = []
    for line in text.splitlines():
        found = re.search(r"range (\d+)\|(.*)$", line)
        if found:
            ranges[int(found[1])] = found[2].split("|")
        elif line.startswith('"'):  # all else is ncu's own talk, or the program's
            table.append(line)
    for row in csv.DictReader(table):
        if "Metric Name" not in row:
            raise Unreadable("ncu's table has no column 'Metric Name': " + ", ".join(row))
        kernel = kernels.setdefault(int(row["ID"]), {"kernel": row["Kernel Name"], "grid": row["Grid Size"]})
        kernel[row["Metric Name"]] = number(row["Metric Value"])
    current = None
    for _, kernel in sorted(kernels.items()):
        if kernel["kernel"].startswith("profile_mark"):
            current = int(re.search(r"\d+", kernel["grid"])[0])
        elif current:
            marked[current].append(kernel)
    return [(ranges[i], marked[i]) for i in sorted(ranges)]


def judged(fields, kernels):
    """A row of the CSV, by COLUMNS."""
    table, name, us, peak, copy = fields
    total = sum(k.get("gpu__time_duration.sum", 0) for k in kernels)
    k = max(kernels, key=lambda one: one.get("gpu__time_duration.sum", 0))
    row = {"table": table, "row": " ".join(name.split()), "time_us": us, "percent_of_peak": peak, "percent_of_copy": copy}
    name = k["kernel"].removeprefix("void ").replace("(anonymous namespace)::", "")
    row["kernel"] = re.sub(r"\((?:[^()]|\([^()]*\))*\)$", "", name)  # without the function's arguments
    row["share_of_row"] = k.get("gpu__time_duration.sum", 0) / total if total else float("nan")
    row["kernels"] = len(kernels)
    for own, metric in COUNTS:
        row[own] = k.get(metric, float("nan")) * SCALE.get(own, 1)
    busy = []
    for own, metric, words in UNITS:
        row[own] = k.get(metric, k.get(metric.replace(".avg.", ".max."), float("nan")))
        if row[own] == row[own]:
            busy.append((row[own], words))
    waits = [(k.get(STALL.format(s), float("nan")), s) for s in STALLS]
    waits = sorted((w for w in waits if w[0] == w[0]), reverse=True)
    clocks = sum(w for w, _ in waits) + 1  # a warp's clocks for an instruction, that of issuing included
    for i, (name, of) in enumerate((("stall", "stall_clocks"), ("second_stall", "second_clocks"))):
        if len(waits) > i:
            row[of], row[name] = waits[i]
    row["stall_share"] = waits[0][0] / clocks if waits else float("nan")
    top = max(busy, default=(float("nan"), "nothing"))
    if top[0] >= LIMITS or not waits:
        row["limit"] = f"{top[1]}, {top[0]:.0f} %"
    else:
        row["limit"] = (f"waiting for {STALLS[waits[0][1]]}, {waits[0][0] / clocks:.0%} of a warp's time; "
                        f"busiest: {top[1]}, {top[0]:.0f} %")
    return row


def shown(rows):
    table = None
    for row in rows:
        if row["table"] != table:
            table = row["table"]
            print(f"\n{table}\n  {'':<36} {'us':>9} {'of peak':>7} {'of copy':>7}  what limits it")
        times = [f"{number(row[c]):.{d}f}" if number(row[c]) == number(row[c]) else "-"
                 for c, d in (("time_us", 1), ("percent_of_peak", 1), ("percent_of_copy", 1))]
        print(f"  {row['row']:<36} {times[0]:>9} {times[1]:>7} {times[2]:>7}  {row['limit']}")


def short(value):
    return f"{value:.4g}" if isinstance(value, float) else value


def write(path, chapter, head, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        for line in [f"made by: tools/counters.py {chapter}", *head, f"date: {datetime.date.today()}"]:
            file.write(f"# {line}\n")
        out = csv.DictWriter(file, COLUMNS, lineterminator="\n", restval="")
        out.writeheader()
        out.writerows({c: short(v) for c, v in row.items()} for row in rows)


def program_of(words, programs):
    path = str(pathlib.Path(programs) / words[0].replace("/", ".")) if programs else "./" + words[0]
    if not (ROOT / path).is_file() and not pathlib.Path(path).is_file():
        sys.exit(f"counters.py: there is no {path}: make all CUDA=1, or --programs DIR")
    return path


def run(line, folder, seconds):
    """What it prints, within so many seconds; no process of it is left."""
    with subprocess.Popen(line, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          start_new_session=True) as process:
        try:
            return process.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.communicate()[0]


def profile(ncu, metrics, command, programs, seconds):
    """What the command prints under ncu. After so many seconds the program is stopped, and ncu, which
    outlives it, tells what it has."""
    words = shlex.split(command)
    if words[0].endswith("/steps"):  # one block
        units = [u for _, u, _ in UNITS]
        metrics = [m.replace(".avg.", ".max.") if m in units else m for m in metrics]
    print(f"$ ncu ... {command}", flush=True)
    begin = time.monotonic()
    for _ in range(8):  # it may name one unknown metric at a time
        line = [ncu, "--csv", "--print-units", "base", "--clock-control", "none", "--cache-control", "none",
                "--target-processes", "all", "--profile-from-start", "off", "--metrics", ",".join(metrics),
                "timeout", "-s", "INT", str(seconds), program_of(words, programs), *words[1:]]
        text = run(line, None if programs else ROOT, seconds + 20)
        unknown = re.findall(r"Failed to find metric\W+([\w.]+)", text)
        if not unknown:
            break
        print(f"  ncu does not find {', '.join(unknown)}", flush=True)
        metrics = [m for m in metrics if m not in unknown]
    took = time.monotonic() - begin
    print(f"  {took:.1f} s" + (", stopped: its last rows are missing" if took >= seconds else ""), flush=True)
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help="whose rungs")
    parser.add_argument("--list", action="store_true", help="the chapters, and what is run")
    parser.add_argument("--programs", help="folder of built programs, named 05_moe.bench")
    parser.add_argument("--out", help="a folder for the CSVs, CHAPTER.csv, in place of CHAPTER/figures/profile_cuda.csv")
    parser.add_argument("--seconds", type=int, default=300, help="for each program at most (300)")
    parser.add_argument("--commit", default=None, help="for a tree without git")
    c = parser.parse_args()
    if c.list or not c.chapters:
        for chapter, commands in LISTED.items():
            print(chapter, *commands, sep="\n    ")
        return
    for chapter in c.chapters:
        if chapter not in LISTED:
            parser.error(f"{chapter} is not listed (--list)")
    ncu = shutil.which("ncu")
    if not ncu:
        sys.exit("counters.py: ncu is not in PATH; it comes with the CUDA toolkit (Nsight Compute)")
    try:
        metrics = known_metrics(ncu)
        for chapter in c.chapters:
            run_chapter(c, chapter, ncu, metrics)
    except Unreadable as why:
        sys.exit(f"counters.py: {why}")


def run_chapter(c, chapter, ncu, metrics):
    rows, head = [], [f"commit: {c.commit or commit()}"]
    for command in LISTED[chapter]:
        text = profile(ncu, metrics, command, c.programs, c.seconds)
        found = [(fields, kernels) for fields, kernels in read(text) if kernels]
        if not found:
            told = [line for line in text.splitlines() if re.search(r"==ERROR==|rror|FATAL", line)]
            raise Unreadable(f"'{command}' under ncu gave no counters: "
                             + (" / ".join(told[:3]) or text.strip()[-300:] or "it printed nothing"))
        rows += [judged(*one) for one in found]
        head.append(f"command: ncu over {command}")
        head += [line for line in text.splitlines() if re.match(r"(gpu|ceilings) ", line)]
    shown(rows)
    path = pathlib.Path(c.out) / f"{chapter}.csv" if c.out else ROOT / chapter / "figures" / "profile_cuda.csv"
    write(path, chapter, head, rows)
    missing = [m for m in wanted_metrics() if m not in metrics]
    print(f"counters.py: {path}: {len(rows)} rows" + (f"; not on this chip: {', '.join(missing)}" if missing else ""))


if __name__ == "__main__":
    main()
