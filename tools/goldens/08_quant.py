"""Golden files of chapter 08: what PyTorch's own formats make of the same numbers.

    python tools/goldens/08_quant.py        (needs torch, numpy and safetensors)

    formats   every code of the eight-bit floats; floats of all sizes, with every tie between two
              neighbouring codes and what lies beside it; a matrix as INT8, INT4, E4M3, with zero
              points and in NF4
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


if __name__ == "__main__":
    formats()
