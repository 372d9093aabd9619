#!/usr/bin/env python3
"""Makes a table of some hundred rows out of a training run's thousands, for a chart that is kept.

    tools/thin.py [--rows 300 | --every N] [--columns step,loss,...] [--tokens N] metrics.csv > thin.csv

A row stands for as many steps as come one after the other: the last one's step and learning rate; of
validation, which is rare, the last value that there is among them; of idle experts the most; of
tokens_per_second the tokens of these steps through their seconds; the mean of every other column. With
--tokens N, of a step, there is a column more: billions of tokens so far. Lines that begin with # stay
(but --command replaces the one that says which command wrote it).
"""

import argparse
import csv
import math
import sys

LAST, SEEN, MOST, RATE = {"step", "learning_rate"}, {"validation_loss"}, {"idle_experts"}, {"tokens_per_second"}


def joined(name, cells):
    """One cell for several."""
    if name in LAST:
        return cells[-1]
    cells = [c for c in cells if c != ""]
    if not cells:
        return ""
    if name in SEEN:
        return cells[-1]
    values = [float(c) for c in cells]
    if name in MOST:
        return f"{max(values):g}"
    if name in RATE:
        return f"{len(values) / math.fsum(1 / v for v in values):.0f}"
    return f"{math.fsum(values) / len(values):.5g}"


def thinned(rows, columns, size):
    for i in range(0, len(rows), size):
        group = rows[i : i + size]
        yield [joined(name, [r[name] for r in group]) for name in columns]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--every", type=int, help="steps to a row, in the place of --rows")
    parser.add_argument("--columns", help="these alone (default: all)")
    parser.add_argument("--tokens", type=int, help="tokens of a step, for the column billions")
    parser.add_argument("--command", help="what the first line of the result says")
    o = parser.parse_args()
    with open(o.file, newline="") as file:
        lines = file.read().splitlines()
    head = [line for line in lines if line.startswith("#")]
    if o.command:
        head = [f"# command: {o.command}"] + [line for line in head if not line.startswith("# command:")]
    reader = csv.DictReader(line for line in lines if not line.startswith("#"))
    rows = list(reader)
    columns = o.columns.split(",") if o.columns else reader.fieldnames
    missing = [c for c in columns if c not in reader.fieldnames]
    if not rows or missing or "step" not in reader.fieldnames:
        sys.exit(f"thin.py: {o.file} has no rows, or no column {', '.join(missing) or 'step'}")
    size = o.every or math.ceil(len(rows) / o.rows)
    print("\n".join(head))
    print(f"# thinned: {len(rows)} steps, {size} a row (tools/thin.py)")
    print(",".join(columns + (["billions"] if o.tokens else [])))
    for row in thinned(rows, columns, size):
        if o.tokens:
            row.append(f"{int(row[columns.index('step')]) * o.tokens / 1e9:.4g}")
        print(",".join(row))


if __name__ == "__main__":
    main()
