"""Runs Criterion test programs and understands what they say. Used by run_tests.py, learn.py and
bugs.py.

Criterion's TAP report is read, not its JSON, which does not escape quotation marks in messages.
"""

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, field

PASS, FAIL, SKIP = "pass", "fail", "skip"
PROGRAM_SECONDS = 1200  # all tests of a program together


@dataclass
class Result:
    name: str  # suite/test
    status: str
    messages: list = field(default_factory=list)


@dataclass
class Run:
    results: list
    output: str  # what the program itself printed, without Criterion's report

    def of(self, status):
        return [r for r in self.results if r.status == status]


def cores():
    return len(os.sched_getaffinity(0))


def environment():
    """Every test is a process of its own and `cores()` of them run at once: two threads each are
    enough to find what depends on threads, and threads that wait must not spin, for another
    process has work for the core.
    """
    env = dict(os.environ)
    env.setdefault("OMP_NUM_THREADS", "2")
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # The message of a sanitizer is worth more with line numbers, and memory that a test leaves
    # behind is given back with its process; leaks of the library are looked for in the programs.
    # What cannot be had is NULL, as it is without a sanitizer.
    env.setdefault("ASAN_OPTIONS", "detect_leaks=0:abort_on_error=0:allocator_may_return_null=1")
    env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    return env


def parse_tap(text, filtered, seconds):
    results = []
    for line in text.splitlines():
        m = re.match(r"(ok|not ok) - (\S+?)::(\S+)\s*(.*)", line)
        if m:
            ok, suite, test, rest = m.groups()
            if rest == "# SKIP test was skipped" and filtered:
                continue  # not asked for
            status = SKIP if rest.startswith("# SKIP") else PASS if ok == "ok" else FAIL
            results.append(Result(f"{suite}/{test}", status))
            if rest.startswith("# SKIP"):
                results[-1].messages.append(rest[len("# SKIP") :].strip())
            elif rest.startswith("timed out"):
                results[-1].messages.append(
                    f"did not end within {seconds} seconds: does it loop for ever?"
                )
            elif rest and not re.fullmatch(r"\(.*\)", rest):
                results[-1].messages.append(rest)  # a crash
        elif results and results[-1].status == FAIL:
            m = re.match(r"  - (.*): \|\+$", line)
            if m:
                results[-1].messages.append(m.group(1) + ":")
            elif line.startswith("      "):
                text_line = line.strip().removeprefix("Assertion failed: ")
                if text_line:
                    results[-1].messages.append("  " + text_line)
    return results


def run(program, pattern=None, fail_fast=False, cwd=None, timeout=120, jobs=None):
    """Runs one test program, or the tests of it that match `pattern` (suite/test, with * and ?).
    Each may take `timeout` seconds (common/program/testing.c sees to it).
    """
    with tempfile.NamedTemporaryFile(suffix=".tap") as tap:
        command = [
            os.path.abspath(program),
            f"--tap={tap.name}",
            "--color=never",
        ]
        command += ["-j", str(jobs or min(cores(), 8))]
        command += ["--filter", pattern] if pattern else []
        command += ["--fail-fast"] if fail_fast else []
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                env={**environment(), "TEST_SECONDS": str(timeout)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=PROGRAM_SECONDS,
            )
            code, raw = done.returncode, done.stdout
        except subprocess.TimeoutExpired as late:
            code, raw = 124, late.stdout or b""
        except OSError as error:
            code, raw = 126, str(error).encode()
        report = tap.read().decode(errors="replace")
    lines = raw.decode(errors="replace").splitlines()
    output = "\n".join(
        l for l in lines if not re.match(r"\[(----|====|FAIL|SKIP|PASS|RUN *|WARN|ERR *)\]", l)
    )
    results = parse_tap(report, pattern is not None, timeout)
    if code and not any(r.status == FAIL for r in results):
        results.append(
            Result(
                "(the program)", FAIL, [f"ended with status {code} and reported no failing test"]
            )
        )
    return Run(results, output.strip())


def explain(result, output="", indent="      "):
    """The failing test's message as lines; what the program printed too, when Criterion knows
    nothing but 'crash'.
    """
    lines = [indent + m for m in result.messages]
    if output and (
        not result.messages or "signal" in result.messages[0] or result.name.startswith("(")
    ):
        printed = output.splitlines()
        lines += [indent + "printed: " + l for l in printed[:30]]
        lines += [indent + f"... and {len(printed) - 30} lines more"] if len(printed) > 30 else []
    return lines
