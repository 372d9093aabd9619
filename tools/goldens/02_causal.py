"""Golden files of chapter 02: what PyTorch's scaled_dot_product_attention computes, gradients included.

    python tools/goldens/02_causal.py        (needs torch and safetensors)

Everything is computed in float64 and rounded once, to float32, when it is written: the files hold the
truth, and a test's tolerance is for our rounding alone. The loss whose gradients are kept is
sum(o * c) for a constant c. Tensors have our layout, [batch, token, head, column].

    causal   is_causal=True, as in training
    gqa      six query heads share two key heads; values narrower than keys
    chunk    the last 5 of 23 positions: an explicit mask, for is_causal=True would align the mask's corner to the
             first key instead of the last (PyTorch 2.x), which is another question
    large    scores of several hundred: exp() without the maximum subtracted overflows
"""
import os

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

OUT = os.path.join(os.path.dirname(__file__), "..", "..", "02_causal", "goldens")
ABOUT = {"made_by": "tools/goldens/02_causal.py", "torch": torch.__version__.split("+")[0]}
torch.set_default_dtype(torch.float64)


def normal(*shape, std=1.0):
    """Numbers that float32 holds exactly, so that both sides start from the same input."""
    return (torch.randn(*shape) * std).float().double().requires_grad_()


def golden(name, batch, heads, kv_heads, q_len, kv_len, qk_dim, v_dim, std=1.0):
    torch.manual_seed(2)
    t = {
        "q": normal(batch, q_len, heads, qk_dim, std=std),
        "k": normal(batch, kv_len, kv_heads, qk_dim, std=std),
        "v": normal(batch, kv_len, kv_heads, v_dim),
    }
    q, k, v = (t[n].transpose(1, 2) for n in "qkv")
    mask = torch.ones(q_len, kv_len, dtype=torch.bool).tril(kv_len - q_len)
    options = {"is_causal": True} if q_len == kv_len else {"attn_mask": mask}
    o = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **options).transpose(1, 2)
    c = normal(*o.shape).detach()
    (o * c).sum().backward()

    scores = q @ k.repeat_interleave(heads // kv_heads, 1).transpose(2, 3) * qk_dim**-0.5
    lse = scores.masked_fill(~mask, float("-inf")).logsumexp(-1)  # [B, H, T]
    t |= {"o": o, "c": c, "lse": lse} | {"grad." + n: t[n].grad for n in "qkv"}
    os.makedirs(OUT, exist_ok=True)
    rounded = {n: x.detach().float().contiguous() for n, x in t.items()}
    save_file(rounded, os.path.join(OUT, name + ".safetensors"), metadata=ABOUT)


golden("causal", 2, 2, 2, 19, 19, 12, 12)
golden("gqa", 1, 6, 2, 37, 37, 10, 7)
golden("chunk", 2, 3, 3, 5, 23, 16, 9)
golden("large", 1, 2, 2, 33, 33, 16, 16, std=20.0)
