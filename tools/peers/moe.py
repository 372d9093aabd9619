#!/usr/bin/env python3
"""Times transformers' DeepseekV3MoE, forward and backward: the peer of 05_moe/bench.

Its experts can be computed in several ways (a loop over experts, a grouped product where this
PyTorch has one, batched products), each eager or through torch.compile. The fastest is what
05_moe/bench is to be compared with. Gradients of x and of all weights are computed, and start from
nothing in every call, as in a training step after zero_grad(set_to_none=True).
"""

import argparse
import logging
import warnings

import torch
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

from table import Table, measure


def layer(c, hidden, experts, inner, dtype):
    config = DeepseekV3Config(
        hidden_size=hidden, moe_intermediate_size=inner, n_routed_experts=experts,
        n_shared_experts=1, num_experts_per_tok=c.top_k, n_group=1, topk_group=1,
        norm_topk_prob=True, routed_scaling_factor=1.0)
    module = DeepseekV3MoE(config)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(std=hidden**-0.5)
    return config, module.to(c.device, dtype)


def step_of(module, forward, x, dy):
    def step():
        module.zero_grad(set_to_none=True)
        x.grad = None
        forward(x).backward(dy)

    return step


def rows(c, table, hidden, experts, inner):
    dtype = torch.bfloat16 if c.dtype == "bf16" else torch.float32
    torch.manual_seed(1)
    config, module = layer(c, hidden, experts, inner, dtype)
    x = torch.randn(1, c.tokens, hidden, device=c.device, dtype=dtype, requires_grad=True)
    dy = torch.randn_like(x)
    # Three products a row and expert, twice as many backward; the router's are not counted.
    flop = 3 * 2 * 3 * c.tokens * (c.top_k + 1) * hidden * inner
    best = None
    for way in c.ways.split(","):
        for compiled in (False, True) if c.compile else (False,):
            name = f"{hidden} x {inner}, {experts} experts  {way}{', compiled' if compiled else ''}"
            try:
                config._experts_implementation = way
                torch._dynamo.reset()
                forward = torch.compile(module) if compiled else module
                times = measure(step_of(module, forward, x, dy), c.device, c.seconds)
            except Exception as error:  # a way that this PyTorch or this device does not have
                table.note(name, "does not work here: " + (str(error).splitlines() or ["?"])[0][:60])
                continue
            table.row_time(name, flop, *times)
            best = min(best or times, times)
    if best:
        table.row_time(f"{hidden} x {inner}, {experts} experts  best", flop, *best)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--top-k", type=int, default=2)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--sizes", default="256,512,1024", help="hidden sizes; experts are as wide")
    parser.add_argument(
        "--ways", default="eager,grouped_mm",
        help="of computing experts; batched_mm copies every weight for every token: slow on a CPU")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's choice")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each row (default 0.5)")
    parser.add_argument("--compile", action="store_true", help="through torch.compile as well")
    c = parser.parse_args()
    if c.device == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "moe.py: this PyTorch sees no GPU\n")
    if c.threads:
        torch.set_num_threads(c.threads)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    dtype = torch.bfloat16 if c.dtype == "bf16" else torch.float32
    table = Table(c.device, dtype, c.seconds)
    table.head(f"DeepseekV3MoE, forward and backward: {c.tokens} tokens, top {c.top_k}, one shared")
    for hidden in map(int, c.sizes.split(",")):
        rows(c, table, hidden, c.experts, hidden)


if __name__ == "__main__":
    main()
