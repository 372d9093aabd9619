#!/usr/bin/env python3
"""Golden file of V3.2's indexer: what it learns from attention, by PyTorch's autograd.

    python tools/goldens/10_sparse.py      needs torch and safetensors

The formulas of V3.2's report (section 2.1.1) as others wrote them down, with their 1e-10: p is the softmax of attention
added up over the heads and divided by its sum; L the mean over tokens of sum p (log(p + 1e-10) - log(softmax(I) + 1e-10)).
Warm-up: over all tokens before. Sparse: one mask of minus infinity on both scores before each softmax.

    q, k [B, T, H, D]   iq [B, T, Hi, Di]   ik [B, T, Di]   iw [B, T, Hi]   selected I32 [B, T, K], -1 behind the last
    STAGE.loss [1]   STAGE.grad.iq, .ik, .iw   STAGE.lse [B, H, T], of attention          STAGE: warmup, sparse
"""
import pathlib

import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parents[2] / "10_full_model/goldens/index_loss.safetensors"
B, T, H, D, HI, DI, K = 2, 37, 3, 10, 4, 8, 6
SCALE, INDEX_SCALE = D**-0.5, (HI * DI) ** -0.5


def index_scores(iq, ik, iw):
    return INDEX_SCALE * torch.einsum("bth,bhts->bts", iw, torch.einsum("bthd,bsd->bhts", iq, ik).relu())


def loss(q, k, iq, ik, iw, mask):
    """mask [B, T, T]: 0, or minus infinity where a query does not look."""
    attention = torch.einsum("bthd,bshd->bhts", q, k) * SCALE + mask[:, None]
    p = attention.softmax(-1).sum(1)
    p = p / p.sum(-1, keepdim=True)
    chosen = (index_scores(iq, ik, iw) + mask).softmax(-1)
    divergence = (p * ((p + 1e-10).log() - (chosen + 1e-10).log())).sum(-1)
    return divergence.mean(), attention.logsumexp(-1)


def main():
    torch.manual_seed(1)
    q, k = torch.randn(B, T, H, D), torch.randn(B, T, H, D)
    iq, ik, iw = torch.randn(B, T, HI, DI), torch.randn(B, T, DI), torch.randn(B, T, HI)
    future = torch.full((T, T), float("-inf")).triu(1).expand(B, T, T)
    best = (index_scores(iq, ik, iw) + future).topk(K)
    selected = best.indices.masked_fill(best.values == float("-inf"), -1)
    chosen = torch.full((B, T, T), float("-inf")).double()
    for b in range(B):
        for t in range(T):
            chosen[b, t, selected[b, t][selected[b, t] >= 0]] = 0
    tensors = dict(q=q, k=k, iq=iq, ik=ik, iw=iw, selected=selected.int())
    for stage, mask in ("warmup", future.double()), ("sparse", chosen):
        inputs = [x.double().requires_grad_() for x in (iq, ik, iw)]
        value, lse = loss(q.double(), k.double(), *inputs, mask)
        value.backward()
        tensors[stage + ".loss"], tensors[stage + ".lse"] = value.detach().float().view(1), lse.float()
        for name, x in zip(("iq", "ik", "iw"), inputs):
            tensors[f"{stage}.grad.{name}"] = x.grad.float()
        print(stage, value.item())
    save_file({n: t.contiguous() for n, t in tensors.items()}, OUT,
              metadata={"made_by": "tools/goldens/10_sparse.py", "torch": torch.__version__.split("+")[0]})  # fmt: skip


if __name__ == "__main__":
    main()
