#!/usr/bin/env python3
"""Tests of what keeps the lessons in order: wrap.py, drawing.py, lesson_sync.py's marks; and of every chart and table."""

import csv
import re

import drawing
import lesson_sync
import wrap
from build import ROOT

WORDS = " ".join(["seven"] * 30)  # 179 columns
LONG = "`" + "x" * 130 + "`"


def test_prose():
    for start, after in (("", ""), ("- ", "  "), ("12. ", "    "), ("> ", "> "), ("  ", "  ")):
        done, wide = wrap.lesson(f"{start}{WORDS}\n{after}last")
        lines = done.split("\n")
        assert max(map(len, lines)) <= 120 and not wide, lines
        assert lines[0].startswith(start) and lines[1].startswith(after + "seven"), lines
        assert done.split() == f"{start}{WORDS}\n{after}last".split() or start == "> ", done
        assert wrap.lesson(done) == (done, []), "a second time nothing is left to do"
    short = "kept as\nit is\n\n- so\n  is this"
    assert wrap.lesson(short) == (short, [])
    assert f"{LONG}\nseven" in wrap.lesson(f"{LONG} {WORDS}")[0], "code is never broken"
    broken = wrap.lesson("x " * 58 + "and - no list " + WORDS)[0]
    assert not any(line.startswith("- ") for line in broken.split("\n")), broken


def test_what_is_only_looked_at():
    row = "| " + "[name](" + "x" * 100 + ") |" + " a" * 30 + " |"
    for text, wide in (
        (f"```\n{WORDS}\n```", [(2, 179)]),
        (f"text\n\n    {WORDS}", [(3, 183)]),
        (f"# {WORDS}", [(1, 181)]),
        (f"| {WORDS} |", [(1, 183)]),
        (row, []),  # what a table shows counts, not where its links lead
        (f"<!-- table: x.csv\n| {WORDS} |\n-->", []),
        (f"![{WORDS}](x.svg)", []),
    ):
        assert wrap.lesson(text) == (text, wide), (text, wrap.lesson(text))


def test_small_text_in_a_drawing():
    d = drawing.Drawing(100, "a box")
    d.text(10, 10, "as small as may be")
    try:
        d.text(10, 10, "too small", size=12)
    except ValueError as mistake:
        assert "too small" in str(mistake)
    else:
        raise AssertionError("text of 12 is too small")


def test_small_text_in_a_chart():
    """A telephone shows a picture 320 wide: its text is 10 high there, exponents too."""
    charts = sorted(ROOT.glob("[0-9][0-9]_*/figures/*.svg"))
    assert len(charts) > 60, charts
    for chart in charts:
        text = chart.read_text()
        shrunk = min(1, 320 / float(re.search(r'viewBox="0 0 ([\d.]+)', text)[1]))
        assert re.search(r'<svg[^>]* width="', text), f"{chart}: no width: a page would make it as wide as itself"
        for size in re.findall(r'font-size="([\d.]+)', text):
            assert float(size) * shrunk >= 10, f"{chart}: text of {size} is {float(size) * shrunk:.1f} on a telephone"


def test_tables():
    """A row of a CSV file has as many cells as its head: a name with a comma of its own is quoted, or has none."""
    tables = sorted(ROOT.glob("[0-9][0-9]_*/figures/**/*.csv"))
    assert len(tables) > 60, tables
    for table in tables:
        rows = [r for r in csv.reader(table.open()) if r and not r[0].startswith("#")]
        odd = [r for r in rows if len(r) != len(rows[0])]
        assert not odd, f"{table}: {len(rows[0])} columns, but {odd[0]}"


def test_marks():
    marks = set(lesson_sync.marked())
    assert ("01_self_attention/matmul_cpu.c", "blocked") in marks, marks
    assert ("common/core/tape.c", "tape_push") not in marks, "no lesson quotes it"


if __name__ == "__main__":
    for name, test in sorted(globals().items()):
        if name.startswith("test_"):
            test()
    print("wrap.py, drawing.py, lesson_sync.py: as they should be")
