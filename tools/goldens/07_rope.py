"""Golden files of chapter 07: transformers' own rotary functions.

    python tools/goldens/07_rope.py        (needs torch, safetensors and transformers)

    frequencies    inverse frequencies and both factors, for every rope_type
    rotation       apply_rotary_pos_emb (Llama: halves) and apply_rotary_pos_emb_interleave
                   (DeepSeek), with gradients
    mla_*          DeepseekV3Attention whole, with rotation and YaRN, in both layouts, with gradients;
                   mla_v2: DeepseekV2Attention, which turns complex numbers

transformers computes frequencies and angles in float32 whatever the dtype is, and V2 its rotation
too; the rest is computed in float64 (norms in float32) and rounded once when it is written. The loss whose gradients are kept
is sum(y * c) for a constant c.
"""
import os

import torch
import transformers
from safetensors.torch import save_file
from transformers import DeepseekV2Config, DeepseekV3Config, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.deepseek_v2 import modeling_deepseek_v2 as v2
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as v3
from transformers.models.llama import modeling_llama as llama

OUT = os.path.join(os.path.dirname(__file__), "..", "..", "07_rope", "goldens")
ABOUT = {
    "made_by": "tools/goldens/07_rope.py",
    "torch": torch.__version__.split("+")[0],
    "transformers": transformers.__version__,
}


def normal(*shape, std=1.0):
    """Numbers that float32 holds exactly, so that both sides start from the same input."""
    x = torch.randn(*shape, dtype=torch.float64) * std
    return x.float().double().requires_grad_()


def save(name, tensors):
    os.makedirs(OUT, exist_ok=True)
    tensors = {k: v.detach() for k, v in tensors.items()}
    rounded = {k: (v.float() if v.is_floating_point() else v).contiguous() for k, v in tensors.items()}
    save_file(rounded, os.path.join(OUT, name + ".safetensors"), metadata=ABOUT)


# ---- frequencies ----


def plain_config(dim, theta=10000.0, max_position=4096, **scaling):
    """Any model would do: what counts is head_dim and rope_parameters."""
    return LlamaConfig(
        hidden_size=4 * dim, num_attention_heads=4, head_dim=dim, max_position_embeddings=max_position,
        rope_parameters={"rope_type": "default", "rope_theta": theta, **scaling},
    )


def frequencies_of(config, seq_len=None):
    """(inverse frequencies, factor on cos and sin, factor on the softmax scale)"""
    kind = config.rope_parameters["rope_type"]
    if kind == "default":
        f, factor = llama.LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        f, factor = ROPE_INIT_FUNCTIONS[kind](config, seq_len=seq_len)
    assert f.dtype == torch.float32
    return f, factor, v3.yarn_apply_mscale(config.rope_parameters, 1.0)


def yarn(factor, original, **more):
    return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original, **more}


V3_YARN = dict(factor=40, original_max_position_embeddings=4096, beta_fast=32, beta_slow=1,
               mscale=1.0, mscale_all_dim=1.0)


def deepseek(config_class, spelling, mscale):
    """The published config.json's numbers: `rope_scaling` with `type` (old) or `rope_parameters`."""
    numbers = {**V3_YARN, "mscale": mscale, "mscale_all_dim": mscale}
    if spelling == "old":
        position = {"rope_theta": 10000, "rope_scaling": {"type": "yarn", **numbers}}
    else:
        position = {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, **numbers}}
    return config_class(qk_rope_head_dim=64, max_position_embeddings=163840, **position)


def frequencies():
    cases = {
        "default": (plain_config(64), None),
        "default_llama3": (plain_config(128, theta=500000.0), None),
        "linear": (plain_config(64, rope_type="linear", factor=4.0), None),
        "dynamic": (plain_config(64, max_position=2048, rope_type="dynamic", factor=4.0), 8192),
        "yarn_plain": (plain_config(64, **yarn(40.0, 4096)), None),
        "yarn_given": (plain_config(64, **yarn(40.0, 4096, attention_factor=1.25)), None),
        "yarn_ragged": (plain_config(66, theta=12345.0, **yarn(
            3.7, 1000, beta_fast=16, beta_slow=2, mscale=1.0, mscale_all_dim=0.5)), None),
        "yarn_short": (plain_config(8, **yarn(8.0, 64)), None),
        "yarn_guard": (plain_config(64, **yarn(4.0, 6)), None),
        # high is held at dim - 1 = 7, where dim / 2 - 1 = 3 is the last pair
        "yarn_clamp": (plain_config(8, theta=10.0, **yarn(4.0, 512)), None),
        # one of the two alone: cos and sin then have m(1); the softmax has m(mscale_all_dim)^2
        "yarn_mscale": (plain_config(64, **yarn(40.0, 4096, mscale=0.5)), None),
        "yarn_all_dim": (plain_config(64, **yarn(40.0, 4096, mscale_all_dim=0.5)), None),
        # yarn_apply_mscale asks for another rope_type than default, not for yarn
        "linear_all_dim": (plain_config(64, rope_type="linear", factor=4.0, mscale_all_dim=0.5), None),
        "yarn_v3": (deepseek(DeepseekV3Config, "new", 1.0), None),
        "yarn_v2": (deepseek(DeepseekV2Config, "new", 0.707), None),
    }
    out = {}
    for name, (config, seq_len) in cases.items():
        f, attention, softmax = frequencies_of(config, seq_len)
        out[name] = f
        out[name + ".factors"] = torch.tensor([attention, softmax], dtype=torch.float64)
    for config_class, mscale, name in (
        (DeepseekV3Config, 1.0, "yarn_v3"), (DeepseekV2Config, 0.707, "yarn_v2"),
    ):
        f, attention, softmax = frequencies_of(deepseek(config_class, "old", mscale))
        assert torch.equal(f, out[name]) and [attention, softmax] == out[name + ".factors"].tolist()
    # cos and sin as the model makes them.
    rotary = v3.DeepseekV3RotaryEmbedding(cases["yarn_v3"][0])
    positions = torch.tensor([[0, 1, 2, 3, 17, 100, 255, 300]])
    cos, sin = rotary(torch.zeros(1), positions)
    out |= {"positions": positions[0], "yarn_v3.cos": cos[0, :, :32], "yarn_v3.sin": sin[0, :, :32]}
    save("frequencies", out)


# ---- rotation ----


def rotation(batch=2, tokens=9, heads=3, kv_heads=1, dim=12):
    """Positions with gaps and repeats. Layout of all tensors: [B, T, heads, D], as ours."""
    torch.manual_seed(7)
    config = plain_config(dim)
    positions = torch.randint(0, 50, (batch, tokens))
    cos, sin = llama.LlamaRotaryEmbedding(config)(torch.zeros(1, dtype=torch.float64), positions)
    q, k = normal(batch, tokens, heads, dim), normal(batch, tokens, kv_heads, dim)
    c_q, c_k = normal(*q.shape).detach(), normal(*k.shape).detach()
    out = {"q": q, "k": k, "c_q": c_q, "c_k": c_k, "positions": positions}
    for name, rotate in (
        ("halves", llama.apply_rotary_pos_emb), ("interleaved", v3.apply_rotary_pos_emb_interleave),
    ):
        y_q, y_k = rotate(q, k, cos, sin, unsqueeze_dim=2)
        grads = torch.autograd.grad((y_q * c_q).sum() + (y_k * c_k).sum(), (q, k))
        out |= {f"{name}.q": y_q, f"{name}.k": y_k,
                f"{name}.grad.q": grads[0], f"{name}.grad.k": grads[1]}
    save("rotation", out)


# ---- latent attention with rotation and YaRN ----


def mla(name, layout, q_lora_rank, mscale, mscale_all_dim, batch=2, tokens=33, hidden=20,
        heads=3, nope=6, rope=8, v_head_dim=5, kv_lora_rank=10):
    """layout: the setting of V3 that chooses it; V2 knows neighbours alone, so nothing."""
    torch.manual_seed(8)
    is_v3 = bool(layout)
    config = (DeepseekV3Config if is_v3 else DeepseekV2Config)(
        hidden_size=hidden, num_attention_heads=heads, num_key_value_heads=heads,
        q_lora_rank=q_lora_rank, kv_lora_rank=kv_lora_rank, qk_nope_head_dim=nope,
        qk_rope_head_dim=rope, v_head_dim=v_head_dim, **layout,
        max_position_embeddings=256, attn_implementation="sdpa",
        rope_parameters={"rope_type": "yarn", "rope_theta": 100.0, "factor": 8.0, "beta_fast": 4,
                         "beta_slow": 1, "original_max_position_embeddings": 32,
                         "mscale": mscale, "mscale_all_dim": mscale_all_dim},
    )
    module = (v3.DeepseekV3Attention if is_v3 else v2.DeepseekV2Attention)(config, layer_idx=0).double()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(normal(*p.shape, std=1.5 * p.shape[-1] ** -0.5) if p.dim() == 2
                    else 1 + normal(*p.shape, std=0.3))
            p.copy_(p.float())
    x = normal(batch, tokens, hidden)
    rotary = (v3.DeepseekV3RotaryEmbedding if is_v3 else v2.DeepseekV2RotaryEmbedding)(config)
    positions = torch.arange(tokens).expand(batch, tokens)
    mask = torch.full((tokens, tokens), float("-inf"), dtype=torch.float64).triu(1)[None, None]
    y = module(x, position_embeddings=rotary(x, positions), attention_mask=mask)[0]
    c = normal(*y.shape).detach()
    inputs = {"x": x, **dict(module.named_parameters())}
    (y * c).sum().backward()
    save(name, {**inputs, "y": y, "c": c, **{"grad." + k: t.grad for k, t in inputs.items()}})


frequencies()
rotation()
mla("mla_interleaved", {"rope_interleave": True}, q_lora_rank=14, mscale=1.0, mscale_all_dim=1.0)
mla("mla_halves", {"rope_interleave": False}, q_lora_rank=None, mscale=1.0, mscale_all_dim=0.5)
mla("mla_v2", {}, q_lora_rank=None, mscale=1.0, mscale_all_dim=0.5, tokens=17, heads=4)
