#!/usr/bin/env python3
"""Tests counters.py against a made-up ncu: a script that prints what Nsight Compute prints."""

import contextlib
import csv
import io
import os
import pathlib
import sys
import tempfile
import unittest

import counters

HEAD = ["ID", "Process ID", "Process Name", "Host Name", "Kernel Name", "Context", "Stream", "Block Size",
        "Grid Size", "Device", "CC", "Section Name", "Metric Name", "Metric Unit", "Metric Value"]
STALL = counters.STALL.format


def kernel(number, name, grid, **values):
    """The rows of one kernel: what a unit test does not give is zero."""
    told = dict.fromkeys(counters.wanted_metrics(), "0")
    told.update({m: values[own] for own, m, *_ in [*counters.UNITS, *counters.COUNTS] if own in values})
    told.update({STALL(s): values[s] for s in counters.STALLS if s in values})
    fixed = [number, 7, "bench", "127.0.0.1", name, 1, 7, "(256, 1, 1)", grid, 0, "9.0", "Command line profiler metrics"]
    return [[*fixed, metric, "", value] for metric, value in told.items()]


def printed(kernels, lines):
    """What ncu --csv prints: the program's own lines, its talk, then the table."""
    out = io.StringIO()
    out.write("==PROF== Connected to process 7\ngpu       a GPU\n" + "\n".join(lines) + "\n==PROF== Disconnected\n")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(HEAD)
    for rows in kernels:
        writer.writerows(rows)
    return out.getvalue()


LINES = ["range 1|C = A B, 8192 x 8192|BF16  naive|373710|0.37|nan",
         "range 2|C = A B, 8192 x 8192|BF16  hopper|1384|100.1|nan"]
KERNELS = [
    kernel(0, "profile_mark()", "(1, 1, 1)"),
    kernel(1, "void naive_kernel<bf16>(bf16 *, int)", "(512, 512, 1)", kernel_us="373,710,000", l1="62.5", dram="3",
           long_scoreboard="1.0", lg_throttle="27.0", wait="1.0"),
    kernel(2, "profile_mark()", "(2, 1, 1)"),
    kernel(3, "prepare(int)", "(1, 1, 1)", kernel_us="346000"),
    kernel(4, "void (anonymous namespace)::hopper_kernel<(int)128, bf16>(CUtensorMap, void (*)(int))", "(132, 1, 1)", kernel_us="1038000", tensor="91.2", l1="55", gmma="12",
           bank_conflicts="n/a"),
]


class Reading(unittest.TestCase):
    def rows(self):
        return [counters.judged(*one) for one in counters.read(printed(KERNELS, LINES))]

    def test_what_nobody_keeps_busy_waits(self):
        row = self.rows()[0]
        self.assertEqual(row["row"], "BF16 naive")
        self.assertEqual(row["kernel"], "naive_kernel<bf16>")
        self.assertEqual(row["stall"], "lg_throttle")
        self.assertAlmostEqual(row["stall_share"], 27 / 30)  # of 27 + 1 + 1 + 1 clocks, the last for itself
        self.assertEqual(row["second_clocks"], 1)
        self.assertAlmostEqual(row["kernel_us"], 373710)
        self.assertIn("waiting for the queue of loads and stores, 90% of a warp's time", row["limit"])
        self.assertIn("busiest: L1 and shared memory, 62 %", row["limit"])

    def test_a_busy_unit_limits(self):
        row = self.rows()[1]
        self.assertEqual(row["limit"], "tensor cores, 91 %")
        self.assertEqual((row["kernel"], row["kernels"]), ("hopper_kernel<(int)128, bf16>", 2))
        self.assertAlmostEqual(row["share_of_row"], 0.75)
        self.assertNotEqual(row["bank_conflicts"], row["bank_conflicts"])  # n/a is no number

    def test_the_busiest_processor_stands_for_all_when_one_block_runs(self):
        one = [[cell.replace(".avg.pct", ".max.pct") if i == 12 else cell for i, cell in enumerate(row)]
               for row in KERNELS[4]]
        row = counters.judged(*counters.read(printed([KERNELS[0], one], LINES[:1]))[0])
        self.assertEqual(row["limit"], "tensor cores, 91 %")

    def test_kernels_in_no_range_are_nobodys(self):
        found = counters.read(printed(KERNELS[1:2] + KERNELS[2:], LINES))
        self.assertEqual([len(kernels) for _, kernels in found], [0, 2])

    def test_another_table_is_refused(self):
        with self.assertRaises(counters.Unreadable):
            counters.read('"ID","Kernel Name"\n"0","x"\n')


class Running(unittest.TestCase):
    """The whole tool, with a program and an ncu that are shell scripts."""

    def run_tool(self, ncu, *more, program="exit 0"):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            for name, text in (("ncu", ncu), ("01_self_attention.bench", program), ("01_self_attention.steps", program)):
                (folder / name).write_text("#!/bin/sh\n" + text)
                (folder / name).chmod(0o755)
            (folder / "printed").write_text(printed(KERNELS, LINES))
            path, argv, out = os.environ["PATH"], sys.argv, io.StringIO()
            os.environ["PATH"] = f"{folder}:{path}"
            sys.argv = ["counters.py", "01_self_attention", "--programs", str(folder), "--out", str(folder), *more]
            try:
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                    counters.main()
                return out.getvalue(), (folder / "01_self_attention.csv").read_text()
            except SystemExit as end:
                return str(end), None
            finally:
                os.environ["PATH"], sys.argv = path, argv

    QUERY = 'if [ "$1" = --query-metrics ]; then for m in ' + " ".join(
        sorted({m.split(".")[0] for m in counters.wanted_metrics()})) + '; do echo "$m  about it"; done; exit 0; fi\n'

    def test_a_chapter_becomes_a_table_and_a_csv(self):
        said, text = self.run_tool(self.QUERY + 'cat "$(dirname "$0")/printed"\n', "--commit", "abc")
        self.assertIn("BF16 hopper", said)
        self.assertIn("tensor cores, 91 %", said)
        self.assertIn("# commit: abc\n", text)
        self.assertIn("# command: ncu over 01_self_attention/steps --counters\n", text)
        rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
        self.assertEqual([r["row"] for r in rows], ["BF16 naive", "BF16 hopper"] * 2)  # two programs
        self.assertEqual(rows[1]["tensor"], "91.2")

    def test_only_what_the_chip_has_is_asked_for(self):
        said, _ = self.run_tool(
            self.QUERY.replace("lts__throughput", "other") +
            'case "$*" in *lts__throughput*) echo "==ERROR== no such metric"; exit 1;; esac; cat "$(dirname "$0")/printed"\n')
        self.assertIn("not on this chip: lts__throughput", said)

    def test_a_metric_that_ncu_does_not_find_is_left_out(self):
        said, _ = self.run_tool(
            self.QUERY + 'case "$*" in *dram__throughput.avg*|*dram__throughput.max*) echo "==ERROR== Failed to find metric '
            'dram__throughput.$(echo "$*" | grep -o "dram__throughput[.]..." | cut -d. -f2).pct_of_peak_sustained_elapsed"; '
            'exit 1;; esac; cat "$(dirname "$0")/printed"\n')
        self.assertIn("BF16 hopper", said)

    def test_a_program_that_takes_too_long_is_stopped_and_its_rows_count(self):
        said, text = self.run_tool(
            self.QUERY + 'while [ "$1" != timeout ]; do shift; done; "$@"; cat "$(dirname "$0")/printed"\n',
            "--seconds", "1", program="sleep 30")
        self.assertIn("stopped", said)
        self.assertIn("BF16 hopper", text)

    def test_counters_that_may_not_be_read_end_it_with_ncus_words(self):
        words = "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access the counters"
        said, text = self.run_tool(self.QUERY + f'echo "{words}"; exit 1\n')
        self.assertIn("ERR_NVGPUCTRPERM", said)
        self.assertIsNone(text)

    def test_a_profiler_without_a_gpu_ends_it(self):
        said, _ = self.run_tool('echo "==ERROR== LibraryNotLoaded"; exit 1\n')
        self.assertIn("LibraryNotLoaded", said)


if __name__ == "__main__":
    unittest.main()
