#!/usr/bin/env python3
"""Times every backend of PyTorch's scaled_dot_product_attention: the peer of 02_causal/bench."""

import argparse
import warnings

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from table import Table

# On CUDA "flash" is FlashAttention-2; on the CPU it is PyTorch's own kernel of that kind.
BACKENDS = {
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def bench_backend(table, name, backend, shape, dtype, device, causal):
    b, h, t, d = shape
    # [B, T, H, D] seen as [B, H, T, D]: what a linear layer leaves, and what our kernels read.
    q, k, v = (
        torch.randn(b, t, h, d, device=device, dtype=dtype).transpose(1, 2).requires_grad_()
        for _ in range(3)
    )
    # Two products of T x T x D forward, five backward (one recomputes the scores); the mask saves
    # half.
    flop = 4.0 * b * h * t * t * d * (0.5 if causal else 1.0)

    def attention():
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    with sdpa_kernel(backend), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch explains at length why a backend does not fit
        try:
            with torch.no_grad():
                table.row(f"D {d}  {name}, forward", flop, attention)
            out = attention()
            gradient = torch.randn_like(out)
            table.row(
                f"D {d}  {name}, backward",
                2.5 * flop,
                lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True),
            )
        except torch.OutOfMemoryError:
            table.note(f"D {d}  {name}", "not enough memory")
        except RuntimeError as error:
            table.note(
                f"D {d}  {name}", "not available: " + str(error).strip().splitlines()[0][:80]
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--dtype", choices=["f32", "bf16"], help="default: f32 on the CPU, bf16 on CUDA"
    )
    parser.add_argument("--batch", type=int, help="default: 1 on the CPU, 4 on CUDA")
    parser.add_argument("--heads", type=int, help="default: 8 on the CPU, 16 on CUDA")
    parser.add_argument("--tokens", type=int, help="default: 1024 on the CPU, 4096 on CUDA")
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--full", action="store_true", help="without the causal mask")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's choice")
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each row")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "attention.py: this PyTorch sees no GPU\n")
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(1)

    gpu = args.device == "cuda"
    dtype = (
        torch.bfloat16 if (args.dtype or ("bf16" if gpu else "f32")) == "bf16" else torch.float32
    )
    b, h, t = (4, 16, 4096) if gpu else (1, 8, 1024)
    b, h, t = args.batch or b, args.heads or h, args.tokens or t
    table = Table(args.device, dtype, args.seconds)
    table.head(
        f"scaled_dot_product_attention: B {b}, H {h}, T {t}, {'full' if args.full else 'causal'}"
    )
    for d in args.dims:
        for name, backend in BACKENDS.items():
            if not gpu and name in ("cuDNN", "memory-efficient"):
                continue  # they are CUDA's
            bench_backend(table, name, backend, (b, h, t, d), dtype, args.device, not args.full)


if __name__ == "__main__":
    main()
