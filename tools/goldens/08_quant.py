"""Golden files of chapter 08: what PyTorch's own formats make of the same numbers.

    python tools/goldens/08_quant.py        (needs torch, numpy and safetensors)

    formats   every code of the eight-bit floats; floats of all sizes, with every tie between two
              neighbouring codes and what lies beside it; a matrix as INT8, INT4, E4M3, with zero
              points and in NF4
    methods   GPTQ by eliminating columns one by one from H^-1 (no Cholesky, no batches), AWQ by trying
              all exponents, SmoothQuant's scales, LLM.int8()'s product; all in float64. Wherever a
              rounding or a choice would be close, the script stops: another seed, please
    qat       torch.fake_quantize_per_channel_affine and its gradient, with and without clipping
"""
import os

import numpy as np
import torch
from safetensors.torch import save_file

CHAPTER = os.path.join(os.path.dirname(__file__), "..", "..", "08_quant")
ABOUT = {"made_by": "tools/goldens/08_quant.py", "torch": torch.__version__.split("+")[0]}
E4M3, E5M2, E8M0 = torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu


def save(name, tensors):
    os.makedirs(os.path.join(CHAPTER, "goldens"), exist_ok=True)
    tensors = {k: v.contiguous() for k, v in tensors.items()}
    save_file(tensors, os.path.join(CHAPTER, "goldens", name + ".safetensors"), metadata=ABOUT)


# ---- eight-bit floats ----


def all_codes(dtype):
    return torch.arange(256, dtype=torch.uint8).view(dtype).float()


def ties(dtype):
    """The middle of every two neighbouring numbers, and the float32 on each side of it."""
    values = all_codes(dtype)
    values = values[values.isfinite()].unique()
    middle = (values[1:] + values[:-1]) / 2
    infinity = torch.tensor(torch.inf)
    return torch.cat([middle, torch.nextafter(middle, infinity), torch.nextafter(middle, -infinity)])


def some_floats():
    """From far below the smallest number of any of the formats to far above the largest."""
    torch.manual_seed(8)
    sizes = torch.exp2(torch.empty(600).uniform_(-26, 20)) * torch.empty(600).uniform_(1, 2)
    special = [0.0, -0.0, 448, 464, 480, 1e30, -1e30, 57344, 61439, 61440, 65536, 3e38, -3e38, 1e-45, -1e-45,
               torch.inf, -torch.inf, torch.nan]  # fmt: skip
    return torch.cat([sizes * torch.randn(600).sign(), torch.tensor(special), ties(E4M3), ties(E5M2)])


def saturating(x, dtype):
    """Codes of x, of the largest number where x is larger: PyTorch's own casts differ there."""
    most = torch.finfo(dtype).max
    return x.clamp(-most, most).to(dtype).view(torch.uint8)


def e8m0_up(x):
    """The power of two that is not below x: exact, by the mantissa and exponent of float64."""
    mantissa, exponent = np.frexp(x.numpy().astype(np.float64))  # x = mantissa 2^exponent, in [0.5, 1)
    power = np.where(mantissa == 0.5, exponent - 1, exponent)
    return torch.from_numpy((np.clip(power, -126, 127) + 127).astype(np.uint8))


# ---- matrices ----


def expand(s, block, shape):
    return s.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[: shape[0], : shape[1]]


def blocks(w, block, f):
    """f of every block: [ceil(out / block_out), ceil(in / block_in)]."""
    rows = [torch.stack([f(b) for b in r.split(block[1], 1)]) for r in w.split(block[0], 0)]
    return torch.stack(rows)


def absmax(w, block, largest):
    s = blocks(w, block, lambda b: b.abs().max()) / largest
    return torch.where(s == 0, torch.ones_like(s), s)


def integers(w, block, largest, s=None):
    """(q as int8, scales), symmetric; torch.round takes ties to the even number."""
    s = absmax(w, block, largest) if s is None else s
    return (w / expand(s, block, w.shape)).round().clamp(-largest, largest).to(torch.int8), s


def halves(q, group):
    """INT4 codes in memory: of each group, number i below number i + group / 2."""
    u = (q + 8).to(torch.uint8).view(q.shape[0], -1, 2, group // 2)
    return (u[:, :, 0] | u[:, :, 1] << 4).reshape(q.shape[0], -1)


def affine(w, block, most):
    zero = torch.zeros(())
    high = blocks(w, block, lambda b: torch.maximum(b.max(), zero))
    low = blocks(w, block, lambda b: torch.minimum(b.min(), zero))
    s = high / most - low / most
    s = torch.where(s == 0, torch.ones_like(s), s)
    z = (-low / s).round()
    q = (w / expand(s, block, w.shape)).round() + expand(z, block, w.shape)
    return q.clamp(0, most).to(torch.uint8), s, z.to(torch.uint8)


def nf4_table():
    """Quantiles of a normal distribution, as Dettmers et al. have them, appendix E."""
    ppf = lambda p: torch.special.ndtri(torch.tensor(p, dtype=torch.float64)).item()
    offset = 0.9677083
    v = [ppf(p) for p in np.linspace(offset, 0.5, 9)[:-1]] + [0.0]
    v += [-ppf(p) for p in np.linspace(offset, 0.5, 8)[:-1]]
    v = torch.tensor(sorted(v), dtype=torch.float64)
    return v / v.max()


def nf4(w, block):
    table = nf4_table()
    s = torch.stack([b.abs().max() for b in w.split(block)])
    x = w.double() / s.double().repeat_interleave(block)[: len(w)]
    q = (x[:, None] - table).abs().argmin(1)
    if len(q) % 2:
        q = torch.cat([q, torch.zeros(1, dtype=q.dtype)])
    return (q[0::2] << 4 | q[1::2]).to(torch.uint8), s


def formats():
    x = some_floats()
    positive = x[(x > 0) & x.isfinite()]
    t = {
        "e4m3.values": all_codes(E4M3), "e5m2.values": all_codes(E5M2), "e8m0.values": all_codes(E8M0),
        "floats": x, "floats.e4m3": saturating(x, E4M3), "floats.e5m2": saturating(x, E5M2),
        "positive": positive, "positive.e8m0": e8m0_up(positive),
    }  # fmt: skip
    torch.manual_seed(9)
    w = torch.randn(7, 48) * torch.exp2(torch.randn(7, 1))
    w[2] = 0  # a row, and so blocks, of zeros
    w[3] = torch.arange(48) % 16 - 7.5  # ties: with a scale of 1, halves
    w[3, 15::16] = 7
    w[4] = (torch.arange(48) - 24) * 2.5
    w[4, 0] = 127
    t["w"] = w
    for name, block in {"tensor": (7, 48), "channel": (1, 48), "group": (1, 16), "column": (7, 1)}.items():
        q, t[f"u8.{name}.scales"] = integers(w, block, 127)
        t[f"u8.{name}.codes"] = (q.to(torch.int16) + 128).to(torch.uint8)
    for group in (48, 16, 8):
        q, t[f"i4.{group}.scales"] = integers(w, (1, group), 7)
        t[f"i4.{group}.codes"] = halves(q, group)
    for name, dtype, block in (("e4m3", E4M3, (4, 20)), ("e5m2", E5M2, (1, 48))):
        s = absmax(w, block, torch.finfo(dtype).max)
        t[f"{name}.scales"] = s
        t[f"{name}.codes"] = saturating(w / expand(s, block, w.shape), dtype)
    s = absmax(w, (4, 20), 448)
    s = torch.exp2(e8m0_up(s.flatten()).float() - 127).view(s.shape)
    t["e4m3_ue8m0.scales"] = s
    t["e4m3_ue8m0.codes"] = saturating(w / expand(s, (4, 20), w.shape), E4M3)
    shifted = w + 3  # lies to one side of zero
    t["shifted"] = shifted
    t["affine.codes"], t["affine.scales"], t["affine.zeros"] = affine(shifted, (1, 16), 255)
    q, t["affine4.scales"], t["affine4.zeros"] = affine(shifted, (1, 16), 15)
    t["affine4.codes"] = halves(q.to(torch.int8) - 8, 16)
    n = w.flatten()[:95]
    t["nf4.table"] = nf4_table().float()
    t["nf4.codes"], t["nf4.scales"] = nf4(n, 20)
    save("formats", t)


# ---- methods, in float64 ----


def round_int(x, most, margin=2e-5):
    """Half to even; not too close to a tie, for the C side is in float32."""
    assert ((x - x.floor() - 0.5).abs() > margin).all(), "a tie: choose another seed"
    return x.round().clamp(-most, most)


def by_group(w, group, most):
    """w rounded to nearest, [out, in]."""
    g = w.view(w.shape[0], -1, group)
    s = g.abs().amax(2, keepdim=True) / most
    return (round_int(g / torch.where(s == 0, 1.0, s), most) * s).view(w.shape)


def toeplitz(n, dead):
    """X^T X of inputs that are all alike, more so where they are near; test_methods.c has the same."""
    size = 1 + (torch.arange(n) * 7 % 5).double()
    size[dead] = 0
    near = 0.5 + 0.5 * 0.9 ** (torch.arange(n)[:, None] - torch.arange(n)).abs().double()
    return near * size[:, None] * size


def gptq(w, h, group, most, damp=0.01, act_order=False):
    """(w', scales): Optimal Brain Surgeon column by column, with the whole of H^-1 kept up to date."""
    w, h, n = w.clone(), h.clone(), w.shape[1]
    add = damp * h.diag().mean()
    h += torch.diag(torch.where(h.diag() == 0, 1.0, 0.0) + add)
    inverse, quantised = torch.linalg.inv(h), torch.zeros_like(w)
    scales = w.view(w.shape[0], -1, group).abs().amax(2) / most
    order = torch.sort(h.diag(), descending=True, stable=True).indices if act_order else torch.arange(n)
    for step, i in enumerate(order.tolist()):
        if not act_order and step % group == 0:
            scales[:, i // group] = w[:, i : i + group].abs().amax(1) / most
        s = scales[:, i // group]
        quantised[:, i] = round_int(w[:, i] / s, most) * s
        error = (w[:, i] - quantised[:, i]) / inverse[i, i]
        w -= error[:, None] * inverse[i]
        inverse = inverse - inverse[:, i : i + 1] * inverse[i] / inverse[i, i]
    return quantised, scales


def awq(x, weights, group, most):
    """(r, s) of the least sum of squared output errors."""
    losses = []
    for step in range(20):
        s = (x.abs().mean(0) ** (step / 20)).clamp(min=1e-4)
        s = s / (s.max() * s.min()).sqrt()
        losses.append(sum(((by_group(w * s, group, most) / s - w) @ x.T).square().sum() for w in weights))
        if losses[-1] == min(losses):
            best = s
    first, second = sorted(losses)[:2]
    assert second > first * 1.001, "two exponents are as good: choose another seed"
    return losses.index(first) / 20, best


def awq_clip(x, w, group, most):
    clipped = w.clone()
    for r in range(w.shape[0]):
        for g in range(0, w.shape[1], group):
            v, xs, losses = w[r, g : g + group], x[:, g : g + group], []
            for step in range(10):
                s = v.abs().max() * (1 - step / 20) / most
                losses.append((((v / s).round().clamp(-most, most) * s - v) @ xs.T).square().sum())
            first, second = sorted(losses)[:2]
            assert second > first * 1.0005, "two limits are as good: choose another seed"
            limit = v.abs().max() * (1 - losses.index(first) / 20)
            clipped[r, g : g + group] = v.clamp(-limit, limit)
    return clipped


def llmint8(x, w, threshold):
    """bitsandbytes' way: outlier columns apart, a token's scale without its outliers."""
    outlier = (x.abs() >= threshold).any(0)
    assert outlier.sum() == 2
    inside = torch.where(outlier, 0.0, x)
    sx, sw = inside.abs().amax(1, keepdim=True) / 127, w.abs().amax(1, keepdim=True) / 127
    qx, qw = round_int(inside / sx, 127), round_int(w / sw, 127)
    return (qx @ qw.T) * sx * sw.T + x[:, outlier] @ (qw * sw)[:, outlier].T


def methods():
    torch.manual_seed(17)
    f64 = lambda *shape: torch.randn(*shape).double()
    t = {}
    w = f64(5, 160)
    h = toeplitz(160, dead=5)
    t["gptq.w"] = w
    for name, group, act_order in (("row", 160, False), ("group", 32, False), ("order", 32, True)):
        t[f"gptq.{name}"], t[f"gptq.{name}.scales"] = gptq(w, h, group, 7, act_order=act_order)
    torch.manual_seed(15)
    x = f64(60, 32) * torch.exp2(2 * f64(32))
    a, b = f64(12, 32), f64(7, 32)
    r, s = awq(x, [a, b], 16, 7)
    t |= {"x": x, "a": a, "b": b, "awq.s": s, "awq.r": torch.tensor([r]), "awq.clip": awq_clip(x, a, 16, 7)}
    max_w = torch.maximum(a.abs().amax(0), b.abs().amax(0))
    t["smooth.s"] = x.abs().amax(0) ** 0.5 / max_w**0.5
    few = f64(9, 32)
    few[3, 7], few[5, 20] = 6.5, -40
    t |= {"few": few, "llmint8": llmint8(few, a, 6.0)}
    torch.manual_seed(18)
    wide = f64(6, 384)  # groups wider than a batch of columns
    t["gptq.wide.w"] = wide
    t["gptq.wide"], t["gptq.wide.scales"] = gptq(wide, toeplitz(384, dead=5), 192, 7)
    save("methods", {k: v.float() for k, v in t.items()})


def qat():
    """Rows of 24 as three channels of 8 each, so that a channel is a group."""
    torch.manual_seed(16)
    w, c = torch.randn(5, 24), torch.randn(5, 24)
    w[1, 8:16] = 0
    t = {"w": w, "c": c}
    for name, most in (("i4", 7), ("u8", 127)):
        for clip in (1.0, 0.5):
            groups = w.view(15, 8).clone().requires_grad_()
            amax = groups.detach().abs().amax(1)
            s = torch.where(amax == 0, 1.0, clip * amax / most)
            y = torch.fake_quantize_per_channel_affine(groups, s, torch.zeros(15, dtype=torch.int32), 0, -most, most)
            (y * c.view(15, 8)).sum().backward()
            t[f"{name}.{clip}.y"], t[f"{name}.{clip}.grad"] = y.detach().view(5, 24), groups.grad.view(5, 24)
    save("qat", t)


if __name__ == "__main__":
    formats()
    methods()
    qat()
