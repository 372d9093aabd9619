"""Golden file of chapter 09: the policy loss as TRL 1.16 computes it, from its formulas.

    python tools/goldens/09_grpo.py        (needs torch and safetensors)

A micro-batch of B completions in rows of T places, in float64: prompts, actions, padding. It has

    targets [B, T] I32        the token behind each place; -100: no action
    logp, old, reference, sampler [B, T]; advantages [B]
    NAME.loss [1], NAME.grad [B, T], NAME.stats [5]     of each setting below; grad is by logp
        stats: kl, low, high, ratio (sums over actions; clips of sequences: over sequences), dropped
    logits [B, T, V], support [B, T, V] (1: kept), and of a temperature of 0.7 over all tokens or
    over those kept: logp.NAME, entropy.NAME [B, T], and grad.NAME [B, T, V] of sum(logp * c), c [B, T]

The settings are the list CASES: names of TRL's GRPOConfig. dapo and cispo are told that the step has
TOKENS actions, all of them that they are one of N_ACC micro-batches.
"""
import os

import torch
from safetensors.torch import save_file

OUT = os.path.join(os.path.dirname(__file__), "..", "..", "09_grpo", "goldens")
B, T, V, TOKENS, N_ACC, MAX_LENGTH = 6, 11, 9, 57, 2, 8
DEFAULTS = dict(loss_type="dapo", level="token", epsilon=0.2, epsilon_high=None, delta=None, beta=0.0,
                use_bias_correction_kl=True, off_policy_mask_threshold=None, old=True, sampler=False)  # fmt: skip
CASES = {
    "grpo": dict(loss_type="grpo"),
    "dr_grpo": dict(loss_type="dr_grpo"),
    "bnpo": dict(loss_type="bnpo"),
    "dapo": dict(epsilon_high=0.28),
    "cispo": dict(loss_type="cispo", epsilon_high=1.2),
    "sapo": dict(loss_type="sapo"),
    "on_policy": dict(old=False),
    "delta": dict(delta=1.5),
    "gspo": dict(loss_type="grpo", level="sequence", epsilon=0.05, epsilon_high=0.06),
    "gspo_kl": dict(loss_type="grpo", level="sequence", epsilon=0.05, epsilon_high=0.06, beta=0.1),
    "kl_plain": dict(loss_type="grpo", beta=0.1, use_bias_correction_kl=False),
    "kl_unbiased": dict(loss_type="grpo", beta=0.1),
    "kl_on_policy": dict(loss_type="grpo", beta=0.1, old=False),
    "off_policy_mask": dict(loss_type="grpo", off_policy_mask_threshold=0.05, beta=0.1),
    "off_policy_mask_sampler": dict(loss_type="grpo", off_policy_mask_threshold=0.05, sampler=True),
}


def per_token(c, logp, data):
    """The loss of each token, its KL (or None), the ratio, and which sequences keep their term."""
    mask, adv = data["mask"], data["advantages"][:, None]
    old = data["old"] if c["old"] else logp.detach()
    log_ratio = logp - old
    if c["level"] == "sequence":
        log_ratio = ((log_ratio * mask).sum(-1) / mask.sum(-1).clamp(min=1.0))[:, None]
    r = torch.exp(log_ratio)
    low, high = 1 - c["epsilon"], 1 + (c["epsilon_high"] or c["epsilon"])
    if c["loss_type"] == "cispo":
        loss = -torch.clamp(r, max=c["epsilon_high"]).detach() * adv * logp
        clipped_low, clipped_high = torch.zeros_like(r), (r > c["epsilon_high"]) & (adv > 0)
    elif c["loss_type"] == "sapo":
        tau = torch.where(adv > 0, 1.0, 1.05)
        loss = -torch.sigmoid(tau * (r - 1)) * 4 / tau * adv
        clipped_low = clipped_high = torch.zeros_like(r)
    else:
        bounded = torch.clamp(r, max=c["delta"]) if c["delta"] else r
        loss = -torch.min(bounded * adv, torch.clamp(r, low, high) * adv)
        clipped_low, clipped_high = (r < low) & (adv < 0), (r > high) & (adv > 0)
    loss = loss.expand_as(mask) if loss.shape[1] == 1 else loss
    keep = torch.ones(B, 1)
    if c["off_policy_mask_threshold"] is not None:
        drew = data["sampler"] if c["sampler"] else old
        gap = ((drew - logp.detach()) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1.0)
        keep = ((adv >= 0) | (gap <= c["off_policy_mask_threshold"])).double()
    loss, kl = loss * keep, None
    if c["beta"] != 0:
        d = data["reference"] - logp
        kl = torch.exp(d) - d - 1
        if c["use_bias_correction_kl"]:
            kl = kl * r
        loss = loss + c["beta"] * kl
    return loss, kl, r, clipped_low, clipped_high, keep


def reduce(c, loss, mask):
    kind = c["loss_type"]
    if kind in ("grpo", "sapo"):
        return ((loss * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).mean() / N_ACC
    if kind == "bnpo":
        return (loss * mask).sum() / mask.sum().clamp(min=1.0) / N_ACC
    if kind == "dr_grpo":
        return (loss * mask).sum() / (loss.size(0) * MAX_LENGTH) / N_ACC
    return (loss * mask).sum() / TOKENS  # dapo, cispo


def policy(out, data):
    mask = data["mask"]
    for name, changes in CASES.items():
        c = {**DEFAULTS, **changes}
        logp = data["logp"].clone().requires_grad_()
        loss, kl, r, low, high, keep = per_token(c, logp, data)
        total = reduce(c, loss, mask)
        total.backward()
        over = mask if low.shape[1] > 1 else (mask.sum(1, keepdim=True) > 0).double()
        kl_sum = (kl * mask).sum() if kl is not None else torch.zeros(())
        stats = [kl_sum, (low * over).sum(), (high * over).sum(), (r * mask).sum(),
                 ((1 - keep) * (mask.sum(1, keepdim=True) > 0)).sum()]  # fmt: skip
        out[name + ".loss"], out[name + ".grad"] = total.view(1), logp.grad
        out[name + ".stats"] = torch.stack([x.detach().double() for x in stats])


def logprobs(out, targets):
    logits = (torch.randn(B, T, V) * 2).bfloat16().double()
    support = torch.rand(B, T, V) < 0.5
    some = torch.arange(B * T).view(B, T) % 4 == 1
    support[some] = True  # nothing was cut off there
    actions = targets >= 0
    index = targets.clamp(min=0).long()
    support.scatter_(2, index[..., None], True)
    c = torch.randn(B, T).float().double()
    out["logits"], out["support"], out["c"] = logits, support.double(), c
    for name, kept in (("all", torch.ones_like(support)), ("kept", support)):
        z = logits.clone().requires_grad_()
        log_p = (z / 0.7).masked_fill(~kept, -torch.inf).log_softmax(-1)
        logp = log_p.gather(-1, index[..., None])[..., 0] * actions
        p = log_p.exp()
        entropy = -(p * log_p.masked_fill(~kept, 0)).sum(-1) * actions
        (logp * c).sum().backward()
        out["logp." + name], out["entropy." + name], out["grad." + name] = logp, entropy, z.grad


def main():
    torch.manual_seed(12)
    targets = torch.full((B, T), -100)
    for b, (prompt, length) in enumerate([(2, 8), (3, 1), (1, 5), (4, 7), (2, 0), (3, 6)]):
        targets[b, prompt - 1 : prompt - 1 + length] = torch.randint(0, V, (length,))

    def floats(scale):
        return (torch.randn(B, T) * scale).float().double()

    logp = -floats(1).abs() - 0.1
    data = {"logp": logp.float().double(), "mask": (targets >= 0).double(),
            "advantages": torch.tensor([1.25, -0.75, -1.5, 0.5, 1.0, -0.25], dtype=torch.float64)}  # fmt: skip
    data["old"] = (data["logp"] + floats(0.3)).float().double()
    data["reference"] = (data["logp"] + floats(0.5)).float().double()
    data["sampler"] = (data["old"] + floats(0.1)).float().double()
    out = {k: v for k, v in data.items() if k != "mask"}
    policy(out, data)
    logprobs(out, targets)
    out = {k: v.detach().float().contiguous() for k, v in out.items()}
    out["targets"] = targets.int().contiguous()
    os.makedirs(OUT, exist_ok=True)
    path = os.path.join(OUT, "policy.safetensors")
    save_file(out, path, metadata={"made_by": "tools/goldens/09_grpo.py", "torch": torch.__version__.split("+")[0]})
    print(path, os.path.getsize(path), "bytes")


if __name__ == "__main__":
    main()
