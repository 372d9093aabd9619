"""Programs beside the book that are linked with the chapters' own libraries, by the Makefile's flags:

native.py OUT CHAPTER FILE...     compiles and links FILEs (a path from the root each) into OUT
"""

import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from build import ROOT, Build, fail, run_main


def link(build, out, chapter, files):
    """The chapter's libraries must be there: Native.libraries() makes them."""
    out.parent.mkdir(parents=True, exist_ok=True)
    blas, libraries = [build.blas], build.libraries(chapter)
    # web.o by name, and all symbols: figures are called by their names.
    web = f"{build.directory}/common/program/web.o"
    done = subprocess.run(
        [build.cc, *build.cflags, "-rdynamic", *files, web, *build.ldflags, *blas, *libraries,
         *build.libs, "-ldl", "-o", out],
        cwd=ROOT,
    )  # fmt: skip
    if done.returncode:
        fail(f"{' '.join(files)} does not compile")


def main(arguments):
    if len(arguments) < 3:
        fail("usage: native.py OUT CHAPTER FILE...")
    out, chapter, *files = arguments
    build = Build("CUDA=0")
    ok, _ = build.make(build.blas, *build.libraries(chapter), quiet=True)
    if not ok:
        return 1
    link(build, pathlib.Path(out).resolve(), chapter, files)
    return 0


if __name__ == "__main__":
    run_main(main)
