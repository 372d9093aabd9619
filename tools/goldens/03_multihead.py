"""Golden files of chapter 03: what PyTorch and transformers compute for the same weights.

    python tools/goldens/03_multihead.py        (needs torch, safetensors and transformers)

Everything is computed in float64 and rounded once, to float32, when it is written: the files hold the
truth, and a test's tolerance is for our rounding alone. The loss whose gradients are kept is
sum(y * c) for a constant c.

    sdpa_mha, sdpa_gqa, sdpa_mqa   linear layers around F.scaled_dot_product_attention(enable_gqa=True)
    nn_multihead                   torch.nn.MultiheadAttention with biases, and each head's weights
    llama_gqa                      transformers' LlamaAttention, its rotation set to the identity
"""
import os

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

OUT = os.path.join(os.path.dirname(__file__), "..", "..", "03_multihead", "goldens")
ABOUT = {"made_by": "tools/goldens/03_multihead.py", "torch": torch.__version__.split("+")[0]}
torch.set_default_dtype(torch.float64)


def normal(*shape, std=1.0):
    """Numbers that float32 holds exactly, so that both sides start from the same input."""
    return (torch.randn(*shape) * std).float().double().requires_grad_()


def save(name, tensors):
    os.makedirs(OUT, exist_ok=True)
    rounded = {k: v.detach().float().contiguous() for k, v in tensors.items()}
    save_file(rounded, os.path.join(OUT, name + ".safetensors"), metadata=ABOUT)


def with_gradients(inputs, y, c):
    (y * c).sum().backward()
    return {**inputs, "y": y, "c": c, **{"grad." + k: t.grad for k, t in inputs.items()}}


def sdpa(name, batch, tokens, hidden, heads, kv_heads, head_dim):
    """Ragged on purpose: hidden is not heads * head_dim, and no size is a power of two."""
    torch.manual_seed(3)
    p = {
        "x": normal(batch, tokens, hidden),
        "q_proj.weight": normal(heads * head_dim, hidden, std=hidden**-0.5),
        "k_proj.weight": normal(kv_heads * head_dim, hidden, std=hidden**-0.5),
        "v_proj.weight": normal(kv_heads * head_dim, hidden, std=hidden**-0.5),
        "o_proj.weight": normal(hidden, heads * head_dim, std=(heads * head_dim) ** -0.5),
    }

    def project(which, n):
        rows = F.linear(p["x"], p[which + ".weight"])
        return rows.view(batch, tokens, n, head_dim).transpose(1, 2)

    q, k, v = project("q_proj", heads), project("k_proj", kv_heads), project("v_proj", kv_heads)
    o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    o = o.transpose(1, 2).reshape(batch, tokens, heads * head_dim)
    y = F.linear(o, p["o_proj.weight"])
    save(name, with_gradients(p, y, normal(batch, tokens, hidden).detach()))


def nn_multihead(batch=2, tokens=13, hidden=24, heads=3):
    torch.manual_seed(4)
    module = torch.nn.MultiheadAttention(hidden, heads, bias=True, batch_first=True)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(normal(*p.shape, std=hidden**-0.5 if p.dim() == 2 else 0.5))
    x = normal(batch, tokens, hidden)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(tokens)
    y, weights = module(x, x, x, attn_mask=mask, need_weights=True, average_attn_weights=False)
    c = normal(batch, tokens, hidden).detach()
    (y * c).sum().backward()
    # Stored as PyTorch stores it: q, k and v stacked in one [3 * hidden, hidden] matrix. The test
    # takes it apart.
    out = {"x": x, "y": y, "c": c, "weights": weights, "grad.x": x.grad}
    for name, p in module.named_parameters():
        out[name] = p
        out["grad." + name] = p.grad
    save("nn_multihead", out)


def llama_gqa(batch=1, tokens=17, hidden=20, heads=4, kv_heads=2, head_dim=6):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaAttention

    torch.manual_seed(5)
    config = LlamaConfig(
        hidden_size=hidden, num_attention_heads=heads, num_key_value_heads=kv_heads,
        head_dim=head_dim, attention_bias=False, attn_implementation="eager",
    )
    module = LlamaAttention(config, layer_idx=0).double()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(normal(*p.shape, std=hidden**-0.5))
    x = normal(batch, tokens, hidden)
    cos, sin = torch.ones(batch, tokens, head_dim), torch.zeros(batch, tokens, head_dim)
    mask = torch.full((tokens, tokens), float("-inf")).triu(1)[None, None]
    y = module(x, position_embeddings=(cos, sin), attention_mask=mask)[0]
    inputs = {"x": x, **dict(module.named_parameters())}
    save("llama_gqa", with_gradients(inputs, y, normal(batch, tokens, hidden).detach()))


sdpa("sdpa_mha", batch=2, tokens=33, hidden=22, heads=3, kv_heads=3, head_dim=7)
sdpa("sdpa_gqa", batch=2, tokens=33, hidden=22, heads=6, kv_heads=2, head_dim=5)
sdpa("sdpa_mqa", batch=2, tokens=31, hidden=22, heads=4, kv_heads=1, head_dim=9)
nn_multihead()
llama_gqa()
