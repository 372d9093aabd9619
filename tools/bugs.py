#!/usr/bin/env python3
"""Proves that the tests find mistakes: bugs.py [CHAPTER...]

NN_name/bugs/NN_title.patch is a classic mistake: a sentence that says what is wrong, then a diff
from the root of the repository. Each is applied to a copy of the tree, the chapter's tests are
built there (on the CPU, from the objects that are there already, so that only what the patch
touches is compiled again), and one of them must fail that passes without the patch.
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


def try_bug(patch, build, files, tests):
    """(found?, text)"""
    chapter, tree = patch.parent.parent.name, COPIES / f"{patch.parent.parent.name}.{patch.stem}"
    if not sentence(patch):
        return False, "the patch must begin with a sentence that says what the mistake is"
    try:
        copy_tree(tree, files, build, chapter)
        complaint = apply(patch, tree)
        if complaint:
            return (
                False,
                f"the patch does not apply to the sources as they are; make it again\n{complaint}",
            )
        ok, text = build.make("-j1", *tests, cwd=tree, quiet=True)
        if not ok:
            return False, f"with the mistake in it, the program must still compile\n{text}"
        for test in tests:
            run = criterion.run(
                tree / test, fail_fast=True, cwd=tree, timeout=SECONDS_PER_TEST, jobs=1
            )
            for failed in run.of(criterion.FAIL):
                sound = criterion.run(
                    ROOT / test, pattern=failed.name, cwd=ROOT, timeout=SECONDS_PER_TEST, jobs=1
                )
                if sound.of(criterion.FAIL) and not failed.name.startswith("("):
                    return False, f"{failed.name} fails without the mistake, too"
                return True, f"{pathlib.Path(test).name}: {failed.name}"
        return False, f"no test of {chapter} fails: the tests miss this mistake"
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def main(names):
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
    with concurrent.futures.ThreadPoolExecutor(criterion.cores()) as pool:
        work = lambda patch: try_bug(patch, build, files, tests[patch.parent.parent.name])
        for patch, (found, text) in zip(patches, pool.map(work, patches)):
            missed += not found
            print(f"  {patch.parent.parent.name}/{patch.stem}: {sentence(patch)}")
            print(
                "\n".join(
                    "      " + ("found by " if found else "NOT FOUND: ") * (i == 0) + l
                    for i, l in enumerate(text.splitlines())
                ),
                flush=True,
            )
    print(f"bugs: {len(patches) - missed} of {len(patches)} mistakes are found by a test")
    return 1 if missed else 0


if __name__ == "__main__":
    run_main(main)
