#!/usr/bin/env python3
"""tools/thin.py: what becomes of each column, and that the head stays. tools/keep_109m.sh: what it finds, it keeps."""

import os
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
        self.assertEqual(self.thin("--every", "2", "--tokens", "1000000").stdout.splitlines(), lines)

    def test_columns_and_command(self):
        lines = self.thin("--columns", "step,loss", "--command", "x").stdout.splitlines()
        self.assertEqual(lines[0], "# command: x")
        self.assertEqual(lines[3:], ["step,loss", "1,4", "2,2", "3,1"])

    def test_no_such_column(self):
        result = self.thin("--columns", "step,speed")
        self.assertEqual(result.returncode, 1)
        self.assertIn("no column speed", result.stderr)


class Keep(unittest.TestCase):
    def test_what_is_there_is_kept(self):
        head = "# command: x\n# commit: unknown\n"
        metrics = "step,loss,validation_loss,learning_rate,gradient_norm,tokens_per_second,share_of_peak,max_vio,idle_experts,mtp_loss_1"
        files = {
            "109m/plan": "steps=2\n# tokens of text: 100, of a step: 50, a second: not measured; --passes 1\n",
            "109m/pieces.csv": "from,to,seconds,tokens_per_second\n0,2,1.00,100\n",
            "109m/positions.csv": head + "first,last,loss\n1,8,4\n",
            "109m/model/metrics.csv": head + metrics + "\n1,5,,0.1,1,100,,0.5,0,6\n2,4,4,0.1,1,100,,0.5,0,5\n",
            "judged/yarn.csv": head + "way,first\nyarn,1\n",
        }
        with tempfile.TemporaryDirectory() as folder:
            out, kept = pathlib.Path(folder, "out"), pathlib.Path(folder, "kept")
            for name, text in files.items():
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                (out / name).write_text(text)
            keep = [THIN.parent / "keep_109m.sh", out, "1234567"]
            subprocess.run(keep, check=True, env=os.environ | {"FIGURES": str(kept)}, capture_output=True)
            found = sorted(str(p.relative_to(kept)) for p in kept.rglob("*.csv"))
            self.assertEqual(
                found,
                ["run_109m/pieces.csv", "run_109m/places.csv", "run_109m_loss.csv", "run_109m_positions.csv", "run_109m_step.csv"],
            )
            text = (kept / "run_109m_loss.csv").read_text()
            self.assertIn("# commit: 1234567", text)
            self.assertIn("step,loss,validation_loss,mtp_loss_1,billions\n1,5,,6,5e-08\n", text)


if __name__ == "__main__":
    unittest.main()
