"""What the Makefile knows, for tools that compile and link on their own: learn.py and bugs.py."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def fail(message):
    sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {message}")


def run_main(main):
    """main(arguments) as a whole program. Ctrl-C ends it at once and without a traceback; the
    compilers have had it too, and tests die with this process. So does a reader that has seen
    enough (| head).
    """
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
        sys.exit(status)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr, flush=True)
        os._exit(130)  # the threads that wait for compilers and tests are not asked
    except BrokenPipeError:
        os._exit(141)


def make_environment():
    """The environment without the calling make's job slots, which it cannot share with us;
    variables (CUDA=0) stay.
    """
    env = dict(os.environ)
    flags = env.pop("MAKEFLAGS", "")
    env.pop("MFLAGS", None)
    env["MAKEFLAGS"] = " -- " + flags.split(" -- ", 1)[1] if " -- " in flags else ""
    return env


def make(*arguments, cwd=ROOT, quiet=False):
    """Runs make. Returns (ok, what it printed); unless quiet, make prints for itself."""
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=cwd,
        env=make_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
    )
    return done.returncode == 0, (done.stdout or b"").decode(errors="replace")


class Build:
    """Flags, directories and libraries, as `make build-info` tells them."""

    def __init__(self, *variables):
        self.variables = variables
        ok, text = make("-s", "build-info", *variables, quiet=True)
        if not ok:
            fail(text.strip())
        info = dict(line.split("=", 1) for line in text.splitlines() if re.match(r"[\w]+=", line))
        self.directory = info["B"]
        self.cc, self.nvcc = info["CC"], info["NVCC"]
        self.cflags, self.ldflags = shlex.split(info["CFLAGS"]), shlex.split(info["LDFLAGS"])
        self.nvflags, self.libs = shlex.split(info["NVFLAGS"]), shlex.split(info["LIBS"])
        self.testing, self.blas = info["TESTING"], info["BLAS"]
        self.key = text

    def object(self, source):
        return (
            f"{self.directory}/{source}.o"
            if source.endswith(".cu")
            else f"{self.directory}/{source[:-2]}.o"
        )

    def libraries(self, chapter):
        """The chapter's library, those of the chapters below it, and common's: in the linker's
        order.
        """
        below = sorted((c for c in chapters() if c <= chapter), reverse=True)
        return [f"{self.directory}/{part}/lib{part}.a" for part in below + ["common"]]

    def for_tests(self):
        return [self.testing, self.blas]

    def make(self, *targets, cwd=ROOT, quiet=False):
        return make(*self.variables, *targets, cwd=cwd, quiet=quiet)


def chapters():
    return sorted(p.name for p in ROOT.glob("[0-9][0-9]_*") if p.is_dir())


def chapter_called(name):
    """The chapter's folder for 02_causal, 02_causal/, 02 and 2; None if there is none."""
    number = f"{int(name):02}_" if name.isdecimal() else None
    for chapter in chapters():
        if chapter == name.rstrip("/") or number and chapter.startswith(number):
            return chapter
    return None


def chosen_chapters(names):
    """The chapters named on the command line, or all."""
    for name in names:
        if not chapter_called(name):
            fail(f"there is no chapter {name}; there are {' '.join(chapters())}")
    return [chapter_called(name) for name in names] or chapters()
