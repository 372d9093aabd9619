#!/usr/bin/env python3
"""Runs test programs one after the other and sums up: run_tests.py PROGRAM...

The last line is always 'N passed, N failed, N skipped'. The exit status is 1 when a test failed.
"""

import collections
import time

import criterion
from build import run_main


def short(program):
    """build/cpu/tests/02_causal/test_causal -> 02_causal/test_causal"""
    return program.split("/tests/")[-1]


def main(programs):
    total = collections.Counter()
    failures, skips = [], collections.Counter()
    for program in programs:
        started = time.monotonic()
        run = criterion.run(program)
        count = collections.Counter(r.status for r in run.results)
        total += count
        words = (("pass", "passed"), ("fail", "FAILED"), ("skip", "skipped"))
        parts = [f"{count[s]} {w}" for s, w in words if count[s]] or ["no tests in this build"]
        print(
            f"  {short(program):<42} {', '.join(parts)}  ({time.monotonic() - started:.1f} s)",
            flush=True,
        )
        for result in run.of("fail"):
            failures.append(f"{short(program)}: {result.name}")
            print(f"    FAIL {result.name}")
            print("\n".join(criterion.explain(result, run.output)), flush=True)
        skips.update(" ".join(r.messages) for r in run.of("skip"))
    for reason, n in skips.most_common():
        print(f"skipped {n}: {reason}")
    if failures:
        print("failed:\n  " + "\n  ".join(failures))
    print(f"{total['pass']} passed, {total['fail']} failed, {total['skip']} skipped")
    return 1 if total["fail"] else 0


if __name__ == "__main__":
    run_main(main)
