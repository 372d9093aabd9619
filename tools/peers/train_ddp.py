#!/usr/bin/env python3
"""Times a training step of transformers' DeepseekV3ForCausalLM that several GPUs share: DDP.

The peer of 10_full_model/bench_ranks, of the same sizes: accumulated micro-batches, gradients added
up beside the last backward pass (DistributedDataParallel), clipping by the global norm, the fused
AdamW; with ZeroRedundancyOptimizer in its place, what is called ZeRO-1. One process for each GPU:

    torchrun --nproc-per-node 2 tools/peers/train_ddp.py --config 109m --batch 32 --context 1024 --vocab 50257

Rank 0 alone is timed first, so the gain is that of one run on one machine.
"""

import argparse
import contextlib
import os
import time
import warnings

import torch
import torch.distributed as dist

import train_step

WAYS = ["one alone", "ddp", "zero"]


def build(c, way):
    """A step as a function that returns nothing; the model is the peer's of one GPU."""
    model = train_step.make(c)
    if way != "one alone":
        wrapped = torch.nn.parallel.DistributedDataParallel(
            model, device_ids=[c.gpu] if c.device != "cpu" else None, gradient_as_bucket_view=True,
            find_unused_parameters=c.experts == "eager")  # an expert may get no token
    else:
        wrapped = model
    settings = dict(lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=c.device != "cpu")
    if way == "zero":
        from torch.distributed.optim import ZeroRedundancyOptimizer
        optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, **settings)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), **settings)
    ids = torch.randint(c.vocab, (c.batch, c.context + 1), device=c.device)

    def loss_of(ids, targets):
        logits = wrapped(input_ids=ids, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    forward = torch.compile(loss_of) if c.compiled else loss_of

    def step(count):
        optimizer.zero_grad(set_to_none=False)
        for micro in range(count):
            last = micro + 1 == count or way == "one alone"
            with contextlib.nullcontext() if last else wrapped.no_sync():
                with torch.autocast(c.device.split(":")[0], torch.bfloat16, enabled=c.dtype == "bf16"):
                    loss = forward(ids[:, :-1], ids[:, 1:]) / count
                loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def timed(c, step, count, alone):
    times = []
    for i in range(-3, c.steps):
        if not alone:
            dist.barrier()
        begin = time.perf_counter()
        step(count)
        if c.device != "cpu":
            torch.cuda.synchronize()
        seconds = torch.tensor(time.perf_counter() - begin, device=c.device)
        if not alone:
            dist.all_reduce(seconds, dist.ReduceOp.MAX)
        if i >= 0:
            times.append(seconds.item())
    return sorted(times)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=train_step.SIZES, default="109m")
    for flag, default in [("vocab", 50257), ("batch", 32), ("context", 1024), ("steps", 8),
                          ("large", 1 << 19), ("small", 1 << 16)]:
        parser.add_argument("--" + flag, type=int, default=default, help=f"default {default}")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--experts", choices=["eager", "grouped_mm"], default="grouped_mm")
    parser.add_argument("--mode", choices=["eager", "compile"], default="compile")
    c = parser.parse_args()
    warnings.filterwarnings("ignore")
    c.gpu, c.compiled, c.weights = int(os.environ["LOCAL_RANK"]), c.mode == "compile", ""
    c.dtype = "bf16" if c.device == "cuda" else "f32"
    if c.device == "cuda":
        torch.cuda.set_device(c.gpu)
        c.device = f"cuda:{c.gpu}"
    dist.init_process_group("nccl" if c.device != "cpu" else "gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(1)
    one = {}
    if rank == 0:
        print(f"DDP, {c.config}, {ranks} ranks, PyTorch {torch.__version__}, {c.experts}, {c.mode}")
    for way in WAYS:
        alone = way == "one alone"
        if not alone or rank == 0:
            if c.device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            step = build(c, way)
            for tokens in (c.large, c.small):
                count = max(1, tokens // (c.batch * c.context * (1 if alone else ranks)))
                times = timed(c, step, count, alone)
                best, median = times[0], times[len(times) // 2]
                tokens = count * c.batch * c.context * (1 if alone else ranks)
                one.setdefault(tokens, median)
                memory = torch.cuda.max_memory_allocated() / 2**20 if c.device != "cpu" else 0
                if rank == 0:
                    print(f"  {way:10} {tokens:8} tokens {1e3 * best:9.1f} ms {1e3 * median:9.1f} ms"
                          f" {tokens / median:11,.0f} tokens/s {one[tokens] / median:6.2f} x"
                          f" {memory:7.0f} MiB", flush=True)
            del step
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
