#!/usr/bin/env python3
"""Times torch._grouped_mm in every direction on CUDA: the peer of 05_moe/bench_grouped."""

import argparse

import torch
import torch.nn.functional as F

from table import Table

TOKENS, TOP_K = 8192, 8

# The shapes of 05_moe/bench_grouped.c: experts, in, out.
SHAPES = [(64, 2048, 1024), (8, 512, 1024), (8, 512, 512), (64, 7168, 4096), (256, 2048, 1024)] + [
    (experts, *pair)
    for experts in (64, 256)
    for hidden in (2048, 7168)
    for width in (512, 2048)
    for pair in ((hidden, width), (width, hidden))
]


def bench_shape(table, experts, inputs, outputs):
    def tensor(*shape, scale=1.0):
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * scale

    chosen = torch.rand(TOKENS, experts, device="cuda").topk(TOP_K, 1).indices
    counts = torch.bincount(chosen.flatten(), minlength=experts)
    ends = counts.cumsum(0).to(torch.int32)  # _grouped_mm reads them on the device, as we do
    rows = TOKENS * TOP_K
    flop = 2.0 * rows * inputs * outputs
    x, dy = tensor(rows, inputs), tensor(rows, outputs)
    w = tensor(experts, outputs, inputs, scale=0.02)
    both = tensor(experts, 2 * outputs, inputs, scale=0.02)  # gate and up as one matrix

    def swiglu():
        gate, up = torch._grouped_mm(x, both.transpose(-2, -1), offs=ends).chunk(2, -1)
        return F.silu(gate) * up

    table.head(f"{experts} experts, {rows} rows, {inputs} -> {outputs}")
    table.row("y = x W^T", flop, lambda: torch._grouped_mm(x, w.transpose(-2, -1), offs=ends))
    table.row("swiglu", 2 * flop, swiglu)
    table.row("dx = dy W", flop, lambda: torch._grouped_mm(dy, w, offs=ends))
    table.row("dW = dy^T x (BF16)", flop, lambda: torch._grouped_mm(dy.t(), x, offs=ends))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each row")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, "moe_grouped.py: this PyTorch sees no GPU\n")
    torch.manual_seed(1)
    table = Table("cuda", torch.bfloat16, args.seconds)
    with torch.no_grad():
        for shape in SHAPES:
            bench_shape(table, *shape)


if __name__ == "__main__":
    main()
