#!/usr/bin/env python3
"""tools/thin.py: what becomes of each column, and that the head stays."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

THIN = pathlib.Path(__file__).parent / "thin.py"
METRICS = """\
# command: deepseek train
# device: cpu
step,loss,validation_loss,learning_rate,tokens_per_second,idle_experts
1,4,,0.1,100,0
2,2,3.5,0.2,50,2
3,1,,0.3,100,0
"""


class Thin(unittest.TestCase):
    def thin(self, *flags):
        with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
            file.write(METRICS)
            file.flush()
            return subprocess.run([sys.executable, THIN, file.name, *flags], capture_output=True, text=True)

    def test_rows_are_joined(self):
        lines = self.thin("--rows", "2", "--tokens", "1000000").stdout.splitlines()
        self.assertEqual(lines[:2], ["# command: deepseek train", "# device: cpu"])
        self.assertIn("3 steps, 2 a row", lines[2])
        self.assertEqual(lines[3], METRICS.splitlines()[2] + ",billions")
        # 1 / (1/100 + 1/50) = 33.3 steps' tokens a second for two steps: 66.7, not the mean, 75
        self.assertEqual(lines[4:], ["2,3,3.5,0.2,67,2,0.002", "3,1,,0.3,100,0,0.003"])

    def test_columns_and_command(self):
        lines = self.thin("--columns", "step,loss", "--command", "x").stdout.splitlines()
        self.assertEqual(lines[0], "# command: x")
        self.assertEqual(lines[3:], ["step,loss", "1,4", "2,2", "3,1"])

    def test_no_such_column(self):
        result = self.thin("--columns", "step,speed")
        self.assertEqual(result.returncode, 1)
        self.assertIn("no column speed", result.stderr)


if __name__ == "__main__":
    unittest.main()
