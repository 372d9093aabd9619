#!/usr/bin/env python3
"""Copies the quoted code from the sources, and the measured numbers from their CSV files, into the
lessons: lesson_sync.py [--check]

In a lesson,                              in the source,

    <!-- code: 02_causal/x.c#name -->         // [name]        or  /* [name] */
    ```c                                      ...
    (filled in)                               // [/name]       or  /* [/name] */
    ```

with each marker alone on its line. What all lines are indented by is taken off; markers of other
quotes are left out. A marker that no lesson quotes is a mistake: it is one more line to keep right for
nobody. Tables of numbers are told by <!-- table: FILE.csv ... -->: see measured.py.
--check changes nothing and fails when a lesson is stale.
"""

import pathlib
import re
import sys
import textwrap

from measured import TableMistake, filled, read_rows

ROOT = pathlib.Path(__file__).resolve().parent.parent
MARKER = re.compile(r"\s*(?://|/\*|#)\s*\[(/?)([\w.-]+)\]\s*(?:\*/)?\s*$")
QUOTE = re.compile(r"^<!-- code: (\S+?)#(\S+) -->\n(```[^\n]*\n)(.*?)^```[ ]*$", re.M | re.S)

SOURCES = (".c", ".h", ".cu", ".cuh", ".py", ".sh", ".js")
TABLE = re.compile(r"^<!-- table: (\S+)\n((?:\|.*\n)+)-->\n((?:\|.*\n)*)", re.M)


class Mistake(Exception):
    pass


def quoted(path, name):
    """The lines between the markers [name] and [/name] of a source."""
    file = ROOT / path
    if not file.is_file():
        raise Mistake(f"there is no file {path}")
    lines, inside, closed = [], False, 0
    for line in file.read_text().splitlines():
        m = MARKER.match(line)
        if m and m.group(2) == name:
            if inside == (m.group(1) == ""):
                raise Mistake(f"{path}: [{name}] opens or closes twice")
            inside = not inside
            closed += not inside
        elif inside and not m:
            lines.append(line)
    if inside or closed != 1:
        raise Mistake(
            f"{path}: needs one [{name}] and one [/{name}], each alone on a line as a comment"
        )
    return textwrap.dedent("\n".join(lines)).strip("\n") + "\n"


def marked():
    """(source, name) of every marker in the sources."""
    rooms = [d for d in ROOT.iterdir() if d.is_dir() and d.name in ("common", "tools") or d.name[:2].isdigit()]
    for path in sorted(p for room in rooms for p in room.rglob("*") if p.suffix in SOURCES):
        for name in sorted({m[2] for m in map(MARKER.match, path.read_text().splitlines()) if m}):
            yield str(path.relative_to(ROOT)), name


def synced(text, mistakes, lesson):
    def fill(m):
        try:
            return f"<!-- code: {m[1]}#{m[2]} -->\n{m[3]}{quoted(m[1], m[2])}```"
        except Mistake as mistake:
            mistakes.append(f"{lesson}: {mistake}")
            return m[0]

    def measure(m):
        try:
            if not (ROOT / m[1]).is_file():
                raise TableMistake(f"there is no file {m[1]}")
            return f"<!-- table: {m[1]}\n{m[2]}-->\n" + filled(m[2], read_rows(ROOT / m[1]))
        except TableMistake as mistake:
            mistakes.append(f"{lesson}: {mistake}")
            return m[0]

    new = TABLE.sub(measure, QUOTE.sub(fill, text))
    tables, told = len(TABLE.findall(text)), text.count("<!-- table:")
    if tables != told:
        mistakes.append(f"{lesson}: {told - tables} of {told} '<!-- table: FILE.csv' are not followed by rows and '-->'")
    named, found = text.count("<!-- code:"), len(QUOTE.findall(text))
    if named != found:
        mistakes.append(
            f"{lesson}: {named - found} of {named} '<!-- code: path#name -->' have no ``` block on the next line"
        )
    return new, found + tables


def main(check):
    mistakes, stale, quotes, lessons = (
        [],
        [],
        0,
        sorted(p for p in ROOT.rglob("*.md") if p.relative_to(ROOT).parts[0] != "build"),
    )
    for lesson in lessons:
        name, text = lesson.relative_to(ROOT), lesson.read_text()
        new, found = synced(text, mistakes, name)
        quotes += found
        if new != text:
            stale.append(str(name))
            if not check:
                lesson.write_text(new)
    quoted_marks = {q[:2] for lesson in lessons for q in QUOTE.findall(lesson.read_text())}
    for path, name in marked():
        if (path, name) not in quoted_marks:
            mistakes.append(f"{path}: no lesson quotes [{name}]: take its two lines out")
    for line in mistakes:
        print(f"lesson-sync: {line}")
    for name in stale:
        print(
            f"lesson-sync: {name} "
            + ("does not show the code as it is: run 'make lesson-sync'" if check else "refreshed")
        )
    if not mistakes and not (check and stale):
        print(f"lesson-sync: {quotes} quotes and tables in {len(lessons)} lessons are as in the sources")
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
