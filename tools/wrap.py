#!/usr/bin/env python3
"""Keeps the prose of the lessons within 120 columns: wrap.py [--check] [FILE.md ...]

The words of a line that is too long go to the next line of the same paragraph, and so on until all fit, so that a
change of one sentence stays a change of few lines. Never broken: `code`, [links](...), tables, headings, comments and
code between ``` lines or behind four spaces. Tables and code are therefore only looked at: a row may show 140 columns (a wider table
reads better as a list), a line of code has 120. --check changes nothing and fails when there is something to do.
Without FILE: every lesson of the repository.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLUMNS, ROW = 120, 140
ITEM = re.compile(r"\s*(?:[-*+]|\d+[.)]) +")
LEAD = re.compile(r"\s*(?:> ?)*")
LINKED = re.compile(r"\]\([^)]*\)")  # where a link leads: not part of what a table shows
OWN = re.compile(r"\s*(?:#|\||<|!\[|```|$)")  # lines that are no paragraph's
# what one may not break: code, a link, and a word with a sign after it that would begin a list, heading or quote
WHOLE = re.compile(r"(?:`[^`]*`|\[[^\]]*\]\([^)]*\)|\S)+(?: (?:[-+*#>|=]+|\d+[.)])(?= |$))*")


def pieces(text):
    return WHOLE.findall(text)


def wrapped(lines):
    """The lines of one paragraph, none too long."""
    first = ITEM.match(lines[0])
    start = first.group() if first else LEAD.match(lines[0]).group()
    indent = LEAD.match(lines[1]).group() if len(lines) > 1 else " " * len(start) if first else start
    out, carried, waiting = [], [], list(lines)
    while waiting or carried:
        if not carried and len(waiting[0]) <= COLUMNS:
            out.append(waiting.pop(0))
            continue
        lead = indent if out else start
        body = waiting.pop(0) if waiting else ""
        words = carried + pieces(body[len(LEAD.match(body).group()) if out else len(start) :])
        line, carried = lead + words[0], words[1:]
        while carried and len(line) + 1 + len(carried[0]) <= COLUMNS:
            line += " " + carried.pop(0)
        out.append(line)
    return out


def lesson(text):
    """(the text with its prose wrapped, [(line, columns) that a machine cannot mend])"""
    out, paragraph, wide = [], [], []
    fence = comment = False

    def close():
        if any(len(line) > COLUMNS for line in paragraph):
            paragraph[:] = wrapped(paragraph)
            wide.extend((len(out) + i, len(p)) for i, p in enumerate(paragraph, 1) if len(p) > COLUMNS)
        out.extend(paragraph)
        paragraph.clear()

    for line in text.split("\n"):
        if line.lstrip().startswith("```"):
            fence = not fence
        comment = comment or (line.startswith("<!--") and not fence)
        code = fence or (line.startswith("    ") and not paragraph and not ITEM.match(line))
        if code or comment or OWN.match(line):
            close()
            row, picture = line.lstrip().startswith("|"), line.startswith("![")
            width = len(LINKED.sub("]", line)) if row and not code else len(line)
            if not comment and not picture and width > (ROW if row and not code else COLUMNS):
                wide.append((len(out) + 1, width))
            out.append(line)
        else:
            if ITEM.match(line):
                close()
            paragraph.append(line)
        comment = comment and "-->" not in line
    close()
    return "\n".join(out), wide


def main(arguments):
    check = "--check" in arguments
    named = [a for a in arguments if not a.startswith("-")]
    if not named:
        listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z", "*.md"], capture_output=True, check=True, text=True)
        named = [ROOT / name for name in listed.stdout.split("\0") if name]
    wrong = 0
    for path in map(pathlib.Path, named):
        text = path.read_text()
        new, wide = lesson(text)
        for number, columns in wide:
            print(f"{path.resolve().relative_to(ROOT)}:{number}: {columns} columns")
        wrong += len(wide)
        if new != text:
            wrong += check
            print(f"{path.resolve().relative_to(ROOT)}: " + ("lines over 120 columns: make format" if check else "wrapped"))
            if not check:
                path.write_text(new)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
