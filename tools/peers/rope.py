#!/usr/bin/env python3
"""Times transformers' rotary functions, eager and compiled: the peer of 07_rope/bench.

They are not in place: they leave new tensors. Counted is what has to move: each rotated number read
once and written once.
"""

import argparse

import torch
from transformers.models.deepseek_v3.modeling_deepseek_v3 import apply_rotary_pos_emb_interleave
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from table import Table

# name, function, query heads, key heads, head_dim, rotated (the last of a query head)
SHAPES = [
    ("V3, interleaved", apply_rotary_pos_emb_interleave, 128, 1, 192, 64),
    ("Llama, halves", apply_rotary_pos_emb, 32, 8, 128, 128),
]
TOKENS = {"cpu": (8192, 16384), "cuda": (8192, 32768)}


def angles(tokens, dim, device, dtype):
    """cos and sin [1, T, dim] as the models make them."""
    f = 10000.0 ** (-torch.arange(0, dim, 2, device=device).float() / dim)
    angle = torch.arange(tokens, device=device).float()[:, None] * f
    angle = torch.cat((angle, angle), dim=-1)[None]
    return angle.cos().to(dtype), angle.sin().to(dtype)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--dtype", choices=["f32", "bf16"], help="default: f32 on the CPU, bf16 on CUDA"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's choice")
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each row")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "rope.py: this PyTorch sees no GPU\n")
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    gpu = args.device == "cuda"
    bf16 = (args.dtype or ("bf16" if gpu else "f32")) == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    table = Table(args.device, dtype, args.seconds)
    table.head("rotary embeddings of q and k")
    for (name, rotate, heads, kv_heads, head_dim, dim), tokens in zip(SHAPES, TOKENS[args.device]):
        # [B, T, H, D] seen as [B, H, T, D]: what a linear layer leaves.
        q = torch.randn(1, tokens, heads, head_dim, device=args.device, dtype=dtype)
        q = q.transpose(1, 2)[..., head_dim - dim :]
        k = torch.randn(1, tokens, kv_heads, dim, device=args.device, dtype=dtype).transpose(1, 2)
        cos, sin = angles(tokens, dim, args.device, dtype)
        size = 2.0 * tokens * (heads + kv_heads) * dim * q.element_size()
        with torch.no_grad():
            table.row(f"{name}, {tokens} tokens, eager", 0, lambda: rotate(q, k, cos, sin), size)
            try:
                compiled = torch.compile(rotate, dynamic=False)
                compiled(q, k, cos, sin)
            except Exception as error:  # no compiler on this machine
                table.note(f"{name}, compiled", str(error).strip().splitlines()[0][:80])
                continue
            table.row(
                f"{name}, {tokens} tokens, compiled", 0, lambda: compiled(q, k, cos, sin), size
            )


if __name__ == "__main__":
    main()
