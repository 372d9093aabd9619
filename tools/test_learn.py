#!/usr/bin/env python3
"""Tests of learn.py and criterion.py, on the exercises of chapter 02: test_learn.py

They compile answers of their own under build/, so that nobody's stub is touched.
"""

import csv
import io
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import learn
from build import ROOT

STUB = ROOT / "02_causal/exercises/03_merge.c"


def check(holds, what):
    if not holds:
        raise AssertionError(what)


def says(*arguments):
    """What learn.py prints, with its exit status."""
    done = subprocess.run(
        [ROOT / "tools/learn.py", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.stdout, done.returncode


def outcome_of(text):
    """Of an answer to exercise 02.3 whose function has this body; None: a file without it."""
    e = learn.exercises_of(["02.3"])[0]
    head = STUB.read_text().split("*/", 1)[1].split("{", 1)[0]
    answer = ROOT / "build" / "test_learn_answer.c"
    answer.write_text(f"{head}{{ {text} }}\n" if text is not None else "")
    shop = learn.Workshop([e], strict=False)
    place = ROOT / shop.build.directory / "exercises/test_learn"
    place.mkdir(parents=True, exist_ok=True)
    return shop.build_and_test(e, answer, place)


def children():
    """Test programs that still run."""
    done = subprocess.run(["ps", "-eo", "args"], stdout=subprocess.PIPE, text=True)
    return [l for l in done.stdout.splitlines() if "exercises/test_learn/" in l]


# ---- the tests ----


def test_names():
    for name in ("02", "2", "02_causal", "02_causal/"):
        check(len(learn.exercises_of([name])) >= 6, name)
    for name in ("02.3", "2.3", "02_causal/03_merge", "02_causal/exercises/03_merge.c", str(STUB)):
        check([e.id for e in learn.exercises_of([name])] == ["02_causal/03_merge"], name)
    for name in ("99", "02.99", "nonsense", "02_causal/03_nonsense"):
        text, status = says("learn", name)
        check(status and "no chapter and no exercise" in text, f"{name}: {text}")


def test_hints_come_on_request():
    text = {n: says("learn", "02.3", "--hint", str(n))[0] for n in range(3)}
    one, two = learn.exercises_of(["02.3"])[0].hints
    begin = lambda hint: hint[:30]
    check("HINT=1" in text[0] and begin(one) not in text[0], text[0])
    check(begin(one) in text[1] and "HINT=2" in text[1] and begin(two) not in text[1], text[1])
    check(begin(one) in text[2] and begin(two) in text[2] and "HINT=" not in text[2], text[2])
    for e in learn.exercises_of([]):
        lines = learn.opening_comment(e.stub.read_text())[0]
        check(not any("HINT" in line for line in lines), f"{e.id}: a hint stands in the task")


def test_a_loop_is_called_one():
    began = time.monotonic()
    outcome = outcome_of("for (;;) a->l += 1;")
    check(outcome.status == learn.UNSOLVED, outcome)
    check("did not end within 20 seconds: does it loop for ever?" in outcome.text, outcome.text)
    check(time.monotonic() - began < 50, "it took longer than 20 s and the compiler")
    check(not children(), children())


def test_the_compilers_line_is_shown():
    outcome = outcome_of("a->l = nonsense;")
    check(outcome.status == learn.BROKEN, outcome)
    check("error: " in learn.reason(outcome) and "nonsense" in learn.reason(outcome), outcome.text)


def test_a_file_without_the_function_is_named():
    try:
        outcome_of(None)
    except learn.Unlinked as lacking:
        why = learn.reason(learn.Outcome(learn.BROKEN, str(lacking)))
        check("undefined reference to" in why, why)
    else:
        check(False, "it linked")


def test_a_crash_is_called_one():
    outcome = outcome_of("*(volatile int *)0 = 1;")
    check("unexpected signal" in learn.reason(outcome), outcome)


def test_a_task_is_as_it_was_committed():
    """Of two learners' files one says other points, and the other is gone."""
    head = "/*\n * Exercise 01.{}: a.\n *\n * POINTS: {}\n * TESTS: test_a\n */\n"
    root = learn.ROOT
    with tempfile.TemporaryDirectory() as folder:
        learn.ROOT = pathlib.Path(folder)
        home = learn.ROOT / "01_x/exercises"
        home.mkdir(parents=True)
        stubs = [home / "01_a.c", home / "02_b.c"]
        for i, stub in enumerate(stubs, 1):
            stub.write_text(head.format(i, 3))
        (home / "hints.txt").write_text("01 one\n\n01 two\n\n02 one\n\n02 two\n")
        git = ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b"]
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "tasks"]):
            subprocess.run(git + command, check=True)
        stubs[0].write_text(head.format(1, 300)), stubs[1].unlink()
        try:
            for learn.Exercise.authors, points in ((False, [3, 3]), (True, [300, 3])):
                found = [e.points for e in learn.exercises_in("01_x")]
                check(found == points, f"{found}, not {points}")
        finally:
            learn.ROOT, learn.Exercise.authors = root, False


def test_grades_as_csv():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "class.csv"
        for _ in range(2):  # two learners
            text, status = says("grade", "02.3", "--csv", str(path))
            check(not status and "total" in text, text)
        rows = list(csv.DictReader(io.StringIO(path.read_text())))
        check([r["exercise"] for r in rows] == ["02.3", "02.3"], rows)
        check(all(r["possible"] == "2" and r["tree"] == ROOT.name for r in rows), rows)
    for path in (tempfile.gettempdir(), "/nowhere/class.csv", "/dev/full"):
        text, status = says("grade", "02.3", "--csv", path)
        check(status and f"cannot write {path}" in text and "Traceback" not in text, text)
    text, _ = says("grade", "02.3", "--csv", "-")
    check(text.startswith("tree,exercise,points,possible,status,why\n"), text)


def test_what_is_judged_takes_no_room():
    """Programs of a chapter with CUDA are large. What a learner wants to look into stays: one that fails."""
    e = learn.exercises_of(["02.3"])[0]
    for strict, answer, stays in ((True, e.solution, 0), (True, e.stub, 0), (False, e.solution, 0), (False, e.stub, 1)):
        shop = learn.Workshop([e], strict)
        which = "solution" if answer == e.solution else "stub"
        place = ROOT / shop.build.directory / "exercises" / e.chapter / e.name / which
        shutil.rmtree(place, ignore_errors=True)
        shop.try_answer(e, answer)
        left = [p.name for p in place.iterdir() if p.name != "outcome.json"]
        check(bool(left) == bool(stays), f"{which}, strict {strict}: {left}")


def test_nothing_is_left_behind():
    """A tool that is killed takes its tests along, and Ctrl-C leaves no traceback."""
    for end in (signal.SIGINT, signal.SIGKILL):
        code = "import test_learn; test_learn.outcome_of('for (;;) a->l += 1;')"
        p = subprocess.Popen(
            [sys.executable, "-c", f"from build import run_main\ndef main(_): {code}\nrun_main(main)"],
            cwd=ROOT / "tools",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(600):
            if children():
                break
            time.sleep(0.05)
        check(children(), "the test program did not start")
        p.send_signal(end)
        text = p.communicate(timeout=60)[0]
        check("Traceback" not in text, text)
        time.sleep(0.5)
        check(not children(), children())


def main():
    failed = 0
    tests = [(name, f) for name, f in globals().items() if name.startswith("test_")]
    for name, test in tests:
        try:
            test()
            print(f"  ok    {name}", flush=True)
        except AssertionError as e:
            failed += 1
            print(f"  FAIL  {name}: {e}", flush=True)
    print(f"{len(tests) - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
