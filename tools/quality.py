#!/usr/bin/env python3
"""What fewer bits cost a model, by every way that `deepseek quantize` has: bytes, and perplexity on a text that
neither the model nor the methods have seen.

    tools/quality.py TEXT FILE.csv MODEL...     make 10_full_model first
    tools/quality.py --head TEXT FILE.csv ...   the same with the head in fewer bits, too

The methods look at the text's first nine tenths; perplexity is measured on the rest, by windows of as many
tokens as in training. (A model that was trained here on the same text knows the first 19 twentieths: --tail 0.05.)
A row for each way:

    model                      its folder's name
    way, to, method, group     as flags of deepseek quantize; `plain` is the model as it is
    bytes                      of the folder's weights
    perplexity, more           by `deepseek eval`, and percent above the plain model's
    fast, fast_more            the same with --quantised-activations, as `generate` computes on a CPU
"""

import argparse
import csv
import datetime
import pathlib
import re
import subprocess
import sys
import tempfile

from measure import commit

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEEPSEEK = ROOT / "10_full_model/deepseek"
WAYS = [("int8", "rtn", 128), ("int8", "gptq", 128), ("int8", "llmint8", 0), ("int8", "smoothquant", 0),
        ("int4", "rtn", 128), ("int4", "awq", 128), ("int4", "gptq", 128), ("int4", "rtn", 64), ("int4", "gptq", 64),
        ("int4", "rtn", 32), ("int4", "gptq", 32), ("fp8", "rtn", 128)]  # fmt: skip
HEAD_WAYS = [("int8", "rtn", 128), ("int4", "rtn", 128), ("int4", "gptq", 128), ("int4", "rtn", 32), ("int4", "gptq", 32)]
COLUMNS = "model,way,to,method,group,bytes,perplexity,more,fast,fast_more".split(",")


def deepseek(*arguments):
    done = subprocess.run([DEEPSEEK, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"quality.py: deepseek {' '.join(map(str, arguments))}\n{done.stdout}")
    return done.stdout


def perplexity(model, text, windows, *flags):
    out = deepseek("eval", "--model", model, "--data", text, "--windows", windows, *flags)
    return 2.718281828459045 ** float(re.search(r"loss ([\d.]+)", out)[1])


def weights(folder):
    return sum(f.stat().st_size for f in folder.glob("model*.safetensors"))


def measure(model, head, tail, c, scratch):
    """A row for each way."""
    windows = c.windows
    plain = perplexity(model, tail, windows)
    yield dict(model=model.name, way="plain", to="f32", bytes=weights(model), perplexity=f"{plain:.4f}", more="0")
    for to, method, group in HEAD_WAYS if c.head else WAYS:
        flags = ["--to", to, "--method", method, "--group", group] if to != "fp8" else ["--to", to]
        flags += ["--head"] if c.head else []
        deepseek("quantize", "--model", model, "--out", scratch / "few", *flags, "--calibrate", head, "--overwrite")
        few = perplexity(scratch / "few", tail, windows)
        fast = perplexity(scratch / "few", tail, windows, "--quantised-activations")
        row = dict(model=model.name, way=f"{to} {method} {group}" if to != "fp8" else "fp8", to=to, method=method, group=group,
                   bytes=weights(scratch / "few"), perplexity=f"{few:.4f}", more=f"{100 * (few / plain - 1):.2f}",
                   fast=f"{fast:.4f}", fast_more=f"{100 * (fast / plain - 1):.2f}")  # fmt: skip
        print(f"{model.name:10} {row['way']:20} {row['bytes']:12,} bytes   perplexity {few:8.3f} ({row['more']:>6} %)   "
              f"with activations in 8 bits {fast:8.3f} ({row['fast_more']:>6} %)", flush=True)  # fmt: skip
        yield row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("csv", type=pathlib.Path)
    parser.add_argument("models", type=pathlib.Path, nargs="+")
    parser.add_argument("--tail", type=float, default=0.1, help="share of the text to measure on (default 0.1)")
    parser.add_argument("--head", action="store_true", help="with `deepseek quantize --head`")
    parser.add_argument("--windows", type=int, default=512, help="of it (default 512)")
    c = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        text = c.text.read_bytes()
        cut = text.rfind(b"\n", 0, int(len(text) * (1 - c.tail))) + 1
        head, tail = scratch / "head.txt", scratch / "tail.txt"
        head.write_bytes(text[:cut])
        tail.write_bytes(text[cut:])
        for model in c.models:
            rows += measure(model.resolve(), head, tail, c, scratch)
    with open(c.csv, "w", newline="") as file:
        for line in [f"# made by: tools/quality.py{' --head' if c.head else ''}, on the last {c.tail:g} of {c.text.name}", f"# commit: {commit()}",
                     f"# date: {datetime.date.today()}"]:  # fmt: skip
            file.write(line + "\n")
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"quality.py: {c.csv}: {len(rows)} rows")


if __name__ == "__main__":
    main()
