#!/usr/bin/env python3
"""Times absorbed decoding, and a layer around it, in PyTorch: the peer of 04_mla/bench.

PyTorch has no kernel for keys and values that are the same memory, so it gets every way to say it:
products (matmul, einsum), scaled_dot_product_attention with all heads sharing one key head
(grouped, or with the heads as queries of one head, which needs no repeated keys), and
torch.compile of each. The fastest is what 04_mla/bench is to be compared with. The cache is
contiguous here, without pages: easier than what our kernels read.
"""

import argparse
import logging
import math
import warnings

import torch
import torch.nn.functional as F

from table import Table

RANK, ROPE, NOPE, V = 512, 64, 128, 128
SCALE = 1 / math.sqrt(NOPE + ROPE)


def by_matmul(q, z):
    """q [B, T * H, 576], z [B, S, 576] -> [B, T * H, 512]"""
    p = torch.softmax(torch.matmul(q, z.transpose(1, 2)) * SCALE, dim=-1)
    return torch.matmul(p, z[..., :RANK])


def by_einsum(q, z):
    scores = torch.einsum("bhd,bsd->bhs", q, z) * SCALE
    return torch.einsum("bhs,bsc->bhc", torch.softmax(scores, dim=-1), z[..., :RANK])


def by_one_head(q, z):
    """All heads are queries of a single head: nothing is repeated."""
    return F.scaled_dot_product_attention(
        q[:, None], z[:, None], z[:, None, :, :RANK], scale=SCALE
    )[:, 0]


def by_grouped_heads(q, z):
    return F.scaled_dot_product_attention(
        q[:, :, None], z[:, None], z[:, None, :, :RANK], scale=SCALE, enable_gqa=True
    )[:, :, 0]


WAYS = {
    "matmul": by_matmul,
    "einsum": by_einsum,
    "SDPA, heads as queries": by_one_head,
    "SDPA, enable_gqa": by_grouped_heads,
}


def compiled(function):
    return torch.compile(function, dynamic=False)


def row(table, name, flop, function, bytes_=0):
    """A row, or a note why there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            table.row(name, flop, function, bytes_)
        except torch.OutOfMemoryError:
            table.note(name, "not enough memory")
        except Exception as error:  # PyTorch's compiler raises many kinds
            table.note(name, "not available: " + str(error).strip().splitlines()[0][:80])


def bench_attention(table, args, batch, heads, length, q_len):
    def noise(*shape):
        return torch.randn(*shape, device=args.device, dtype=args.torch_dtype)

    # Queries of one step see the same tokens; the mask inside a chunk is left out, in PyTorch's
    # favour.
    q, z = noise(batch, q_len * heads, RANK + ROPE), noise(batch, length, RANK + ROPE)
    rows = batch * q_len * heads
    flop = 2.0 * rows * length * (2 * RANK + ROPE)
    numbers = rows * (2 * RANK + ROPE) + batch * length * (RANK + ROPE)
    table.head(f"absorbed attention alone: B {batch}, H {heads}, q {q_len}, {length} tokens")
    for name, way in ((name, WAYS[name]) for name in args.ways):
        variants = {name: way}
        if not args.no_compile:
            variants[name + ", compiled"] = compiled(way)
        for title, function in variants.items():
            row(table, title, flop, lambda: function(q, z), numbers * q.element_size())


class Layer:
    """DeepSeek-V2-Lite's attention with a cache of latents, without positions."""

    def __init__(self, args, batch, length):
        def noise(*shape, std=0.02):
            return std * torch.randn(*shape, device=args.device, dtype=args.torch_dtype)

        self.batch, self.length, self.heads, hidden = batch, length, 16, 2048
        self.w_q = noise(self.heads * (NOPE + ROPE), hidden)
        self.w_kv_a = noise(RANK + ROPE, hidden)
        self.norm = torch.ones(RANK, device=args.device, dtype=args.torch_dtype)
        self.w_kv_b = noise(self.heads * (NOPE + V), RANK)
        self.w_o = noise(hidden, self.heads * V)
        self.x = noise(batch, 1, hidden, std=1.0)
        self.cache = noise(batch, length, RANK + ROPE, std=1.0)

    def project(self, x, cache):
        """The query, and the new token's latent in its place in the cache."""
        q = F.linear(x, self.w_q).view(self.batch, 1, self.heads, NOPE + ROPE)
        latent = F.linear(x, self.w_kv_a)
        cache[:, -1:, :RANK] = F.rms_norm(latent[..., :RANK], (RANK,), self.norm, 1e-6)
        cache[:, -1:, RANK:] = latent[..., RANK:]
        return q

    def absorbed(self, attention):
        def step(x, cache):
            q = self.project(x, cache)[:, 0]
            w = self.w_kv_b.view(self.heads, NOPE + V, RANK)
            # One product for each head, with the heads as the batch.
            absorbed = torch.bmm(q[..., :NOPE].transpose(0, 1), w[:, :NOPE]).transpose(0, 1)
            o = attention(torch.cat((absorbed, q[..., NOPE:]), dim=-1), cache)
            o = torch.bmm(o.transpose(0, 1), w[:, NOPE:].transpose(1, 2)).transpose(0, 1)
            return F.linear(o.reshape(self.batch, 1, -1), self.w_o)

        return step

    def naive(self, x, cache):
        q = self.project(x, cache).transpose(1, 2)
        kv = F.linear(cache[..., :RANK], self.w_kv_b)
        kv = kv.view(self.batch, self.length, self.heads, NOPE + V).transpose(1, 2)
        rope = cache[:, None, :, RANK:].expand(-1, self.heads, -1, -1)
        k = torch.cat((kv[..., :NOPE], rope), dim=-1)
        o = F.scaled_dot_product_attention(q, k, kv[..., NOPE:], scale=SCALE)
        return F.linear(o.transpose(1, 2).reshape(self.batch, 1, -1), self.w_o)


def bench_layer(table, args, batch, length):
    layer = Layer(args, batch, length)
    weights = sum(w.numel() for w in (layer.w_q, layer.w_kv_a, layer.w_kv_b, layer.w_o))
    bytes_ = (weights + layer.cache.numel()) * layer.x.element_size()
    absorbed = batch * 2.0 * (weights + layer.heads * length * (2 * RANK + ROPE))
    # Naive: the keys and values of all cached tokens again, and attention on them.
    expanded = weights + (length - 1) * layer.w_kv_b.numel()
    naive = batch * 2.0 * (expanded + layer.heads * length * (NOPE + ROPE + V))
    table.head(f"a layer of V2-Lite's size: B {batch}, one new token, {length} in the cache")
    steps = {"naive": layer.naive} if args.naive else {}
    for name, way in ((name, WAYS[name]) for name in args.ways):
        steps[f"absorbed, {name}"] = layer.absorbed(way)
    for name, step in steps.items():
        flop = naive if name == "naive" else absorbed
        row(table, name, flop, lambda: step(layer.x, layer.cache), bytes_)
        if not args.no_compile:
            fast = compiled(step)
            row(table, name + ", compiled", flop, lambda: fast(layer.x, layer.cache), bytes_)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--dtype", choices=["f32", "bf16"], help="default: f32 on the CPU, bf16 on CUDA"
    )
    parser.add_argument("--tokens", type=int, nargs="+", help="lengths of the cache")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="only these")
    parser.add_argument("--naive", action="store_true", help="the layer in naive mode too")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's choice")
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each row")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "mla.py: this PyTorch sees no GPU\n")
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    logging.getLogger("torch").setLevel(logging.ERROR)  # what its compiler looks for and misses

    gpu = args.device == "cuda"
    bf16 = (args.dtype or ("bf16" if gpu else "f32")) == "bf16"
    args.torch_dtype = torch.bfloat16 if bf16 else torch.float32
    table = Table(args.device, args.torch_dtype, args.seconds)
    with torch.inference_mode():
        # The shapes of 04_mla/bench.c.
        if gpu:
            for batch, heads, q_len in ((128, 16, 1), (128, 16, 2), (128, 128, 1), (1, 16, 1)):
                for length in args.tokens or [8192]:
                    bench_attention(table, args, batch, heads, length, q_len)
        else:
            for length in args.tokens or [4096]:
                bench_attention(table, args, 1, 16, length, 1)
        for length in args.tokens or [4096]:
            bench_layer(table, args, 8 if gpu else 1, length)


if __name__ == "__main__":
    main()
