#!/usr/bin/env python3
"""Golden files of chapter 10: small checkpoints as transformers writes them, and what it computes.

    python tools/goldens/10_full_model.py [NAME...]      needs torch, safetensors and transformers

Each folder of 10_full_model/goldens/ is what save_pretrained() made of a small random model, and
expected.safetensors beside it:

    input_ids [2, 13]   logits   loss (labels = input_ids)   grad.NAME of every parameter, named and cut
    generated [1, 108]  8 ids and the 100 that greedy decoding adds
    bf16_distance [2]   how far transformers' own BF16 is from the logits and the gradients above

v3_mtp has two modules for multi-token prediction, which transformers can run (MtpModel) but not write:
their tensors are added to the file here, under DeepSeek's names, and expected.safetensors has

    mtp_logits.k [2, 13, V]   row i: what module k says of token i + k + 1; zeros where it knows no token i + k
    mtp_loss.k [1]            mean over the rows that have that token
    loss, grad.NAME           of the model's loss + LAMBDA / 2 (mtp_loss.1 + mtp_loss.2)

The numbers are computed in float64, norms, softmax, router and positions too, where transformers
says float32 (see Float64), and rounded once when they are written: the truth that both programs
are measured against. Greedy decoding and the BF16 distance are transformers as it is.
"""
import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, modeling_rope_utils
from transformers.modeling_layers import MtpModel
from transformers.models.deepseek_v2 import modeling_deepseek_v2
from transformers.models.deepseek_v3 import modeling_deepseek_v3
from transformers.models.deepseek_v32 import modeling_deepseek_v32

OUT = pathlib.Path(__file__).resolve().parents[2] / "10_full_model/goldens"
BATCH, TOKENS, PROMPT, NEW = 2, 13, 8, 100
LAMBDA = 0.3

SIZES = dict(
    vocab_size=37, hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=3,
    num_key_value_heads=3, kv_lora_rank=10, q_lora_rank=9, qk_nope_head_dim=6, qk_rope_head_dim=8,
    v_head_dim=6, moe_intermediate_size=7, n_routed_experts=6, n_shared_experts=1,
    num_experts_per_tok=2, first_k_dense_replace=1, n_group=1, topk_group=1, routed_scaling_factor=1.5,
    max_position_embeddings=128, bos_token_id=0, eos_token_id=1,
    rope_parameters=dict(rope_type="default", rope_theta=100.0),
)  # fmt: skip
YARN = dict(rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=32,
            beta_fast=4.0, beta_slow=1.0)  # fmt: skip

# name: (model_type, settings, dtype of the file, largest shard or None, first seed to try)
MODELS = {
    "v3": ("deepseek_v3", dict(n_group=3, topk_group=2, rope_parameters=dict(YARN, mscale=1.0, mscale_all_dim=1.0)), "float32", None, 10),
    "v3_halves": ("deepseek_v3", dict(q_lora_rank=None, rope_interleave=False, attention_bias=True, n_shared_experts=2,
                  tie_word_embeddings=True, rope_parameters=dict(rope_type="linear", rope_theta=100.0, factor=2.0)), "float32", None, 14),
    "v3_bf16_shards": ("deepseek_v3", dict(norm_topk_prob=False, rms_norm_eps=1e-3), "bfloat16", "6KB", 12),
    "v3_f16_old_yarn": ("deepseek_v3", dict(rope_parameters=dict(YARN, mscale=1.0, mscale_all_dim=0.7)), "float16", None, 10),
    "v3_dense": ("deepseek_v3", dict(first_k_dense_replace=2, num_mtp_layers=0, rope_parameters=YARN), "float32", None, 10),
    "v3_mtp": ("deepseek_v3", dict(num_mtp_layers=2, rope_parameters=YARN), "float32", None, 10),
    "v2_lite": ("deepseek_v2", dict(q_lora_rank=None, n_shared_experts=2,
                rope_parameters=dict(YARN, mscale=0.707, mscale_all_dim=0.707)), "float32", None, 15),
    "v2_groups_shards": ("deepseek_v2", dict(topk_method="group_limited_greedy", n_group=3, topk_group=2, routed_scaling_factor=4.0,
                         tie_word_embeddings=True, attention_bias=True), "float32", "12KB", 11),
    "v32": ("deepseek_v32", dict(n_group=3, topk_group=2, index_n_heads=8, index_head_dim=16, index_topk=5,
            rope_parameters=dict(YARN, mscale=1.0, mscale_all_dim=1.0)), "float32", None, 10),
    "v32_long": ("deepseek_v32", dict(index_n_heads=9, index_head_dim=8, index_topk=40), "float32", "12KB", 10),
}  # fmt: skip


class Float64:
    """torch, but float32 is float64: put in its place inside a module of transformers. And .float() is .double()."""

    float32 = float = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def in_float64(on):
    for module in (modeling_deepseek_v2, modeling_deepseek_v3, modeling_deepseek_v32, modeling_rope_utils):
        module.torch = Float64() if on else torch
    torch.Tensor.float = torch.Tensor.double if on else FLOAT


FLOAT = torch.Tensor.float


def make(model_type, settings):
    """A model of random weights; norms around 1, biases not zero, so that every part matters."""
    config = AutoConfig.for_model(model_type, **{**SIZES, **settings})
    return randomize(AutoModelForCausalLM.from_config(config))


def randomize(model):
    with torch.no_grad():
        for name, t in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(("norm.weight", "layernorm.weight")):
                t.normal_(1, 0.2)
            elif name.endswith("inv_freq"):
                continue
            else:
                t.normal_(0, 0.1 if name.endswith("bias") else 0.4)
    return model.eval()


def file_name(layers, name):
    """A name in MtpModel -> the file's, DeepSeek's."""
    _, k, rest = name.split(".", 2)
    rest = rest.removeprefix("mtp_block.").replace("post_norm.", "shared_head.norm.")
    return f"model.layers.{layers + int(k)}.{rest}"


def one_by_one(tensors):
    """transformers' fused experts -> the file's."""
    out = {}
    for name, t in tensors.items():
        if ".experts.gate_up_proj" in name:
            for j, expert in enumerate(t):
                gate, up = expert.chunk(2)
                stem = name.replace("gate_up_proj", "")
                out[f"{stem}{j}.gate_proj.weight"] = gate
                out[f"{stem}{j}.up_proj.weight"] = up
        elif ".experts.down_proj" in name and "shared" not in name:
            for j, expert in enumerate(t):
                out[name.replace("down_proj", f"{j}.down_proj.weight")] = expert
        else:
            out[name] = t
    return out


def add_modules(folder, model):
    """Random modules behind the model, into its file."""
    layers = model.config.num_hidden_layers
    modules = MtpModel(model, model.config.num_mtp_layers)
    randomize(modules.layers)
    tensors = {"layers." + n: t for n, t in modules.layers.state_dict().items()}
    tensors = one_by_one({file_name(layers, n): t for n, t in tensors.items()})
    for k in range(modules.num_mtp_layers):
        tensors[f"model.layers.{layers + k}.embed_tokens.weight"] = model.model.embed_tokens.weight
        tensors[f"model.layers.{layers + k}.shared_head.head.weight"] = model.lm_head.weight
    tensors = {n: t.detach().clone().contiguous() for n, t in tensors.items()}
    path = folder / "model.safetensors"
    save_file({**load_file(path), **tensors}, path, metadata={"format": "pt"})


def load_modules(folder, model):
    """transformers finds modules by the number 61 alone."""
    layers = model.config.num_hidden_layers
    known = [rf"model\.layers\.{layers + k}\." for k in range(model.config.num_mtp_layers)]
    model._keys_to_ignore_on_load_unexpected = known
    return MtpModel.from_pretrained(model).to(model.dtype).eval()


def run_modules(model, modules, ids):
    """The modules' logits, teacher-forced; positions as the model's."""
    T = ids.shape[1]
    h = model.model(ids).last_hidden_state  # after the last norm
    positions = torch.arange(T)[None]
    angles = model.model.rotary_emb(h, positions)
    mask = torch.full((T, T), torch.finfo(h.dtype).min, dtype=h.dtype).triu(1)[None, None]
    out = []
    for k, layer in enumerate(modules.layers, 1):
        shifted = torch.cat([ids[:, k:], ids[:, -1:].expand(-1, k)], 1)
        h = layer(modules.embed_tokens(shifted), h, position_embeddings=angles, attention_mask=mask,
                  position_ids=positions, cache=None)  # fmt: skip
        out.append(model.lm_head(h))
    return out


def old_spelling(folder):
    """config.json with the positions as they were spelled until transformers 4."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope["type"] = rope.pop("rope_type")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2) + "\n")


def load(folder, dtype):
    """Eager: what it computes is written out in Python, where Float64 reaches it."""
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager"
    )


def run(folder, dtype, ids):
    """logits, loss, gradients by the names of the file."""
    model = load(folder, dtype)
    if dtype == torch.float64:  # what load() leaves in float32
        for name, t in [*model.named_buffers(), *model.named_parameters()]:
            t.data = t.data.double()
    out = model(ids, labels=ids)
    loss, more, parameters = out.loss, {}, dict(model.named_parameters())
    if "mtp" in folder.name:
        modules = load_modules(folder, model)
        for _, t in modules.layers.named_buffers() if dtype == torch.float64 else []:
            t.data = t.data.double()
        for k, logits in enumerate(run_modules(model, modules, ids), 1):
            loss_k = torch.nn.functional.cross_entropy(logits[:, : -k - 1].flatten(0, 1), ids[:, k + 1 :].flatten())
            loss = loss + LAMBDA / len(modules.layers) * loss_k
            logits = torch.cat([logits[:, :-k], torch.zeros_like(logits[:, -k:])], 1)
            more.update({f"mtp_logits.{k}": logits.detach(), f"mtp_loss.{k}": loss_k.detach().view(1)})
        named = modules.layers.named_parameters()
        parameters.update({file_name(model.config.num_hidden_layers, "layers." + n): t for n, t in named})
    loss.backward()
    grads = {n: t.grad if t.grad is not None else torch.zeros_like(t) for n, t in parameters.items()}
    return out.logits.detach(), loss.detach(), one_by_one(grads), more


def distance(a, b):
    a, b = [torch.cat([x.double().flatten() for x in y]) for y in (a, b)]
    return (a - b).norm() / b.norm()


def margin(folder, ids):
    """How far the closest decision of greedy decoding is from going the other way; also an indexer's, which
    takes the k best of at least as many tokens: torch says nothing about equal ones."""
    gaps, topk = [], torch.Tensor.topk

    def watched(scores, k, **rest):
        if scores.shape[-1] == ids.shape[-1] and k < ids.shape[-1]:
            best = topk(scores, k + 1).values
            gap = best[..., k - 1] - best[..., k]
            gaps.append(gap[best[..., k] > -1e30].min())  # masked ones are at -3e38
        return topk(scores, k, **rest)

    torch.Tensor.topk = watched
    logits = load(folder, torch.float32)(ids).logits[0, PROMPT - 1 : -1].detach()
    torch.Tensor.topk = topk
    best = logits.topk(2).values
    return min([(best[:, 0] - best[:, 1]).min(), *[1e3 * gap for gap in gaps]])


def write(name, seed):
    model_type, settings, dtype, shard, _ = MODELS[name]
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(seed)
    model = make(model_type, settings).to(getattr(torch, dtype))
    for module in model.modules():  # transformers keeps it in float32 when it loads, whatever dtype says
        if hasattr(module, "e_score_correction_bias"):
            module.e_score_correction_bias.data = module.e_score_correction_bias.float()
    model.generation_config.eos_token_id = None  # greedy decoding is to go on for 100 tokens
    model.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    if "old" in name:
        old_spelling(folder)
    if "mtp" in name:
        add_modules(folder, model)

    ids = torch.randint(0, SIZES["vocab_size"], (BATCH, TOKENS))
    prompt = ids[:1, :PROMPT]
    generated = load(folder, torch.float32).generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW, do_sample=False, eos_token_id=None
    )
    if min(margin(folder, generated), *[margin(folder, row[None]) for row in ids]) < 1e-3:
        return False
    in_float64(True)
    logits, loss, grads, more = run(folder, torch.float64, ids)
    in_float64(False)
    rough_logits, _, rough_grads, _ = run(folder, torch.bfloat16, ids)
    fine_logits, fine_loss, fine_grads, _ = run(folder, torch.float32, ids)
    bf16 = distance([rough_logits], [logits]), distance(rough_grads.values(), grads.values())
    if bf16[0] > 0.03 and "v32" not in name:  # rounding chose another expert (tokens): how far that leads is luck
        return False
    f32 = distance([fine_logits], [logits]), distance(fine_grads.values(), grads.values())
    expected = {"logits": logits, "loss": loss.view(1), "bf16_distance": torch.stack(bf16),
                **more, **{"grad." + k: g for k, g in grads.items()}}  # fmt: skip
    expected = {k: t.float().contiguous().clone() for k, t in expected.items()}
    save_file({**expected, "input_ids": ids.int(), "generated": generated.int()}, folder / "expected.safetensors",
              metadata={"made_by": "tools/goldens/10_full_model.py", "torch": torch.__version__.split("+")[0]})  # fmt: skip
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name:18} seed {seed:3}  {size:7} bytes   F32 {f32[0]:.1e} {f32[1]:.1e}   BF16 {bf16[0]:.1e} {bf16[1]:.1e}"
          f"   {len(set(generated[0, PROMPT:].tolist()))} different ids")  # fmt: skip
    return True


def main():
    for name in sys.argv[1:] or MODELS:
        seed = MODELS[name][4]
        while not write(name, seed):
            seed += 1


if __name__ == "__main__":
    main()
