"""Tables of lessons, filled from CSV files that a command made. Used by lesson_sync.py.

    <!-- table: 02_causal/figures/measured_cuda.csv
    | | forward |
    |---|---|
    | hopper | {ours / D 64 / forward: hopper : tflops} |
    -->
    (the table, filled in)

Between the braces: who / a part of the table's title / a part of the row's name : what. `who` and the
title may be left out. Exactly one row must fit; a name that is there as a whole wins over parts.
What, always of the fastest repeat, with ~ of the median:

    time        12.3 ms         tflops     654 (82 %)      gflops     91.2 (85 %)
    gbs         4,007 (93 %)    rate:N     N things in that time, a second: 1,104,000
    note        the row's note

tflops! and the like leave the share out.

A CSV without a column `who` (of tools/seeds.py, say) is asked for its own columns:

    {flags=--top-k 1 / run=balanced : max_vio:2}        {rung=naive / dtype=F32 : gflops/1000:1}

is max_vio, with two digits, of the rows whose columns have these values (or a thousandth of gflops,
with one); if there are several, the lowest and the highest. {run=balanced - left alone : ...} are the
differences of pairs, the first rows less the second, in their order.
"""

import csv
import re

CELL = re.compile(r"\{([^{}]+?)\s*:\s*([\w@]+(?:/\d+)?)(:[\d.]+)?([~!]*)\}")


class TableMistake(Exception):
    pass


def read_rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def number(x):
    """Three digits, or all there are before the point, with commas."""
    if x >= 1000:
        digits = len(str(int(x))) - 4
        return f"{round(x, -digits) if digits > 0 else x:,.0f}"
    return f"{x:.0f}" if x >= 100 else f"{x:.3g}"


def duration(ms):
    return f"{number(1e3 * ms)} µs" if ms < 1 else f"{number(ms)} ms" if ms < 1e3 else f"{ms / 1e3:.3g} s"


def find(rows, address):
    parts = [p.strip() for p in address.split(" / ")]
    who, table, name = [""] * (3 - len(parts)) + parts
    fits = [r for r in rows if who in r["who"] and table in r["table"] and name in r["row"]]
    fits = [r for r in fits if r["row"] == name] or fits
    if len(fits) != 1:
        raise TableMistake(f"{{{address}}} fits {len(fits)} rows; it must be one")
    return fits[0]


def value(row, what, count, flags):
    if what == "note":
        return row["note"]
    ms = float(row["median_ms" if "~" in flags else "min_ms"])
    slower = float(row["min_ms"]) / ms
    if what == "time":
        return duration(ms)
    if what == "rate":
        return number(float(count[1:]) / ms * 1e3)
    column, share, unit = {
        "tflops": ("gflops", "percent_of_peak", 1e-3),
        "gflops": ("gflops", "percent_of_peak", 1),
        "gbs": ("gbs", "percent_of_copy", 1),
    }[what]
    text = number(float(row[column]) * slower * unit)
    percent = float(row[share]) * slower
    return text if "!" in flags else f"{text} ({percent:.2g} %)" if percent < 9.95 else f"{text} ({percent:.0f} %)"


def low_and_high(rows, address, column, digits):
    """A column of the rows that the address tells: the number, or from where to where they go."""
    wanted = dict(part.strip().split("=", 1) for part in address.split(" / "))
    column, _, divisor = column.partition("/")

    def values(side):
        """Of the first rows (0) or the second (1), where a value is `first - second`."""
        keys = {k: v.split(" - ")[side] if " - " in v else v for k, v in wanted.items()}
        return [float(r[column]) / float(divisor or 1) for r in rows if all(r[k] == v for k, v in keys.items())]

    found = values(0)
    if any(" - " in v for v in wanted.values()):
        found = [a - b for a, b in zip(found, values(1), strict=True)]
    if not found:
        raise TableMistake(f"{{{address}}} fits no row")
    low, high = (f"{x:,.{int(digits[1:] if digits else 0)}f}" for x in (min(found), max(found)))
    return low if low == high else f"{low} – {high}" if min(found) >= 0 else f"{low} to {high}".replace("-", "−")


def filled(template, rows):
    """The template with every {...} replaced."""

    def cell(m):
        try:
            if "who" not in rows[0]:
                return low_and_high(rows, *m.groups()[:3])
            return value(find(rows, m[1]), m[2], m[3], m[4])
        except (KeyError, ValueError, TypeError) as error:
            raise TableMistake(f"{m[0]}: {error}") from error

    return CELL.sub(cell, template)
