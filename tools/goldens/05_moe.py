"""Golden files of chapter 05: what transformers computes for the same weights.

    python tools/goldens/05_moe.py        (needs torch, safetensors and transformers)

Inputs and weights are numbers that BF16 holds exactly, so that a BF16 model starts from the same
ones; all that is not the router is computed in float64 (the router of transformers is float32
always). The loss whose gradients are kept is sum(y * c) for a constant c. A choice between two
nearly equal scores would test rounding, not routing: the seed is moved until all are clear.

    v3_moe       DeepseekV3MoE: sigmoid, bias, groups, shared experts; y and all gradients
    v3_gate      DeepseekV3TopkRouter with bias and groups, without norm_topk_prob
    v2_greedy    DeepseekV2TopkRouter: softmax, greedy
    v2_groups    DeepseekV2TopkRouter: softmax, group_limited_greedy, scaling

Choices have no order in transformers, so the gates' weights are stored as a matrix [tokens,
experts] with zeros where an expert was not chosen.
"""
import os

import torch
from safetensors.torch import save_file
from transformers import DeepseekV2Config, DeepseekV3Config
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE, DeepseekV3TopkRouter

OUT = os.path.join(os.path.dirname(__file__), "..", "..", "05_moe", "goldens")
ABOUT = {"made_by": "tools/goldens/05_moe.py", "torch": torch.__version__.split("+")[0]}


def normal(*shape, std=1.0):
    """Numbers that BF16 holds exactly, as float64."""
    return (torch.randn(*shape) * std).bfloat16().double()


def save(name, tensors):
    os.makedirs(OUT, exist_ok=True)
    rounded = {k: v.detach().float().contiguous() for k, v in tensors.items()}
    save_file(rounded, os.path.join(OUT, name + ".safetensors"), metadata=ABOUT)


def margin(values, k):
    """The smallest distance between the k-th and the next largest value of a row."""
    best = values.sort(dim=-1, descending=True).values
    return (best[..., k - 1] - best[..., k]).min().item()


def is_clear(choice, groups, topk_group, best, k, enough=1e-3):
    """Would every choice survive an error of that size?"""
    rows, experts = choice.shape
    grouped = choice.view(rows, groups, experts // groups)
    score = grouped.topk(best, dim=-1).values.sum(-1)
    if topk_group < groups and margin(score, topk_group) < enough:
        return False
    kept = torch.zeros_like(score).scatter(1, score.topk(topk_group, dim=-1).indices, 1)
    open_ = kept.unsqueeze(-1).expand_as(grouped).reshape(rows, experts) > 0
    return margin(choice.masked_fill(~open_, -9.0), k) > enough


def v3_moe(tokens=33, hidden=24, inner=10, experts=8, groups=4, topk_group=2, k=3, shared=2):
    config = DeepseekV3Config(
        hidden_size=hidden, moe_intermediate_size=inner, n_routed_experts=experts,
        n_shared_experts=shared, num_experts_per_tok=k, n_group=groups, topk_group=topk_group,
        norm_topk_prob=True, routed_scaling_factor=2.5)
    config._experts_implementation = "eager"
    for seed in range(1000):
        torch.manual_seed(seed)
        module = DeepseekV3MoE(config).double()
        with torch.no_grad():
            for p in module.parameters():
                p.copy_(normal(*p.shape, std=p.shape[-1] ** -0.5))
            module.gate.e_score_correction_bias = normal(experts, std=0.2).float()
        x = normal(1, tokens, hidden).requires_grad_()
        choice = (x[0] @ module.gate.weight.T).sigmoid() + module.gate.e_score_correction_bias
        if is_clear(choice.detach(), groups, topk_group, 2, k):
            break
    else:
        raise SystemExit("v3_moe: no seed makes every choice clear")
    c = normal(1, tokens, hidden)
    y = module(x)
    (y * c).sum().backward()
    out = {"x": x, "y": y, "c": c, "grad.x": x.grad, "bias": module.gate.e_score_correction_bias}
    gate_up, down = module.experts.gate_up_proj, module.experts.down_proj
    names = {"gate.weight": (module.gate.weight, module.gate.weight.grad),
             "experts.gate_proj": (gate_up[:, :inner], gate_up.grad[:, :inner]),
             "experts.up_proj": (gate_up[:, inner:], gate_up.grad[:, inner:]),
             "experts.down_proj": (down, down.grad)}
    for which in ("gate_proj", "up_proj", "down_proj"):
        p = getattr(module.shared_experts, which).weight
        names["shared_experts." + which] = (p, p.grad)
    for name, (p, grad) in names.items():
        out[name], out["grad." + name] = p, grad
    save("v3_moe", out)


def gate(name, make, score, groups, topk_group, best, k, tokens=31, hidden=20, experts=12):
    for seed in range(1000):
        torch.manual_seed(seed)
        module = make(hidden, experts, groups, topk_group, k)
        bias = getattr(module, "e_score_correction_bias", None)
        with torch.no_grad():
            module.weight.copy_(normal(experts, hidden, std=hidden**-0.5))
            if bias is not None:
                bias.copy_(normal(experts, std=0.2))
        x = normal(tokens, hidden).float().requires_grad_()
        choice = score(x @ module.weight.T) + (0 if bias is None else bias)
        # The scores of a softmax over twelve are about a tenth of a sigmoid's: so is the margin.
        if is_clear(choice.detach(), groups, topk_group, best, k, 1e-4):
            break
    else:
        raise SystemExit(name + ": no seed makes every choice clear")
    _, weights, indices = module(x)
    dense = torch.zeros(tokens, experts).scatter(1, indices, weights)
    c = normal(tokens, experts).float()
    (dense * c).sum().backward()
    out = {"x": x, "weight": module.weight, "dense": dense, "c": c, "grad.x": x.grad,
           "grad.weight": module.weight.grad}
    save(name, out if bias is None else {**out, "bias": bias})


def v2(method, scaling):
    def make(hidden, experts, groups, topk_group, k):
        return DeepseekV2TopkRouter(DeepseekV2Config(
            hidden_size=hidden, num_attention_heads=1, n_routed_experts=experts,
            num_experts_per_tok=k, n_group=groups, topk_group=topk_group, topk_method=method,
            routed_scaling_factor=scaling)).float()
    return make


def v3(hidden, experts, groups, topk_group, k):
    return DeepseekV3TopkRouter(DeepseekV3Config(
        hidden_size=hidden, n_routed_experts=experts, num_experts_per_tok=k, n_group=groups,
        topk_group=topk_group, norm_topk_prob=False, routed_scaling_factor=1.5)).float()


def softmax(z):
    return z.softmax(-1)


v3_moe()
gate("v3_gate", v3, torch.sigmoid, groups=4, topk_group=2, best=2, k=3)
gate("v2_greedy", v2("greedy", 1.0), softmax, groups=1, topk_group=1, best=1, k=4)
gate("v2_groups", v2("group_limited_greedy", 16.0), softmax, groups=3, topk_group=2, best=1, k=3)
