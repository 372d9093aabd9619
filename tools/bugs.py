#!/usr/bin/env python3
"""Proves that the tests find mistakes: bugs.py [--remember] [CHAPTER...]

NN_name/bugs/NN_title.patch is a classic mistake: a sentence that says what is wrong, then a diff
from the root of the repository. Each is applied to a copy of the tree, the chapter's tests are
built there (on the CPU, from the objects that are there already, so that only what the patch
touches is compiled again), and one of them must fail that passes without the patch.

NN_name/bugs/found_by.txt says which one failed last time: "NN_title program suite/test". That one
is built and run first, and if it fails, it is all that is needed. Where it does not, or nothing is
said, all are tried; --remember writes down what they say.
"""

import concurrent.futures
import os
import pathlib
import shutil
import subprocess

import criterion
from build import ROOT, Build, chapters, chosen_chapters, fail, run_main

COPIES = ROOT / "build" / "bugs"
SECONDS_PER_TEST = 20  # some mistakes loop for ever


def tracked_files():
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    if done.returncode:
        fail("this needs a git repository: the copy of the tree is made of the files git knows")
    return [name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def copy_tree(target, files, build, chapter):
    """The sources, and the objects of the chapter and what lies below it, all as old as the
    originals, so that make finds nothing to do until the patch is applied."""
    shutil.rmtree(target, ignore_errors=True)
    parts = ["common"] + [c for c in chapters() if c <= chapter]
    for name in files:
        if "/" not in name or name.split("/")[0] in parts or name.startswith("tools/"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    objects = pathlib.Path(build.directory)
    (target / objects).mkdir(parents=True)
    for file in (ROOT / objects).glob("flags-*"):
        shutil.copy2(file, target / objects)
    for part in parts:
        shutil.copytree(
            ROOT / objects / part,
            target / objects / part,
            symlinks=True,
            ignore=lambda folder, names: [
                n
                for n in names
                if not n.endswith((".o", ".d", ".a", "objects"))
                and not os.path.isdir(os.path.join(folder, n))
            ],
        )


def apply(patch, tree):
    """Strictly first; then with one line of context, so that an edit near by does no harm."""
    for context in ([], ["-C1"]):
        # GIT_DIR: without it git would take the copy, which lies in an ignored directory of the
        # repository, for nothing to patch.
        done = subprocess.run(
            ["git", "apply", "--whitespace=nowarn", *context, str(patch)],
            cwd=tree,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": "/usr/bin:/bin", "GIT_DIR": str(tree / "no-repository")},
        )
        if done.returncode == 0:
            return ""
    return done.stdout.decode(errors="replace")


def sentence(patch):
    for line in patch.read_text(errors="replace").splitlines():
        if line.startswith(("diff ", "--- ")):
            break
        if line.strip():
            return line.strip()
    return ""


def remembered(chapter):
    """{a patch's stem: (test program, suite/test)}"""
    path = ROOT / chapter / "bugs" / "found_by.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return {stem: (program, test) for stem, program, test in map(str.split, lines)}


def remember(chapter, found):
    lines = [" ".join([stem, *found[stem]]) for stem in sorted(found)]
    (ROOT / chapter / "bugs" / "found_by.txt").write_text("\n".join(lines) + "\n")


def failing(tree, test, pattern=None):
    """The first failing test of a program in the copy, by name."""
    run = criterion.run(
        tree / test,
        pattern=pattern,
        fail_fast=True,
        cwd=tree,
        timeout=SECONDS_PER_TEST,
        jobs=1,
    )
    return next((r.name for r in run.of(criterion.FAIL)), None)


def try_bug(patch, build, files, tests, hint):
    """(found?, text, (program, suite/test) that found it)"""
    chapter, tree = patch.parent.parent.name, COPIES / f"{patch.parent.parent.name}.{patch.stem}"
    if not sentence(patch):
        return False, "the patch must begin with a sentence that says what the mistake is", None
    tries = [(test, None) for test in tests]
    if hint:
        tries[:0] = [(test, hint[1]) for test in tests if test.endswith("/" + hint[0])]
    try:
        copy_tree(tree, files, build, chapter)
        complaint = apply(patch, tree)
        if complaint:
            return (
                False,
                f"the patch does not apply to the sources as they are; make it again\n{complaint}",
                None,
            )
        for test, pattern in tries:
            ok, text = build.make("-j1", test, cwd=tree, quiet=True)
            if not ok:
                return False, f"with the mistake in it, the program must still compile\n{text}", None
            name = failing(tree, test, pattern)
            if not name:
                continue
            sound = criterion.run(
                ROOT / test, pattern=name, cwd=ROOT, timeout=SECONDS_PER_TEST, jobs=1
            )
            if sound.of(criterion.FAIL) and not name.startswith("("):
                return False, f"{name} fails without the mistake, too", None
            program = pathlib.Path(test).name
            return True, f"{program}: {name}", (program, name)
        return False, f"no test of {chapter} fails: the tests miss this mistake", None
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def main(arguments):
    names = [a for a in arguments if a != "--remember"]
    build, files = Build("CUDA=0", "SETUP=0"), tracked_files()
    patches = [
        p for c in chosen_chapters(names) for p in sorted((ROOT / c / "bugs").glob("*.patch"))
    ]
    tests = {
        c: [f"{build.directory}/tests/{c}/{t.stem}" for t in sorted((ROOT / c / "tests").glob("test_*.c"))]
        for c in {p.parent.parent.name for p in patches}
    }
    if patches and not build.make("-s", *sum(tests.values(), []))[0]:
        fail("the project itself does not build; the compiler's message is above")
    missed = 0
    hints = {c: remembered(c) for c in tests}
    found_by = {c: {} for c in tests}
    with concurrent.futures.ThreadPoolExecutor(criterion.cores()) as pool:

        def work(patch):
            chapter = patch.parent.parent.name
            return try_bug(patch, build, files, tests[chapter], hints[chapter].get(patch.stem))

        for patch, (found, text, by) in zip(patches, pool.map(work, patches)):
            missed += not found
            chapter = patch.parent.parent.name
            if found and "(" not in by[1]:  # a crash has no test's name
                found_by[chapter][patch.stem] = by
            print(f"  {chapter}/{patch.stem}: {sentence(patch)}")
            print(
                "\n".join(
                    "      " + ("found by " if found else "NOT FOUND: ") * (i == 0) + l
                    for i, l in enumerate(text.splitlines())
                ),
                flush=True,
            )
    for chapter in tests if "--remember" in arguments else []:
        remember(chapter, found_by[chapter])
    print(f"bugs: {len(patches) - missed} of {len(patches)} mistakes are found by a test")
    return 1 if missed else 0


if __name__ == "__main__":
    run_main(main)
