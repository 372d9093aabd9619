"""Golden files of chapter 06: modules for multi-token prediction, and independent heads, from the formulas.

    python tools/goldens/06_mtp.py        (needs torch and safetensors)

A decoder of one block (latent attention without positions, a dense SwiGLU) with D modules behind it, or
D heads beside it, in float64. Weights are numbers that BF16 holds exactly, so that a BF16 model starts
from the same ones. Each file has

    ids, targets [B, T]    targets[i] = ids[i + 1]; id END ends a document
    NAME                   every weight
    logits.k [B, T, V]     of depth k; 0: the decoder's own. All rows, also those without a token
    loss.k [1]             mean over the rows that have a target of depth k
    loss [1], grad.NAME    of loss.0 + LAMBDA / D sum of loss.k

    mtp_1, mtp_2           DeepSeek's modules, D = 1 and 2
    heads_2                two heads of Gloeckle et al. (2024)
"""
import os

import torch
from safetensors.torch import save_file

OUT = os.path.join(os.path.dirname(__file__), "..", "..", "06_mtp", "goldens")
B, T, V, H, HEADS, LATENT, NOPE, VALUE, INNER = 2, 9, 13, 12, 2, 8, 6, 5, 16
LAMBDA, END, EPS = 0.3, 4, 1e-6


def normal(*shape):
    """Numbers that BF16 holds exactly, as float64; norms' weights are around 1."""
    x = torch.randn(*shape) * (0.3 if len(shape) == 1 else shape[-1] ** -0.5) + (len(shape) == 1)
    return x.bfloat16().double().requires_grad_()


def block_weights(prefix):
    shapes = {"input_layernorm": (H,), "self_attn.q_proj": (HEADS * NOPE, H),
              "self_attn.kv_a_proj_with_mqa": (LATENT, H), "self_attn.kv_a_layernorm": (LATENT,),
              "self_attn.kv_b_proj": (HEADS * (NOPE + VALUE), LATENT), "self_attn.o_proj": (H, HEADS * VALUE),
              "post_attention_layernorm": (H,), "mlp.gate_proj": (INNER, H), "mlp.up_proj": (INNER, H),
              "mlp.down_proj": (H, INNER)}  # fmt: skip
    return {f"{prefix}.{name}.weight": normal(*shape) for name, shape in shapes.items()}


def rmsnorm(x, w):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * w


def block(w, prefix, x):
    def p(name):
        return w[f"{prefix}.{name}.weight"]

    h = rmsnorm(x, p("input_layernorm"))
    q = (h @ p("self_attn.q_proj").T).view(B, T, HEADS, NOPE)
    c = rmsnorm(h @ p("self_attn.kv_a_proj_with_mqa").T, p("self_attn.kv_a_layernorm"))
    k, v = (c @ p("self_attn.kv_b_proj").T).view(B, T, HEADS, NOPE + VALUE).split([NOPE, VALUE], -1)
    s = torch.einsum("bthd,bshd->bhts", q, k) * NOPE**-0.5
    s = s.masked_fill(torch.ones(T, T, dtype=bool).triu(1), -torch.inf)
    o = torch.einsum("bhts,bshd->bthd", s.softmax(-1), v).reshape(B, T, -1)
    x = x + o @ p("self_attn.o_proj").T
    h = rmsnorm(x, p("post_attention_layernorm"))
    gate, up = h @ p("mlp.gate_proj").T, h @ p("mlp.up_proj").T
    return x + (torch.nn.functional.silu(gate) * up) @ p("mlp.down_proj").T


def module(w, prefix, e, h):
    both = torch.cat([rmsnorm(e, w[f"{prefix}.enorm.weight"]), rmsnorm(h, w[f"{prefix}.hnorm.weight"])], -1)
    x = block(w, prefix, both @ w[f"{prefix}.eh_proj.weight"].T)
    return rmsnorm(x, w[f"{prefix}.shared_head.norm.weight"])


def loss_of(logits, ids, targets, k):
    """The mean over rows i that have a token i + k + 1 in their own document."""
    losses = []
    for b in range(B):
        for i in range(T - k):
            if END not in ids[b, i + 1 : i + k + 1].tolist():
                losses.append(torch.nn.functional.cross_entropy(logits[b, i][None], targets[b, i + k][None]))
    return torch.stack(losses).mean()


def write(name, depth, heads):
    torch.manual_seed(depth + 10 * heads)
    ids = torch.randint(0, V, (B, T + 1))
    ids[0, 3], ids[1, T - 1] = END, END
    ids, targets = ids[:, :-1], ids[:, 1:]
    w = {"model.embed_tokens.weight": normal(V, H), **block_weights("model.layers.0"),
         "model.norm.weight": normal(H), "lm_head.weight": normal(V, H)}  # fmt: skip
    for k in range(1, depth + 1):
        prefix = f"model.heads.{k}" if heads else f"model.layers.{k}"
        w.update(block_weights(prefix))
        w[prefix + (".norm.weight" if heads else ".shared_head.norm.weight")] = normal(H)
        if not heads:
            w.update({f"{prefix}.enorm.weight": normal(H), f"{prefix}.hnorm.weight": normal(H),
                      f"{prefix}.eh_proj.weight": normal(H, 2 * H)})  # fmt: skip
    embed, head = w["model.embed_tokens.weight"], w["lm_head.weight"]
    x = block(w, "model.layers.0", embed[ids])
    h = rmsnorm(x, w["model.norm.weight"])
    logits = [h @ head.T]
    for k in range(1, depth + 1):
        if heads:
            h = rmsnorm(block(w, f"model.heads.{k}", x), w[f"model.heads.{k}.norm.weight"])
        else:
            shifted = torch.cat([ids[:, k:], ids[:, -1:].expand(-1, k)], 1)
            h = module(w, f"model.layers.{k}", embed[shifted], h)
        logits.append(h @ head.T)
    losses = [loss_of(l, ids, targets, k) for k, l in enumerate(logits)]
    loss = losses[0] + LAMBDA / depth * sum(losses[1:])
    loss.backward()
    out = {**w, **{"grad." + n: t.grad for n, t in w.items()}, "loss": loss.view(1)}
    for k in range(depth + 1):
        out[f"logits.{k}"], out[f"loss.{k}"] = logits[k], losses[k].view(1)
    out = {n: t.detach().float().contiguous() for n, t in out.items()}
    out["ids"], out["targets"] = ids.contiguous().int(), targets.contiguous().int()
    os.makedirs(OUT, exist_ok=True)
    about = {"made_by": "tools/goldens/06_mtp.py", "torch": torch.__version__.split("+")[0]}
    save_file(out, os.path.join(OUT, name + ".safetensors"), metadata=about)
    print(name, os.path.getsize(os.path.join(OUT, name + ".safetensors")), "bytes")


write("mtp_1", 1, False)
write("mtp_2", 2, False)
write("heads_2", 2, True)
