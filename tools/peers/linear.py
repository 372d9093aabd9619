#!/usr/bin/env python3
"""Times torch.nn.functional.linear, forward and backward: the peer of common/core/bench_linear."""

import argparse

import torch
import torch.nn.functional as F

from table import Table

# The shapes of common/core/bench_linear.c: rows, in, out.
SHAPES = [
    (256, 256, 256),
    (512, 512, 512),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (2048, 256, 256),
    (2048, 256, 1024),
    (2048, 1024, 256),
    (2048, 256, 2048),
    (4096, 512, 512),
    (4096, 512, 1536),
    (4096, 1536, 512),
    (333, 500, 777),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's choice")
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each row")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "linear.py: this PyTorch sees no GPU\n")
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(1)

    dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    table = Table(args.device, dtype, args.seconds)
    table.head("linear layers: rows x in -> out")
    for rows, inputs, outputs in SHAPES:

        def tensor(*shape):
            return torch.randn(*shape, device=args.device, dtype=dtype, requires_grad=True)

        x, w, dy = tensor(rows, inputs), tensor(outputs, inputs), tensor(rows, outputs).detach()
        name, flop = f"{rows} x {inputs} -> {outputs}", 2.0 * rows * inputs * outputs
        with torch.no_grad():
            table.row(f"{name}  y = x W^T", flop, lambda: F.linear(x, w))
        y = F.linear(x, w)
        table.row(
            f"{name}  dx = dy W", flop, lambda: torch.autograd.grad(y, x, dy, retain_graph=True)
        )
        table.row(
            f"{name}  dW = dy^T x", flop, lambda: torch.autograd.grad(y, w, dy, retain_graph=True)
        )


if __name__ == "__main__":
    main()
