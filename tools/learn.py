#!/usr/bin/env python3
"""Exercises: learn.py learn|grade|solutions [--hint 1|2] [--csv FILE] [WHICH...]

    learn      walks through the exercises in order and stops at the first that is not solved, with the failing test;
               --hint 1 adds a hint, --hint 2 another one that says more
    grade      the points of each exercise, and the sum; --csv FILE also adds the rows to FILE (-: prints them alone)
    solutions  for the authors: every stub must compile and fail, every solution must compile and pass

WHICH is a chapter (02_causal, 02) or one exercise (02.3, 02_causal/exercises/03_merge.c); without it: all.

An exercise is a stub NN_name/exercises/NN_title.c (or .cu) that the learner edits, and
exercises/solutions/NN_title.c with the same prototypes. The stub's opening comment is the task;
its first line is the title, and lines in it say

    POINTS: 3
    REPLACES: function, function in 02_causal/causal_cpu.c
    TESTS: test_causal:suite test_causal:suite/name*cpu check_01_title

They end with the comment, an empty line or the next field. The two hints of each exercise are in
the chapter's exercises/hints.txt: paragraphs that begin with the exercise's number.

REPLACES puts the learner's function in the place of the real one, beneath the real tests: in a
copy of the real object file the symbol is renamed to function_original, so that calls from all
other files reach the learner's. TESTS names programs made from the chapter's tests/test_*.c, with a
suite or a pattern behind the colon. exercises/check_NN_title.c is a test of its own, for answers
that replace nothing (a predicted number, say); it is what runs when there is no TESTS line.

All of them are compiled like the sources, with #include paths from the root, and with unused
parameters allowed. What has passed is not built and run again until
something changes (build/*/exercises/).
"""

import concurrent.futures
import dataclasses
import hashlib
import argparse
import csv
import json
import pathlib
import re
import subprocess
import sys
import textwrap

import criterion
from build import ROOT, Build, chapter_called, chapters, fail, run_main

SOLVED, UNSOLVED, BROKEN, SKIPPED, MISTAKE = (
    "solved",
    "unsolved",
    "does not compile",
    "skipped",
    "mistake",
)
SECONDS_PER_TEST = 20
FIELD = re.compile(r"^(POINTS|REPLACES|TESTS):\s*(.*)$")
HINTS = 2


@dataclasses.dataclass
class Outcome:
    status: str
    text: str = ""  # the failing test and its message, or the compiler's


def opening_comment(text):
    """Its lines without the stars, and the fields in it."""
    comment = re.match(r"\s*/\*(.*?)\*/", text, re.S)
    lines = [
        re.sub(r"^\s*\*?\s?", "", line).rstrip()
        for line in (comment[1] if comment else "").splitlines()
    ]
    fields, field = {"POINTS": [], "REPLACES": [], "TESTS": []}, None
    for line in lines:
        m = FIELD.match(line)
        field = m[1] if m else field if line else None
        if field:
            fields[field].append(m[2] if m else line.strip())
    return lines, fields


def hints_of(stub):
    """The paragraphs of hints.txt that begin with the exercise's number."""
    path = stub.parent / "hints.txt"
    paragraphs = path.read_text().split("\n\n") if path.exists() else []
    number = stub.name[:2]
    return [" ".join(p.split())[len(number) + 1 :] for p in paragraphs if p.strip().startswith(number)]


def committed(path):
    done = subprocess.run(
        ["git", "show", f"HEAD:./{path.name}"],
        cwd=path.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return done.stdout.decode(errors="replace")


class Unlinked(Exception):
    """An answer that compiles, but lacks a function that its test calls."""


class Exercise:
    authors = False  # may say anew what an exercise is worth; a learner's file says what was committed

    def __init__(self, stub):
        self.stub, self.chapter, self.name = stub, stub.parent.parent.name, stub.stem
        self.solution = stub.parent / "solutions" / stub.name
        self.check = stub.parent / f"check_{stub.stem}.c"
        self.id = f"{self.chapter}/{self.name}"
        heads = [opening_comment(text) for text in (committed(stub), self.text())]
        lines, fields = heads[self.authors] if heads[self.authors][1]["POINTS"] else heads[not self.authors]
        self.title = (
            next((line for line in lines if line), self.id).removeprefix("Exercise ").rstrip(".")
        )
        self.short = f"{self.chapter[:2]}.{int(self.name[:2])}"  # as in the title: 02.3
        self.hints = hints_of(stub)
        points = " ".join(fields["POINTS"])
        self.replaces = []  # (function, file)
        for line in fields["REPLACES"]:
            m = re.fullmatch(r"([\w, ]+?) in (\S+)", line)
            if not m:
                fail(f"{self.id}: 'REPLACES: {line}' is not 'function, function in FILE'")
            self.replaces += [(function, m[2]) for function in re.findall(r"\w+", m[1])]
        tests = " ".join(fields["TESTS"]).split() or (
            [self.check.stem] if self.check.exists() else []
        )
        self.tests = [tuple((t + ":").split(":")[:2]) for t in tests]  # (program, pattern or "")
        if not points.isdigit() or not self.tests:
            fail(
                f"{self.id}: the opening comment needs POINTS: a number, and TESTS: (or a {self.check.name})"
            )
        if len(self.hints) != HINTS:
            fail(f"{self.id}: hints.txt has {len(self.hints)} hints for it, not {HINTS}")
        self.points = int(points)

    def text(self):
        return self.stub.read_text(errors="replace") if self.stub.exists() else ""

    def edited(self):
        """Is the stub another one than was committed?"""
        return self.text() != committed(self.stub)

    def test_source(self, program):
        """Where the test program comes from: the chapter's test_*.c, or the exercise's own
        check_*.c.
        """
        own = self.stub.parent / f"{program}.c"
        return own if own.exists() else self.stub.parent.parent / "tests" / f"{program}.c"


def exercises_in(chapter):
    """Those that are there, and those that somebody has deleted."""
    folder, pattern = ROOT / chapter / "exercises", "[0-9][0-9]_*"
    git = ["git", "ls-files", "--", f":(glob){pattern}"]
    known = subprocess.run(git, cwd=folder, capture_output=True, text=True).stdout if folder.exists() else ""
    stubs = {*folder.glob(pattern), *(folder / name for name in known.splitlines())}
    return [Exercise(p) for p in sorted(stubs) if p.suffix in (".c", ".cu")]


def exercise_called(name):
    """The one for 02.3, 02_causal/03_merge or the path of its file; None if there is none."""
    m = re.fullmatch(r"(\d+)\.(\d+)", name)
    path = pathlib.Path(name)
    chapter = chapter_called(m[1] if m else next((p for p in path.parts if chapter_called(p)), ""))
    for e in exercises_in(chapter) if chapter else []:
        if int(e.name[:2]) == int(m[2]) if m else e.name == path.stem:
            return e
    return None


def exercises_of(names):
    found = []
    for name in names or chapters():
        one = None if chapter_called(name) else exercise_called(name)
        if not one and not chapter_called(name):
            fail(
                f"there is no chapter and no exercise {name}; there are {' '.join(chapters())}, "
                "and exercises are called 02.3, or by their files"
            )
        found += [one] if one else exercises_in(chapter_called(name))
    return found


class Workshop:
    """Builds answers and runs their tests."""

    def __init__(self, exercises, strict):
        self.build, self.strict = Build(), strict
        wanted = set()
        for e in exercises:
            wanted.update(self.build.libraries(e.chapter) + self.build.for_tests())
            wanted.update(self.objects(e))
        if wanted and not self.build.make("-s", *sorted(wanted))[0]:
            fail("the project itself does not build; the compiler's message is above")

    def objects(self, e):
        """The objects of the real test programs."""
        sources = {e.test_source(program) for program, _ in e.tests}
        return [
            self.build.object(str(s.relative_to(ROOT)))
            for s in sources
            if s.parent != e.stub.parent
        ]

    def key(self, e, answer):
        """Changes whenever the outcome may: the texts of the exercise, and the age of all that it
        is linked with.
        """
        h = hashlib.sha256(self.build.key.encode())
        for path in [
            answer,
            *sorted(e.stub.parent.glob("*.h")),
            *sorted(e.stub.parent.glob("check_*.c")),
        ]:
            h.update(path.read_bytes())
        h.update(repr((e.tests, e.replaces)).encode())
        for name in self.build.libraries(e.chapter) + self.build.for_tests() + self.objects(e):
            h.update(str((ROOT / name).stat().st_mtime_ns).encode())
        return h.hexdigest()

    def run(self, command):
        done = subprocess.run(
            [str(c) for c in command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return done.returncode == 0, done.stdout.decode(errors="replace").strip()

    def compile(self, e, source, target):
        if source.suffix == ".cu":
            flags = [self.build.nvcc, *self.build.nvflags]
        else:
            flags = [self.build.cc, *self.build.cflags, "-Wno-unused-parameter", "-Wno-unused-function"]
        if not self.strict:  # a warning helps a learner; it should not stop one
            flags = [f for f in flags if f != "-Werror"]
        return self.run([*flags, "-c", source.relative_to(ROOT), "-o", target])

    def renamed(self, e, place):
        """Copies of the real objects in which the functions that the exercise replaces have made
        room.
        """
        copies = []
        for file in sorted({file for _, file in e.replaces}):
            functions, original = [
                f for f, where in e.replaces if where == file
            ], self.build.object(file)
            ok, symbols = self.run(["nm", "--defined-only", "--extern-only", original])
            for function in functions:
                if not ok or not re.search(rf" T {function}$", symbols, re.M):
                    raise ValueError(f"REPLACES: {file} has no global function {function}")
            copies.append(place / f"real_{len(copies)}.o")
            renames = [f"--redefine-sym={f}={f}_original" for f in functions]
            ok, text = self.run(["objcopy", *renames, original, copies[-1]])
            if not ok:
                raise ValueError(text)
        return copies

    def try_answer(self, e, answer):
        """Is this file a solution of the exercise?"""
        if answer.suffix == ".cu" and not self.build.nvcc:
            return Outcome(SKIPPED, "needs nvcc")
        if any(file.endswith(".cu") for _, file in e.replaces) and not self.build.nvcc:
            return Outcome(SKIPPED, "needs nvcc")
        if not answer.exists():
            path = answer.relative_to(ROOT)
            return Outcome(BROKEN, f"the file is not there; git checkout {path} brings it back")
        which = "solution" if answer == e.solution else "stub"
        place = ROOT / self.build.directory / "exercises" / e.chapter / e.name / which
        place.mkdir(parents=True, exist_ok=True)
        memory, key = place / "outcome.json", self.key(e, answer)
        if memory.exists():
            known = json.loads(memory.read_text())
            if known["key"] == key:
                return Outcome(known["status"], known["text"])
        try:
            outcome = self.build_and_test(e, answer, place)
        except ValueError as mistake:
            outcome = Outcome(MISTAKE, f"{e.id}: {mistake}")
        except Unlinked as lacking:
            outcome = Outcome(BROKEN, str(lacking))
        memory.write_text(json.dumps({"key": key, "status": outcome.status, "text": outcome.text}))
        if self.strict or outcome.status == SOLVED:  # nobody will look for what is wrong with it
            for built in place.iterdir():
                if built != memory:
                    built.unlink()
        return outcome

    def build_and_test(self, e, answer, place):
        ok, warnings = self.compile(e, answer, place / "answer.o")
        if not ok:
            return Outcome(BROKEN, warnings)
        real, counts, programs = self.renamed(e, place), {}, {}
        for program, pattern in e.tests:
            if program not in programs:
                programs[program] = self.link(e, program, place, real)
            if pattern and "/" not in pattern:
                pattern += "/*"
            run = criterion.run(
                programs[program],
                pattern or None,
                fail_fast=True,
                cwd=ROOT,
                timeout=SECONDS_PER_TEST,
                jobs=1,
            )
            for failed in run.of(criterion.FAIL)[:1]:
                text = [
                    f"{program}: {failed.name} fails",
                    *criterion.explain(failed, run.output, "  "),
                ]
                return Outcome(UNSOLVED, "\n".join(text + ([warnings] if warnings else [])))
            if not run.results:
                raise ValueError(f"TESTS: no test matches {program}:{pattern}")
            for result in run.results:
                counts[result.status] = counts.get(result.status, 0) + 1
        return Outcome(SOLVED) if counts.get(criterion.PASS) else Outcome(SKIPPED, "needs a GPU")

    def link(self, e, program, place, real):
        source = e.test_source(program)
        if not source.exists():
            raise ValueError(
                f"TESTS: there is no {program}.c in {e.chapter}/tests/ or {e.chapter}/exercises/"
            )
        test = ROOT / self.build.object(str(source.relative_to(ROOT)))
        if source.parent == e.stub.parent:
            test = place / f"{program}.o"
            ok, text = self.compile(e, source, test)
            if not ok:
                raise ValueError(f"{source.name} does not compile\n{text}")
        parts = [test, place / "answer.o", *real, *self.build.for_tests(), *self.build.libraries(e.chapter)]
        libs = ["-lcriterion", *self.build.libs, "-o", place / program]
        ok, text = self.run([self.build.cc, *self.build.ldflags, *parts, *libs])
        if not ok:
            raise Unlinked(f"{program} does not link with {e.stub.name}\n{text}")
        return place / program


def indented(text, by="      "):
    return "\n".join(by + line for line in text.splitlines())


def show_next(e, outcome, hint):
    print(f"  NEXT     {e.title}  ({e.points} point{'s' * (e.points != 1)})\n")
    broken = " does not compile" if outcome.status == BROKEN else ""
    print(f"    file   {e.stub.relative_to(ROOT)}{broken}")
    print(indented(outcome.text))
    for number, text in enumerate(e.hints[:hint], 1):
        print(textwrap.fill(f"hint {number} {text}", 80, initial_indent="    ", subsequent_indent=" " * 11))
    more = f"make learn CH={e.short} HINT={hint + 1}"
    print(
        "\nThe task is at the top of the file; when it is done: make learn"
        + (f"\n{'Another' if hint else 'A'} hint: {more}" if hint < HINTS else "")
    )


def learn(exercises, hint=0, **_):
    shop, chapter, points = Workshop(exercises, strict=False), None, 0
    for e in exercises:
        if e.chapter != chapter:
            chapter = e.chapter
            print(f"\n{chapter}")
        outcome = shop.try_answer(e, e.stub)
        if outcome.status == SOLVED:
            points += e.points
            print(f"  solved   {e.title}  ({e.points})", flush=True)
        elif outcome.status == SKIPPED:
            print(f"  skipped  {e.title}: {outcome.text}", flush=True)
        else:
            show_next(e, outcome, hint)
            if points:
                print(f"Points so far: {points}.")
            return 0
    if len(exercises) > 1:
        print(f"\nAll exercises are solved. Points: {points}.")
    return 0


def reason(outcome):
    """In one line: the compiler's first error, or the test that fails."""
    lines = outcome.text.splitlines() or [""]
    if outcome.status == BROKEN:
        signs = (": error:", ": fatal error:", "undefined reference")
        lines = [l for l in lines if any(sign in l for sign in signs)] or lines
    text = lines[0].strip()
    if outcome.status == UNSOLVED and re.search("did not end|signal", (lines + [""])[1]):
        text += ": " + lines[1].strip()
    return text


def write_rows(path, rows):
    """Adds them to the file: those of a whole class can go into one. Without rows, before the work:
    the head, where none is there yet.
    """
    head = ["tree", "exercise", "points", "possible", "status", "why"]
    try:
        with open("/dev/stdout" if path == "-" else path, "a", newline="") as file:
            new = path == "-" or not file.tell()
            csv.writer(file, lineterminator="\n").writerows(rows or ([head] if new else []))
    except OSError as wrong:
        fail(f"cannot write {path}: {wrong.strerror}")


def grade(exercises, csv=None, **_):
    if csv:
        write_rows(csv, [])
    try:
        shop, got, possible, rows = Workshop(exercises, strict=False), 0, 0, []
    except SystemExit as broken:  # a learner whose tree does not build has rows as well
        if csv:
            write_rows(csv, [[ROOT.name, e.short, 0, e.points, BROKEN, str(broken)] for e in exercises])
        raise
    say = (lambda text: None) if csv == "-" else lambda text: print(text, flush=True)
    say(f"\n{'exercise':<58} points")
    for e, outcome in each(exercises, lambda e: shop.try_answer(e, e.stub)):
        counted, mine = outcome.status != SKIPPED, e.points if outcome.status == SOLVED else 0
        why = "" if mine else reason(outcome)
        rows.append([ROOT.name, e.short, mine, e.points, outcome.status, why])
        if outcome.status == BROKEN:
            why = f"{BROKEN}: {why}"
        if not counted:
            say(f"{e.title:<58}   - of {e.points}\n      {why}: not counted")
            continue
        got, possible = got + mine, possible + e.points
        say(f"{e.title:<58} {mine:3} of {e.points}" + (f"\n      {why}" if why else ""))
    say(f"{'total':<58} {got:3} of {possible}")
    if csv:
        write_rows(csv, rows)
    return 0


def solutions(exercises, **_):
    print("For authors: is every stub unsolved, and every solution right? (Your points: make grade)")
    shop, mistakes, skipped = Workshop(exercises, strict=True), [], 0

    def both(e):
        if not e.solution.exists():
            return Outcome(MISTAKE, "there is no solution"), Outcome(
                MISTAKE, f"{e.solution.relative_to(ROOT)} is missing"
            )
        return shop.try_answer(e, e.stub), shop.try_answer(e, e.solution)

    for e, (stub, solution) in each(exercises, both):
        if SKIPPED in (stub.status, solution.status):
            skipped += 1
            print(f"  {e.id:<44} skipped: {solution.text or stub.text}", flush=True)
        elif (stub.status, solution.status) == (SOLVED, SOLVED) and e.edited():
            skipped += 1
            print(f"  {e.id:<44} skipped: you have solved it here", flush=True)
        elif (stub.status, solution.status) == (UNSOLVED, SOLVED):
            print(f"  {e.id:<44} stub: {stub.text.splitlines()[0]}; solution passes", flush=True)
        else:
            mistakes.append(e.id)
            print(
                f"  {e.id:<44} WRONG: the stub must compile and fail, the solution must pass, but"
            )
            print(
                indented(
                    f"stub: {stub.status}\n{stub.text}\nsolution: {solution.status}\n{solution.text}"
                ),
                flush=True,
            )
    print(
        f"solutions: {len(exercises) - len(mistakes) - skipped} exercises as they should be, {len(mistakes)} wrong, {skipped} skipped"
    )
    return 1 if mistakes else 0


def each(exercises, work):
    """(exercise, work(exercise)) in order, several at a time."""
    with concurrent.futures.ThreadPoolExecutor(criterion.cores()) as pool:
        yield from zip(exercises, pool.map(work, exercises))


def main(arguments):
    commands = {"learn": learn, "grade": grade, "solutions": solutions}
    parser = argparse.ArgumentParser(
        prog="learn.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=commands)
    parser.add_argument("which", nargs="*")
    parser.add_argument("--hint", type=int, choices=range(HINTS + 1), default=0)
    parser.add_argument("--csv", metavar="FILE")
    o = parser.parse_args(arguments)
    Exercise.authors = o.command == "solutions"
    exercises = exercises_of(o.which)
    if not exercises:
        print(f"There are no exercises{' in ' if o.which else ''}{' '.join(o.which)}.")
        return 0
    return commands[o.command](exercises, hint=o.hint, csv=o.csv)


if __name__ == "__main__":
    run_main(main)
