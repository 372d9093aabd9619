"""Golden files of chapter 04: what transformers' latent attention computes for the same weights.

    python tools/goldens/04_mla.py        (needs torch, safetensors and transformers)

Weights and inputs are float32 numbers, everything is computed in float64 (but for what transformers
itself does in float32: norms and softmax) and rounded once when it is written. The loss whose
gradients are kept is sum(y * c) for a constant c. Nothing is rotated: cos = 1 and sin = 0; chapter 07
has its own files with rotation.

    v3           DeepseekV3Attention with a q latent
    v3_no_q_lora DeepseekV3Attention without
    v3_bias      DeepseekV3Attention with a q latent and attention_bias
    v2           DeepseekV2Attention with a q latent and attention_bias
    v2_no_q_lora DeepseekV2Attention without (V2-Lite)
"""
import os

import torch
import transformers
from safetensors.torch import save_file

CHAPTER = os.path.join(os.path.dirname(__file__), "..", "..", "04_mla")
ABOUT = {
    "made_by": "tools/goldens/04_mla.py",
    "torch": torch.__version__.split("+")[0],
    "transformers": transformers.__version__,
}
torch.set_default_dtype(torch.float64)

# Ragged on purpose: hidden is not heads * v, and all parts of a head differ. (V2's config wants
# hidden to be a multiple of heads.)
SIZES = dict(
    hidden_size=27, num_attention_heads=3, num_key_value_heads=3, kv_lora_rank=13,
    qk_nope_head_dim=7, qk_rope_head_dim=4, v_head_dim=5, max_position_embeddings=64,
)


def normal(*shape, std=1.0):
    """Numbers that float32 holds exactly, so that both sides start from the same input."""
    return (torch.randn(*shape) * std).float().double().requires_grad_()


def attention(version, **settings):
    """(config, the module in float64) of model_type deepseek_v2 or deepseek_v3."""
    if version == 2:
        from transformers import DeepseekV2Config as Config
        from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Attention as Module
    else:
        from transformers import DeepseekV3Config as Config
        from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention as Module
    config = Config(**settings, attn_implementation="eager")
    return config, Module(config, layer_idx=0).double()


def no_rotation(version, batch, tokens, rope):
    """What the module takes as position_embeddings: V2 complex numbers, V3 a pair (cos, sin)."""
    if version == 2:
        return torch.ones(batch, tokens, rope // 2, dtype=torch.complex64)
    return torch.ones(batch, tokens, rope), torch.zeros(batch, tokens, rope)


def golden(name, version, q_lora_rank, attention_bias=False, batch=2, tokens=33, seed=4):
    torch.manual_seed(seed)
    config, module = attention(
        version, **SIZES, q_lora_rank=q_lora_rank, attention_bias=attention_bias
    )
    with torch.no_grad():
        for key, p in module.named_parameters():
            if "layernorm" in key:
                p.copy_(1 + normal(*p.shape, std=0.3))
                p.copy_(p.float())
            else:
                p.copy_(normal(*p.shape, std=0.5 if p.dim() == 1 else p.shape[-1] ** -0.5))
    x = normal(batch, tokens, config.hidden_size)
    y = module(
        hidden_states=x,
        position_embeddings=no_rotation(version, batch, tokens, config.qk_rope_head_dim),
        attention_mask=torch.full((tokens, tokens), float("-inf")).triu(1)[None, None],
    )[0]
    c = normal(batch, tokens, config.hidden_size).detach()
    (y * c).sum().backward()
    tensors = {"x": x, "y": y, "c": c, "grad.x": x.grad}
    for key, p in module.named_parameters():
        tensors[key], tensors["grad." + key] = p, p.grad
    os.makedirs(os.path.join(CHAPTER, "goldens"), exist_ok=True)
    save_file(
        {key: t.detach().float().contiguous() for key, t in tensors.items()},
        os.path.join(CHAPTER, "goldens", name + ".safetensors"),
        metadata=ABOUT,
    )


golden("v3", version=3, q_lora_rank=11)
golden("v3_no_q_lora", version=3, q_lora_rank=None)
golden("v3_bias", version=3, q_lora_rank=11, attention_bias=True)
golden("v2", version=2, q_lora_rank=11, attention_bias=True)
golden("v2_no_q_lora", version=2, q_lora_rank=None)
