"""Golden files of chapter 01: what PyTorch computes for one attention head, gradients included.

    python tools/goldens/01_self_attention.py        (needs torch and safetensors)

Everything is computed in float64 and rounded once, to float32, when it is written: the files hold the truth, and a
test's tolerance is for our rounding alone. The loss whose gradients are kept is sum(y * c) for a constant c.

    attention   q, k, v projected from x [2, 13, 24] to 16 numbers; y from scaled_dot_product_attention
    cross       5 queries over 33 keys, values wider than keys
    softmax     rows with moderate, huge and -inf elements, and the gradient
"""
import os

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

OUT = os.path.join(os.path.dirname(__file__), "..", "..", "01_self_attention", "goldens")
ABOUT = {"made_by": "tools/goldens/01_self_attention.py", "torch": torch.__version__.split("+")[0]}
torch.set_default_dtype(torch.float64)


def normal(*shape, std=1.0):
    """Numbers that float32 holds exactly, so that both sides start from the same input."""
    return (torch.randn(*shape) * std).float().double().requires_grad_()


def save(name, inputs, y, extra={}):
    c = normal(*y.shape).detach()
    (y * c).sum().backward()
    tensors = {**inputs, **{f"d{n}": t.grad for n, t in inputs.items()}, "y": y, "c": c, **extra}
    tensors = {n: t.detach().float().contiguous() for n, t in tensors.items()}
    os.makedirs(OUT, exist_ok=True)
    save_file(tensors, os.path.join(OUT, f"{name}.safetensors"), metadata=ABOUT)


def attention():
    torch.manual_seed(1)
    t = {"x": normal(2, 13, 24), **{f"{n}_proj": normal(16, 24, std=0.3) for n in "qkv"}}
    q, k, v = (F.linear(t["x"], t[f"{n}_proj"]) for n in "qkv")
    y = F.scaled_dot_product_attention(q, k, v)
    weights = torch.softmax(q @ k.transpose(-1, -2) / 16**0.5, -1)
    assert torch.allclose(y, weights @ v)
    save("attention", t, y, {"weights": weights})


def cross():
    torch.manual_seed(2)
    t = {"q": normal(3, 5, 7), "k": normal(3, 33, 7), "v": normal(3, 33, 12)}
    save("cross", t, F.scaled_dot_product_attention(t["q"], t["k"], t["v"]))


def softmax():
    torch.manual_seed(3)
    x = normal(6, 37).detach()
    x[1] *= 20
    x[2] = x[2] * 100 + 1000
    x[3, ::2] = -torch.inf
    x[4] = 5
    x = x.float().double().requires_grad_()
    save("softmax", {"x": x}, torch.softmax(x, -1))


attention()
cross()
softmax()
for f in sorted(os.listdir(OUT)):
    print(f, os.path.getsize(os.path.join(OUT, f)), "bytes")
