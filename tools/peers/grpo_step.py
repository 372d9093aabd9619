#!/usr/bin/env python3
"""Times a step of GRPO as one writes it with transformers: generate(), then an eager PyTorch update.

The peer of 09_grpo/bench_step: the same sizes, questions, answers and formulas. G answers to each of P
random prompts are drawn by generate() (do_sample, temperature 1, nothing cut off, no end); their
log-probabilities are computed in micro-batches, advantages are taken within each group, and one update
of loss dapo (on-policy, without a reference) follows: clipping by global norm, the fused AdamW.

With --dtype bf16 a copy of the weights in BF16 generates, made anew in every step, and the update runs
under autocast on F32 weights: the fastest of the usual ways.
"""

import argparse
import copy
import logging
import sys
import time
import warnings

import torch

import train_step

SMALL = dict(hidden_size=128, num_hidden_layers=2, intermediate_size=352, heads=2, q_lora_rank=48,
             kv_lora_rank=32, qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=64,
             moe_intermediate_size=128, tie_word_embeddings=False)


def logprobs(model, ids, prompt):
    """Of the tokens behind the prompt, [B, T]."""
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits[:, prompt - 1 :].float()
    return torch.gather(logits, 2, ids[:, prompt:, None])[..., 0] - logits.logsumexp(-1)


def update(c, model, optimizer, ids, advantages):
    actions = ids.shape[0] * c.tokens
    optimizer.zero_grad(set_to_none=True)
    for at in range(0, ids.shape[0], c.micro_batch):
        rows = slice(at, at + c.micro_batch)
        with torch.autocast(c.device, torch.bfloat16, enabled=c.dtype == "bf16"):
            logp = logprobs(model, ids[rows], c.prompt_tokens)
        ratio = torch.exp(logp - logp.detach())
        clipped = ratio.clamp(0.8, 1.2)
        a = advantages[rows, None]
        (-torch.min(ratio * a, clipped * a).sum() / actions).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@torch.no_grad()
def rollout(c, model, prompts):
    drawer = copy.deepcopy(model).bfloat16() if c.dtype == "bf16" else model
    drawer.eval()
    ids = prompts.repeat_interleave(c.generations, 0)
    ids = drawer.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0,
                          top_p=1.0, max_new_tokens=c.tokens, eos_token_id=None, pad_token_id=0)
    model.train()
    return ids


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, default in [("prompts", 64), ("generations", 16), ("prompt-tokens", 64), ("tokens", 128),
                          ("micro-batch", 64), ("steps", 3), ("vocab", 50257)]:
        parser.add_argument("--" + flag, type=int, default=default, help=f"default {default}")
    parser.add_argument("--small", action="store_true", help="a quarter of the width and of the layers")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's choice")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="bf16: on CUDA only")
    parser.add_argument("--experts", choices=["eager", "grouped_mm"], default="grouped_mm")
    c = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if c.device == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "grpo_step.py: this PyTorch sees no GPU\n")
    if c.threads:
        torch.set_num_threads(c.threads)
    torch.manual_seed(1)
    train_step.SIZES["small step"] = SMALL
    c.config, c.weights = "small step" if c.small else "109m", ""
    model = train_step.make(c)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, betas=(0.9, 0.95), fused=True)
    wait = torch.cuda.synchronize if c.device == "cuda" else lambda: None
    print(f"transformers' generate() and an eager update: {c.prompts} questions of {c.prompt_tokens} tokens x "
          f"{c.generations} answers of {c.tokens}; PyTorch {torch.__version__}")
    print(f"  {'':34} {'min':>9} {'median':>9}")
    times = {"rollout": [], "update": []}
    for step in range(c.steps + 1):
        prompts = torch.randint(1, c.vocab, (c.prompts, c.prompt_tokens), device=c.device)
        begin = time.perf_counter()
        ids = rollout(c, model, prompts)
        wait()
        drawn = time.perf_counter()
        rewards = (ids[:, c.prompt_tokens] % 2).float().view(c.prompts, -1)
        advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
        update(c, model, optimizer, ids, advantages.flatten())
        wait()
        if step:
            times["rollout"].append(drawn - begin)
            times["update"].append(time.perf_counter() - drawn)
    for name, t in times.items():
        t.sort()
        tokens = c.prompts * c.generations * c.tokens / t[0]
        print(f"  {name:34} {1e3 * t[0]:6.0f} ms {1e3 * t[len(t) // 2]:6.0f} ms {tokens:20,.0f} tokens/s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
