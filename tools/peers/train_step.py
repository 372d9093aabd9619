#!/usr/bin/env python3
"""Times a training step of 10_full_model's model, written in PyTorch.

Same mathematics and the same number of operations as 10_full_model: RMSNorm, causal multi-head
attention without position, SwiGLU, cross-entropy, gradient clipping by global norm, AdamW with
decay on matrices only. PyTorch is given its best: SDPA, q, k and v in one product (with --split:
three), the fused AdamW, and torch.compile where it works.
"""

import argparse
import resource
import subprocess
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        width = c.heads * c.head_dim
        self.heads, self.head_dim, self.split = c.heads, c.head_dim, c.split
        self.input_norm, self.mlp_norm = nn.RMSNorm(c.hidden, eps=1e-6), nn.RMSNorm(
            c.hidden, eps=1e-6
        )
        if c.split:
            self.q, self.k, self.v = (nn.Linear(c.hidden, width, bias=False) for _ in range(3))
            self.gate, self.up = (nn.Linear(c.hidden, c.intermediate, bias=False) for _ in range(2))
        else:
            self.qkv = nn.Linear(c.hidden, 3 * width, bias=False)
            self.gate_up = nn.Linear(c.hidden, 2 * c.intermediate, bias=False)
        self.out = nn.Linear(width, c.hidden, bias=False)
        self.down = nn.Linear(c.intermediate, c.hidden, bias=False)

    def forward(self, x):
        b, t, _ = x.shape
        h = self.input_norm(x)
        parts = (self.q(h), self.k(h), self.v(h)) if self.split else self.qkv(h).chunk(3, dim=-1)
        q, k, v = (p.view(b, t, self.heads, self.head_dim).transpose(1, 2) for p in parts)
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(h.transpose(1, 2).reshape(b, t, -1))
        h = self.mlp_norm(x)
        gate, up = (self.gate(h), self.up(h)) if self.split else self.gate_up(h).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed = nn.Embedding(c.vocab, c.hidden)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.norm = nn.RMSNorm(c.hidden, eps=1e-6)
        self.head = nn.Linear(c.hidden, c.vocab, bias=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)
        if not c.untied:
            self.head.weight = self.embed.weight

    def forward(self, ids, targets):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def run(c, mode):
    """One way of running it, one row: ms per step, tokens/s, memory, the loss as a sign of life."""
    if c.threads:
        torch.set_num_threads(c.threads)
    torch.manual_seed(1)
    gpu = c.device == "cuda"
    model = Model(c).to(c.device)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.95),
        fused=True,
    )
    forward = torch.compile(model) if mode == "compile" else model
    ids = torch.randint(c.vocab, (c.batch, c.context), device=c.device)
    targets = torch.randint(c.vocab, (c.batch, c.context), device=c.device)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(c.device, torch.bfloat16, enabled=gpu and c.dtype == "bf16"):
            loss = forward(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    started = time.perf_counter()
    for _ in range(3):
        loss = step()
    if gpu:
        torch.cuda.synchronize()
    warm_up, times = time.perf_counter() - started, []
    for _ in range(c.steps):
        begin = time.perf_counter()
        loss = step()
        if gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    times.sort()
    best, median = times[0], times[len(times) // 2]
    tokens = c.batch * c.context
    if gpu:
        memory = torch.cuda.max_memory_allocated() / 2**20
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    name = f"PyTorch {torch.__version__.split('+')[0]}, {mode}"
    print(
        f"  {name:32} {1e3 * best:8.1f} ms {1e3 * median:8.1f} ms "
        f"{tokens / median:10,.0f} tokens/s {memory:7.0f} MiB "
        f"  loss {loss.item():.3f}, warm-up {warm_up:.0f} s",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for flag, default in [
        ("vocab", 2048),
        ("hidden", 192),
        ("layers", 4),
        ("heads", 6),
        ("head-dim", 0),
        ("intermediate", 512),
        ("batch", 16),
        ("context", 128),
    ]:
        parser.add_argument("--" + flag, type=int, default=default, help=f"default {default}")
    parser.add_argument("--steps", type=int, default=20, help="timed steps (default 20)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's choice")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--dtype", choices=["f32", "bf16"], default="f32", help="bf16: autocast, on CUDA only"
    )
    parser.add_argument(
        "--untied", action="store_true", help="a head of its own, not the embedding again"
    )
    parser.add_argument(
        "--split", action="store_true", help="q, k, v and gate, up as products of their own"
    )
    parser.add_argument("--mode", choices=["eager", "compile", "both"], default="both")
    c = parser.parse_args()
    c.head_dim = c.head_dim or c.hidden // c.heads
    if c.device == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "train_step.py: this PyTorch sees no GPU\n")
    if c.mode != "both":
        run(c, c.mode)
        return

    parameters = sum(p.numel() for p in Model(c).parameters())
    print(
        f"training step: vocab {c.vocab}, hidden {c.hidden}, layers {c.layers}, "
        f"heads {c.heads} x {c.head_dim}, intermediate {c.intermediate}, "
        f"batch {c.batch} x {c.context}, {parameters:,} parameters"
    )
    print(f"  {'':32} {'min':>11} {'median':>11} {'':19} {'peak memory':>11}")
    # A process for each, so that the peak of one is not counted for the other.
    for mode in ("eager", "compile"):
        result = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--mode", mode],
            capture_output=True,
            text=True,
        )
        if result.returncode == 0:
            print(result.stdout, end="", flush=True)
        else:
            reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
            print(f"  {'PyTorch, ' + mode:32} does not work here: {reason[:100]}", flush=True)


if __name__ == "__main__":
    main()
