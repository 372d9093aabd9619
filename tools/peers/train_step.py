#!/usr/bin/env python3
"""Times transformers' DeepseekV3ForCausalLM: a training step, and greedy decoding.

The peer of 10_full_model/bench: the same sizes, the same batch, cross-entropy, gradient clipping by
global norm, the fused AdamW. The experts can be computed in several ways, the whole eager or through
torch.compile (the loss with the model, decoding with a static cache); each runs in a process of its
own, so that the peak of memory of one is not counted for another.

With --dtype bf16 a training step is timed twice: by autocast, which keeps F32 weights and casts them
in every step, as ours keeps F32 masters; and with weights in BF16 and no masters, which does less
than ours and is the fastest that PyTorch has. Decoding is timed with weights in BF16. The fastest row
of each kind is what 10_full_model/bench is to be compared with.
"""

import argparse
import logging
import resource
import subprocess
import sys
import time
import warnings

import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

# 10_full_model/model/config.c has the same; `deepseek info` prints it.
SIZES = {
    "nano": dict(hidden_size=128, num_hidden_layers=4, intermediate_size=384, heads=4, kv_lora_rank=48,
                 qk_nope_head_dim=24, qk_rope_head_dim=16, v_head_dim=32, moe_intermediate_size=128),
    "small": dict(hidden_size=256, num_hidden_layers=6, intermediate_size=768, heads=4,
                  kv_lora_rank=64, qk_nope_head_dim=32, qk_rope_head_dim=32, v_head_dim=64,
                  moe_intermediate_size=256),
    "109m": dict(hidden_size=512, num_hidden_layers=8, intermediate_size=1408, heads=8,
                 q_lora_rank=192, kv_lora_rank=128, qk_nope_head_dim=64, qk_rope_head_dim=32,
                 v_head_dim=64, moe_intermediate_size=512, tie_word_embeddings=False),
}


def make(c):
    size = dict(q_lora_rank=None, tie_word_embeddings=True) | SIZES[c.config]
    heads = size.pop("heads")
    config = DeepseekV3Config(
        vocab_size=c.vocab, num_attention_heads=heads, num_key_value_heads=heads, n_group=1,
        topk_group=1, n_routed_experts=8, num_experts_per_tok=2, n_shared_experts=1,
        first_k_dense_replace=1, norm_topk_prob=True, routed_scaling_factor=1.0,
        max_position_embeddings=1024, attn_implementation="sdpa", **size)
    config._experts_implementation = c.experts
    return DeepseekV3ForCausalLM(config).to(c.device, torch.bfloat16 if c.weights == "bf16" else None)


def train(c, model):
    """Times of single steps, sorted."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=1e-4, betas=(0.9, 0.95), fused=True)
    ids = torch.randint(c.vocab, (c.batch, c.context + 1), device=c.device)

    def loss_of(ids, targets):
        logits = model(input_ids=ids, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    forward = torch.compile(loss_of) if c.compiled else loss_of

    def step():
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(c.device, torch.bfloat16, enabled=c.weights == "autocast"):
            loss = forward(ids[:, :-1], ids[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if c.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    for _ in range(3):
        step()
    return sorted(step() for _ in range(c.steps))


@torch.no_grad()
def decode(c, model):
    """Seconds for each of the tokens that follow a prompt of a quarter of the context, by generate()."""
    model.eval()
    prompt = c.context // 4
    ids = torch.randint(c.vocab, (c.sequences, prompt), device=c.device)
    settings = dict(do_sample=False, use_cache=True, pad_token_id=0, eos_token_id=None,
                    attention_mask=torch.ones_like(ids))
    if c.compiled:
        settings["cache_implementation"] = "static"
        if c.device == "cpu":  # on CUDA generate() compiles a step with a static cache by itself
            model.forward = torch.compile(model.forward)

    def run(tokens):
        begin = time.perf_counter()
        model.generate(ids, max_new_tokens=tokens, **settings)
        if c.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    count = c.context - prompt
    for tokens in (count, 1):  # a static cache is made, and compiled for, each length
        run(tokens)
    return sorted((run(count) - run(1)) / (count - 1) for _ in range(max(3, c.steps // 5)))


def row_name(what, sequences, weights, experts, mode):
    parts = [what + (f" {sequences}" if what == "decode" else ""), weights, experts, mode]
    return ", ".join(part for part in parts if part)


def one(c):
    if c.threads:
        torch.set_num_threads(c.threads)
    torch.manual_seed(1)
    times = (decode if c.what == "decode" else train)(c, make(c))
    best, median = times[0], times[len(times) // 2]
    tokens = c.sequences if c.what == "decode" else c.batch * c.context
    if c.device == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**20
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    name = row_name(c.what, c.sequences, c.weights, c.experts, c.mode)
    print(f"  {name:40} {1e3 * best:9.2f} ms {1e3 * median:9.2f} ms {tokens / best:10,.0f} tokens/s"
          f" {memory:7.0f} MiB", flush=True)


def kinds(c):
    """(what, sequences, weights) of the rows that are asked for."""
    bf16 = c.device == "cuda" and c.dtype == "bf16"
    if c.what != "decode":
        for weights in [c.weights] if c.weights else ["autocast", "bf16"] if bf16 else [""]:
            yield "train", 1, weights
    if c.what != "train":
        for sequences in [c.sequences] if c.sequences else [1, c.batch] if bf16 else [1]:
            yield "decode", sequences, "bf16" if bf16 else ""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=SIZES, default="nano")
    for flag, default in [("vocab", 2048), ("batch", 16), ("context", 64)]:
        parser.add_argument("--" + flag, type=int, default=default, help=f"default {default}")
    parser.add_argument("--steps", type=int, default=20, help="timed steps (default 20)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's choice")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="bf16: on CUDA only")
    parser.add_argument("--what", choices=["train", "decode"], help="only this")
    parser.add_argument("--experts", choices=["eager", "grouped_mm"], help="only this way")
    parser.add_argument("--mode", choices=["eager", "compile"], help="only this way")
    parser.add_argument("--weights", choices=["autocast", "bf16", ""], help="only this, with --dtype bf16")
    parser.add_argument("--sequences", type=int, help="decode this many side by side; default 1, and --batch")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    c = parser.parse_args()
    c.compiled = c.mode == "compile"
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if c.device == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "train_step.py: this PyTorch sees no GPU\n")
    if c.one:
        one(c)
        return
    print(f"transformers, {c.config}: vocabulary {c.vocab}, batch {c.batch} x {c.context}; PyTorch "
          f"{torch.__version__}")
    print(f"  {'':40} {'min':>12} {'median':>12} {'':19} {'peak memory':>11}")
    for what, sequences, weights in kinds(c):
        for experts in [c.experts] if c.experts else ["eager", "grouped_mm"]:
            for mode in [c.mode] if c.mode else ["eager", "compile"]:
                words = [sys.executable, __file__, *sys.argv[1:], "--one", "--what", what]
                words += ["--sequences", str(sequences), "--weights", weights]
                words += ["--experts", experts, "--mode", mode]
                result = subprocess.run(words, capture_output=True, text=True)
                if result.returncode == 0:
                    print(result.stdout, end="", flush=True)
                    continue
                reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
                print(f"  {row_name(what, sequences, weights, experts, mode):40} does not work here: "
                      f"{reason[:80]}", flush=True)


if __name__ == "__main__":
    main()
