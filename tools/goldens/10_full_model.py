"""Golden files of chapter 10: the model as plain PyTorch, its loss and the gradient of every weight.

    python tools/goldens/10_full_model.py        (needs torch and safetensors)

Computed in float64 and rounded once, to float32, when it is written.
"""
import os

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

OUT = os.path.join(os.path.dirname(__file__), "..", "..", "10_full_model", "goldens")
torch.set_default_dtype(torch.float64)
torch.manual_seed(10)

VOCAB, HIDDEN, WIDE, LAYERS, HEADS, KV_HEADS, HEAD_DIM, BATCH, TOKENS = 37, 24, 40, 2, 4, 2, 6, 2, 13


def normal(*shape, mean=0.0, std=0.2):
    return (mean + torch.randn(*shape) * std).float().double().requires_grad_()


def weights(tied):
    w = {"model.embed_tokens.weight": normal(VOCAB, HIDDEN), "model.norm.weight": normal(HIDDEN, mean=1.0)}
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        w[p + "input_layernorm.weight"] = normal(HIDDEN, mean=1.0)
        w[p + "post_attention_layernorm.weight"] = normal(HIDDEN, mean=1.0)
        w[p + "self_attn.q_proj.weight"] = normal(HEADS * HEAD_DIM, HIDDEN)
        w[p + "self_attn.k_proj.weight"] = normal(KV_HEADS * HEAD_DIM, HIDDEN)
        w[p + "self_attn.v_proj.weight"] = normal(KV_HEADS * HEAD_DIM, HIDDEN)
        w[p + "self_attn.o_proj.weight"] = normal(HIDDEN, HEADS * HEAD_DIM)
        w[p + "mlp.gate_proj.weight"] = normal(WIDE, HIDDEN)
        w[p + "mlp.up_proj.weight"] = normal(WIDE, HIDDEN)
        w[p + "mlp.down_proj.weight"] = normal(HIDDEN, WIDE)
    if not tied:
        w["lm_head.weight"] = normal(VOCAB, HIDDEN)
    return w


def forward(w, ids):
    norm = lambda x, name: F.rms_norm(x, (HIDDEN,), w[name], eps=1e-6)
    heads = lambda x, n: x.view(*ids.shape, n, HEAD_DIM).transpose(1, 2)
    x = F.embedding(ids, w["model.embed_tokens.weight"])
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        h = norm(x, p + "input_layernorm.weight")
        q = heads(F.linear(h, w[p + "self_attn.q_proj.weight"]), HEADS)
        k = heads(F.linear(h, w[p + "self_attn.k_proj.weight"]), KV_HEADS)
        v = heads(F.linear(h, w[p + "self_attn.v_proj.weight"]), KV_HEADS)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + F.linear(o.transpose(1, 2).flatten(2), w[p + "self_attn.o_proj.weight"])
        h = norm(x, p + "post_attention_layernorm.weight")
        gated = F.silu(F.linear(h, w[p + "mlp.gate_proj.weight"])) * F.linear(h, w[p + "mlp.up_proj.weight"])
        x = x + F.linear(gated, w[p + "mlp.down_proj.weight"])
    return F.linear(norm(x, "model.norm.weight"), w.get("lm_head.weight", w["model.embed_tokens.weight"]))


os.makedirs(OUT, exist_ok=True)
for tied in (False, True):
    w = weights(tied)
    ids = torch.randint(0, VOCAB, (BATCH, TOKENS))
    targets = torch.randint(0, VOCAB, (BATCH, TOKENS))
    targets[0, 3] = -100
    logits = forward(w, ids)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    tensors = {**w, "logits": logits, "loss": loss.view(1), **{"grad." + k: t.grad for k, t in w.items()}}
    tensors = {k: t.detach().float().contiguous() for k, t in tensors.items()}
    save_file({**tensors, "ids": ids.int(), "targets": targets.int()},
              os.path.join(OUT, f"model_{'tied' if tied else 'untied'}.safetensors"),
              metadata={"made_by": "tools/goldens/10_full_model.py", "torch": torch.__version__.split("+")[0]})
