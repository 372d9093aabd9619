#!/usr/bin/env python3
"""Sums up what Nsight Compute measured: the kernels of a piece of work, the longest first.

    ncu --csv --metrics gpu__time_duration.sum --clock-control none --profile-from-start off \\
        ./10_full_model/bench --device cuda --dtype bf16 --profile train | tools/kernels.py

ncu runs one kernel after the other with empty caches, so the sum is not the time of the whole: it
tells where the time goes. Template arguments stay in the name, function arguments do not.
"""

import collections
import csv
import sys

MICROSECONDS = {"ns": 1e-3, "nsecond": 1e-3, "us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3}


def main():
    # What the program itself printed stands between ncu's rows, which are all quoted.
    rows = csv.DictReader(line for line in sys.stdin if line.startswith('"'))
    launches, time = collections.Counter(), collections.Counter()
    for row in rows:
        if row["Metric Name"] != "gpu__time_duration.sum":
            continue
        name = row["Kernel Name"].split("(")[0].removeprefix("void ")
        launches[name] += 1
        time[name] += float(row["Metric Value"].replace(",", "")) * MICROSECONDS[row["Metric Unit"]]
    if not time:
        sys.exit("kernels.py: no row of gpu__time_duration.sum; see --help of ncu, and this file's head")
    total = sum(time.values())
    print(f"{'launches':>8} {'us':>10} {'share':>6}  kernel")
    for name, us in time.most_common():
        print(f"{launches[name]:8} {us:10.1f} {us / total:6.1%}  {name[:80]}")
    print(f"{sum(launches.values()):8} {total:10.1f} {1:6.1%}  all")


if __name__ == "__main__":
    main()
