#!/usr/bin/env python3
"""Are our checkpoints transformers' checkpoints? Round trips, live.

Random models of both model types, of many settings, are written by transformers and read by
10_full_model/deepseek, which writes them again (F32, BF16, in one file and in several), and these
are read by transformers: logits, loss and gradients must be the same on every way. Then deepseek trains
a model on TEXT; AutoTokenizer must make the same ids of the text, AutoModelForCausalLM the same
logits, and greedy decoding the same tokens. And one with modules for multi-token prediction, which
transformers does not have: it must name their weights, no others, and give the same logits. And one
that was taught by pairs and by rewards: it must answer there as here.

    tools/interop/full_model_python.py TEXT [--trained | --mtp | --rewarded]
                                needs torch, safetensors, transformers; make 10_full_model first.
                                --trained: the last three parts only; --mtp: the last but one;
                                --rewarded: the last
"""
import itertools
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEEPSEEK = ROOT / "10_full_model/deepseek"

SIZES = dict(
    vocab_size=301, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=4, kv_lora_rank=20, q_lora_rank=24, qk_nope_head_dim=12, qk_rope_head_dim=16,
    v_head_dim=10, moe_intermediate_size=24, n_routed_experts=8, n_shared_experts=1,
    num_experts_per_tok=3, first_k_dense_replace=1, n_group=1, topk_group=1, routed_scaling_factor=2.5,
    max_position_embeddings=256, bos_token_id=0, eos_token_id=1, initializer_range=0.2,
    rope_parameters=dict(rope_type="default", rope_theta=10000.0),
)  # fmt: skip
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=8.0, original_max_position_embeddings=32,
            beta_fast=32.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0)  # fmt: skip
MODELS = {
    "V3": ("deepseek_v3", dict(n_group=4, topk_group=2)),
    "V3 without q_lora, tied": ("deepseek_v3", dict(q_lora_rank=None, tie_word_embeddings=True)),
    "V3 halves, biases": ("deepseek_v3", dict(rope_interleave=False, attention_bias=True)),
    "V3 YaRN": ("deepseek_v3", dict(rope_parameters=YARN)),
    "V3 linear, 3 shared": ("deepseek_v3", dict(n_shared_experts=3, rope_parameters=dict(rope_type="linear", rope_theta=5e4, factor=4.0))),
    "V3 all dense": ("deepseek_v3", dict(first_k_dense_replace=3)),
    "V3 no dense": ("deepseek_v3", dict(first_k_dense_replace=0, norm_topk_prob=False)),
    "V2 groups": ("deepseek_v2", dict(topk_method="group_limited_greedy", n_group=4, topk_group=2)),
    "V2-Lite": ("deepseek_v2", dict(q_lora_rank=None, n_shared_experts=2, rope_parameters=YARN)),
    "V2 biases, tied": ("deepseek_v2", dict(attention_bias=True, tie_word_embeddings=True)),
}  # fmt: skip


def deepseek(*arguments):
    done = subprocess.run([DEEPSEEK, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"deepseek {' '.join(map(str, arguments))}\n{done.stdout}")
    return done.stdout


def load(folder, left_over=None, **settings):
    """And nothing missing, nothing left over but a layer of this name."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", experts_implementation="eager", **settings
    )
    wrong = {k: v for k, v in info.items() if v and k != "unexpected_keys"}
    extra = info["unexpected_keys"]
    if wrong or bool(extra) != bool(left_over) or not all(k.startswith(left_over) for k in extra):
        sys.exit(f"{folder}: {info}")
    return model


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)).item()


def ours(folder, ids, scratch, grads=False):
    save_file({"input_ids": ids}, scratch / "in.safetensors")
    flags = ["--grads"] if grads else []
    deepseek("logits", "--model", folder, "--input", scratch / "in.safetensors", "--output", scratch / "out.safetensors", "--overwrite", *flags)
    return load_file(scratch / "out.safetensors")


def gradients(model):
    """By the names of the file: experts one by one."""
    for name, t in model.named_parameters():
        g = torch.zeros_like(t) if t.grad is None else t.grad
        if name.endswith("experts.gate_up_proj"):
            for j, expert in enumerate(g):
                for part, half in zip(("gate", "up"), expert.chunk(2)):
                    yield name.replace("gate_up_proj", f"{j}.{part}_proj.weight"), half
        elif name.endswith("experts.down_proj"):
            for j, expert in enumerate(g):
                yield name.replace("down_proj", f"{j}.down_proj.weight"), expert
        else:
            yield name, g


def check(what, distance, limit):
    if not distance <= limit:
        sys.exit(f"{what}: {distance:.2e}, allowed {limit:.0e}")
    return distance


def random_model(model_type, settings):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**SIZES, **settings})).eval()
    with torch.no_grad():
        for name, t in [*model.named_parameters(), *model.named_buffers()]:
            if "norm" in name:
                t.normal_(1, 0.2)
            elif name.endswith("bias"):
                t.normal_(0, 0.1)
    model.generation_config.eos_token_id = None
    return model


def round_trip(name, model_type, settings, scratch):
    torch.manual_seed(7)
    random_model(model_type, settings).save_pretrained(scratch / "theirs", max_shard_size="60KB")
    ids = torch.randint(0, SIZES["vocab_size"], (3, 50))
    model = load(scratch / "theirs", dtype=torch.float32)
    out = model(ids, labels=ids)
    out.loss.backward()
    result = ours(scratch / "theirs", ids, scratch, grads=True)
    logits = check(f"{name}: logits", relative(result["logits"], out.logits), 2e-5)
    loss = check(f"{name}: loss", relative(result["loss"][0], out.loss), 1e-6)
    wanted = dict(gradients(model))
    if {"grad." + k for k in wanted} != {k for k in result if k.startswith("grad.")}:
        sys.exit(f"{name}: other gradients than transformers'")
    worst = max(check(f"{name}: gradient of {k}", relative(result["grad." + k], g), 1e-4) for k, g in wanted.items())

    for weights, shards in itertools.product(("f32", "bf16"), (5000, 0.1)):
        deepseek("convert", "--model", scratch / "theirs", "--out", scratch / "ours", "--weights", weights, "--shard-mb", shards, "--overwrite")
        back = load(scratch / "ours", dtype="auto")
        dtype = torch.float32 if weights == "f32" else torch.bfloat16
        for (k, a), (_, b) in zip(back.state_dict().items(), model.state_dict().items()):
            # Some versions of transformers keep routers in F32; the numbers are the file's all the same.
            stored = torch.float32 if k.endswith("e_score_correction_bias") else dtype
            if not torch.equal(a.float(), b.to(stored).float()):
                sys.exit(f"{name}: {k} came back as other numbers ({a.dtype})")
    fused = scratch / "fused"
    model.save_pretrained(fused, save_original_format=False)
    spelled = any(k.endswith("experts.gate_up_proj") for k in load_file(fused / "model.safetensors"))
    check(f"{name}: fused", relative(ours(fused, ids.int(), scratch)["logits"], out.logits), 2e-5)
    half = scratch / "half"
    model.bfloat16().save_pretrained(half)
    check(f"{name}: bf16", relative(ours(half, ids, scratch)["logits"], load(half, dtype=torch.float32)(ids).logits), 2e-5)
    print(f"{name:24} logits {logits:.1e}   loss {loss:.1e}   worst gradient {worst:.1e}   fused spelling: {'read' if spelled else 'not written'}")


def trained(text, scratch):
    """A model that deepseek made from nothing."""
    folder = scratch / "trained"
    deepseek("train", "--data", text, "--out", folder, "--steps", 30, "--warmup", 5, "--batch", 4, "--vocab", 700)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = load(folder, dtype=torch.float32)
    sample = text.read_text(errors="replace")[:4000]
    ids = tokenizer(sample, add_special_tokens=False)["input_ids"]
    if tokenizer.decode(ids) != sample:
        sys.exit("AutoTokenizer does not give the text back")
    batch = torch.tensor(ids[: 4 * 200]).view(4, 200)
    logits = check("trained: logits", relative(ours(folder, batch, scratch)["logits"], model(batch).logits), 2e-5)
    prompt = sample[:60]
    theirs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    wanted = model.generate(**theirs, max_new_tokens=100, do_sample=False)[0]
    said = deepseek("generate", "--model", folder, "--prompt", prompt, "--temperature", 0, "--max-new-tokens", 100)
    text = tokenizer.decode(wanted, skip_special_tokens=True)
    if text not in said:
        sys.exit(f"greedy decoding differs:\n{text}\n---\n{said}")
    tokens = len(wanted) - theirs["input_ids"].shape[1]
    print(f"trained by deepseek      logits {logits:.1e}   {len(ids)} ids there and back, {tokens} greedy tokens the same")


def with_modules(text, scratch):
    """A module is a layer that transformers' model does not have."""
    folder, plain = scratch / "modules", scratch / "plain"
    deepseek("train", "--data", text, "--out", folder, "--steps", 20, "--warmup", 5, "--batch", 4, "--vocab", 700, "--mtp", 1)
    deepseek("convert", "--model", folder, "--out", plain, "--no-mtp")
    layers = AutoConfig.from_pretrained(folder).num_hidden_layers
    ids = torch.tensor(AutoTokenizer.from_pretrained(folder)(text.read_text(errors="replace")[:4000])["input_ids"][:800]).view(4, 200)
    wanted = ours(folder, ids, scratch)["logits"]
    here = check("with modules: logits", relative(load(folder, f"model.layers.{layers}.", dtype=torch.float32)(ids).logits, wanted), 1e-5)
    there = check("--no-mtp: logits", relative(load(plain, dtype=torch.float32)(ids).logits, wanted), 1e-5)
    print(f"with a module            logits {here:.1e}, layer {layers} left over; --no-mtp: logits {there:.1e}, none left over")


def rewarded(text, scratch):
    """sft, then grpo, from nothing; TEXT has no part in it."""
    pairs, folder = scratch / "sft", scratch / "grpo"
    task = ("--task", "addition", "--digits", 1)
    deepseek("sft", "--config", "nano", *task, "--out", pairs, "--steps", 60, "--batch", 16, "--peak", 0)
    deepseek("grpo", "--model", pairs, *task, "--out", folder, "--steps", 4, "--eval-prompts", 8, "--beta", 0.01)
    model, tokenizer = load(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)
    prompts = [f"{a}+{b}=" for a in range(10) for b in (3, 8)]
    ids = torch.tensor([tokenizer(p, add_special_tokens=False)["input_ids"] for p in prompts])
    logits = check("rewarded: logits", relative(ours(folder, ids, scratch)["logits"], model(ids).logits), 2e-5)
    for prompt, wanted in zip(prompts, model.generate(ids, max_new_tokens=5, do_sample=False), strict=True):
        said = deepseek("generate", "--model", folder, "--prompt", prompt, "--temperature", 0, "--max-new-tokens", 5)
        if said.splitlines()[0] != tokenizer.decode(wanted, skip_special_tokens=True):
            sys.exit(f"{prompt}: {wanted}\n---\n{said}")
    print(f"taught by rewards        logits {logits:.1e}, {len(prompts)} answers the same")


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    for name, (model_type, settings) in MODELS.items() if len(sys.argv) == 2 else ():
        with tempfile.TemporaryDirectory() as scratch:
            round_trip(name, model_type, settings, pathlib.Path(scratch))
    parts = {"--mtp": (with_modules,), "--rewarded": (rewarded,)}
    for part in parts.get(sys.argv[-1], (trained, with_modules, rewarded)):
        with tempfile.TemporaryDirectory() as scratch:
            part(pathlib.Path(sys.argv[1]), pathlib.Path(scratch))
    print("all the same")


if __name__ == "__main__":
    main()
