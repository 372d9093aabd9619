#!/usr/bin/env python3
"""Golden file of config.json: what transformers makes of every key, absent, null and in every spelling.

    python tools/goldens/10_configs.py      needs torch and transformers

10_full_model/goldens/configs.json holds, for each case, an edit of a folder of goldens/ and what
became of it:

    base     the folder, said once for a type: its own values are the first case, without an edit
    drop     keys that are taken out of config.json; "rope_parameters.factor" is a key of an object
    set      keys that are put in, or replaced
    raw      text put before the last brace, for keys that stand there twice
    values   settings that came out otherwise than the base's; null: none
    rope     inverse frequencies, factor on cos and sin, factor on the softmax (where not as the base's)
    logits   of the last of 13 tokens, the first four, in float32: the folder's weights under this
             config (where not as the base's)
    refused  transformers stops with this (or the weights do not fit, and nothing is computed)
    ours     where we differ on purpose: "reads it" what transformers refuses (the reason is in OURS),
             or a part of the message with which we refuse what it computes

deepseek_v32 has no folder here: its cases are v3's config under another type, without logits.
"""
import contextlib
import copy
import io
import json
import logging
import pathlib
import tempfile
import warnings

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3RotaryEmbedding
from transformers.utils import logging as transformers_logging

OUT = pathlib.Path(__file__).resolve().parents[2] / "10_full_model/goldens"
SAID_BY = "model_type vocab_size hidden_size num_hidden_layers intermediate_size num_attention_heads q_lora_rank " \
    "kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim attention_bias n_routed_experts " \
    "first_k_dense_replace moe_intermediate_size num_experts_per_tok n_shared_experts n_group topk_group " \
    "norm_topk_prob routed_scaling_factor max_position_embeddings rms_norm_eps initializer_range " \
    "tie_word_embeddings bos_token_id eos_token_id".split()  # fmt: skip
ONLY = {"deepseek_v3": ["rope_interleave", "num_nextn_predict_layers"], "deepseek_v2": ["topk_method"],
        "deepseek_v32": ["index_n_heads", "index_head_dim", "index_topk"]}  # fmt: skip
ROPE = "rope_theta rope_type factor original_max_position_embeddings beta_fast beta_slow mscale mscale_all_dim " \
    "attention_factor truncate partial_rotary_factor".split()  # fmt: skip
READ_BY_LINEAR = "rope_theta factor mscale_all_dim partial_rotary_factor".split()
YARN = dict(rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=32)


READS = "reads it"
# What we make of a case on purpose. JSON has one kind of number, so 12.0 is 12 and 2 is 2.0, which
# transformers' strict types refuse; a missing num_key_value_heads is num_attention_heads, whatever the
# default. What it ignores although a file asks for it (another router, dense layers between, biases)
# we refuse, for the numbers would be another model's; and what is a mistake, where it only warns.
OURS = {
    **dict.fromkeys(["hidden_size 12.0", "num_experts_per_tok 2.0", "max_position_embeddings 64.0", "routed_scaling_factor 2",
                     "rms_norm_eps 1", "hidden_act null", "mlp_bias null", "num_key_value_heads absent"], READS),
    "num_key_value_heads 2": "num_key_value_heads is 2", 'hidden_act "gelu"': "hidden_act is gelu", "mlp_bias true": "mlp_bias is true",
    "moe_layer_freq 2": "moe_layer_freq is 2", "rope_type dynamic": "rope_type is dynamic",
    "default: rope_theta 1": "rope_theta is 1", "linear: rope_theta 1": "rope_theta is 1",
    "linear: factor 0.5": "factor is 0.5", "linear: factor true": "factor is not a number",
    "yarn: factor 0.5": "factor is 0.5", "yarn: factor true": "factor is not a number",
    "yarn: beta_fast 0.5": "beta_fast must be the larger", "yarn: beta_slow 32": "beta_fast must be the larger",
    "yarn: mscale -1.0": "mscale is -1", "yarn: attention_factor 0": "attention_factor is 0",
    "yarn: attention_factor 0.0": "attention_factor is 0", "yarn: attention_factor -1.0": "attention_factor is -1",
    "yarn: truncate null": "truncate is null", "yarn: truncate false": "truncate is false",
}  # fmt: skip
OURS_OF = {
    "deepseek_v3": {'scoring_func "softmax"': "scoring_func is softmax", 'topk_method "greedy"': "topk_method of a deepseek_v3 model",
                    'topk_method "group_limited_greedy"': "topk_method of a deepseek_v3 model", 'topk_method "best"': "topk_method is best"},
    "deepseek_v2": {'scoring_func "sigmoid"': "scoring_func is sigmoid", "attention_bias absent": "the files hold 6 tensors",
                    "num_hidden_layers 1": "the files hold"},
    # only counted here: what V3 refuses when it computes, V3.2 has to refuse when it reads
    "deepseek_v32": {
        'scoring_func "softmax"': "scoring_func is softmax", 'topk_method "greedy"': "topk_method of a deepseek_v32 model",
        'topk_method "group_limited_greedy"': "topk_method of a deepseek_v32 model", 'topk_method "best"': "topk_method is best",
        'hidden_act "SiLU"': "hidden_act is SiLU", "num_attention_heads absent": "num_key_value_heads is 3", "q_lora_rank absent": "q_lora_rank (1536)",
        "q_lora_rank 0": "q_lora_rank must be", "kv_lora_rank absent": "kv_lora_rank (512)", "n_routed_experts absent": "n_group (3)",
        "num_experts_per_tok absent": "num_experts_per_tok is 8", "n_group absent": "n_group (8)", "n_group 1": "topk_group is 2",
        "topk_group absent": "topk_group is 4", "num_local_experts beside n_routed_experts": "n_group (3)",
        "num_experts beside n_routed_experts": "n_group (3)", "groups that do not divide the experts": "n_group (4)",
        "num_key_value_heads 1": "num_key_value_heads is 1", "num_key_value_heads 6": "num_key_value_heads is 6",
        **dict.fromkeys(["n_routed_experts null", "norm_topk_prob null", "num_key_value_heads null", "head_dim null"], READS)},
}  # fmt: skip


def apply(config, case):
    """The text of config.json after the edit."""
    config = copy.deepcopy(config)
    for key in case.get("drop", []):
        *path, last = key.split(".")
        (config[path[0]] if path else config).pop(last, None)
    for key, value in case.get("set", {}).items():
        *path, last = key.split(".")
        (config.setdefault(path[0], {}) if path else config)[last] = value
    text = json.dumps(config)
    return text[:-1] + ", " + case["raw"] + "}" if "raw" in case else text


def run(base, case):
    """values, rope, logits or refused."""
    source = json.loads((OUT / base / "config.json").read_text())
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "config.json").write_text(apply(source, case))
        for file in (OUT / base).iterdir():
            if file.name != "config.json":
                (folder / file.name).symlink_to(file)
        try:
            config = AutoConfig.from_pretrained(folder)
            kind = config.model_type
            out["values"] = {key: getattr(config, key, None) for key in SAID_BY + ONLY[kind]}
            rotary = DeepseekV3RotaryEmbedding(config)
            parameters = config.rope_parameters
            softmax = 1.0
            if parameters.get("rope_type", "default") != "default" and parameters.get("mscale_all_dim", 0):
                from transformers.models.deepseek_v3.modeling_deepseek_v3 import yarn_get_mscale

                softmax = yarn_get_mscale(parameters["factor"], parameters["mscale_all_dim"]) ** 2
            out["rope"] = [*rotary.inv_freq.tolist(), rotary.attention_scaling, softmax]
            if kind == "deepseek_v32":
                return out
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager",
                output_loading_info=True, ignore_mismatched_sizes=False)  # fmt: skip
            if info["missing_keys"]:
                raise ValueError(f"missing weights: {sorted(info['missing_keys'])[0]}")
            ids = load_file(OUT / base / "expected.safetensors")["input_ids"][:1].long()
            with torch.no_grad():
                out["logits"] = model(ids).logits[0, -1, :4].tolist()
        except Exception as problem:  # whatever it is: it does not run
            text = str(problem).strip().splitlines() or [""]
            out["refused"] = f"{type(problem).__name__}: {text[0][:70]}"
    return out


def spellings(key, value):
    yield dict(name=f"{key} absent", drop=[key])
    yield dict(name=f"{key} null", set={key: None})
    for v in value:
        yield dict(name=f"{key} {json.dumps(v)}", set={key: v})


def plain_cases(kind):
    others = {
        "num_experts_per_tok": [3, 2.0], "n_group": [2, 1], "topk_group": [1, 3], "first_k_dense_replace": [0, 2],
        "norm_topk_prob": [False, True, 1], "routed_scaling_factor": [2, 0.5], "rms_norm_eps": [1e-3, 1],
        "attention_bias": [0], "tie_word_embeddings": [True, 1, 0], "hidden_size": [12.0, "12", True, 1e300],
        "num_hidden_layers": [1, 4], "max_position_embeddings": [64, 64.0], "n_shared_experts": [0], "eos_token_id": [[5, 6]],
        "n_routed_experts": [0], "q_lora_rank": [0], "qk_rope_head_dim": [7],
    }  # fmt: skip
    for key in SAID_BY[1:] + ONLY[kind]:
        yield from spellings(key, others.get(key, []))
    yield from spellings("num_key_value_heads", [1, 2, 6])
    yield from spellings("head_dim", [8, 14])
    yield from spellings("hidden_act", ["swish", "gelu", "SiLU"])
    yield from spellings("mlp_bias", [False, True])
    yield from spellings("scoring_func", ["sigmoid", "softmax"])
    yield from spellings("topk_method", ["noaux_tc", "greedy", "group_limited_greedy", "best"])
    yield from spellings("moe_layer_freq", [1, 2])
    yield from spellings("dtype", ["bfloat16"])
    yield from spellings("torch_dtype", ["float16"])
    yield from spellings("rope_interleave", [True, False])
    yield dict(name="num_local_experts for n_routed_experts", drop=["n_routed_experts"], set={"num_local_experts": 6})
    yield dict(name="num_experts for n_routed_experts", drop=["n_routed_experts"], set={"num_experts": 6})
    yield dict(name="num_local_experts beside n_routed_experts", set={"num_local_experts": 4})
    yield dict(name="num_experts beside n_routed_experts", set={"num_experts": 4})
    yield dict(name="num_mtp_layers", drop=["num_nextn_predict_layers"], set={"num_mtp_layers": 2})
    yield dict(name="num_mtp_layers beside num_nextn_predict_layers", set={"num_mtp_layers": 2})
    yield dict(name="groups that do not divide the experts", set={"n_group": 4})
    yield dict(name="num_experts_per_tok twice", raw='"num_experts_per_tok": 1')
    yield dict(name="an unknown key", set={"a_key_of_tomorrow": {"a": [1, None]}})


def rope_cases(kind):
    """Of V2, which shares the code, the longest type alone."""
    p = "rope_parameters"
    drop = [p, "rope_scaling", "rope_theta"]
    yield dict(name="no positions at all", drop=drop)
    yield dict(name="rope_parameters null", drop=drop, set={p: None})
    yield dict(name="rope_parameters {}", drop=drop, set={p: {}})
    yield dict(name="rope_theta alone", drop=drop, set={"rope_theta": 50})
    yield dict(name="rope_theta null", drop=drop, set={"rope_theta": None})
    yield dict(name="rope_theta beside the one inside", drop=drop, set={p: {"rope_theta": 100.0, "rope_type": "default"}, "rope_theta": 50.0})
    yield dict(name="rope_theta beside rope_parameters without", drop=drop, set={p: {"rope_type": "default"}, "rope_theta": 50.0})
    yield dict(name="rope_scaling null beside rope_parameters", drop=drop, set={p: YARN, "rope_scaling": None})
    yield dict(name="rope_scaling {} beside rope_parameters", drop=drop, set={p: YARN, "rope_scaling": {}})
    yield dict(name="rope_scaling beside rope_parameters", drop=drop, set={p: YARN, "rope_scaling": {"type": "linear", "factor": 4.0}})
    yield dict(name="the same, rope_theta outside", drop=drop, set={p: YARN, "rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 70})
    yield dict(name="rope_scaling a string", drop=drop, set={"rope_scaling": "yarn"})
    yield dict(name="rope_scaling without a type", drop=drop, set={"rope_scaling": {"factor": 4.0}, "rope_theta": 100})
    yield dict(name="type and rope_type", drop=drop, set={p: {"type": "yarn", "rope_type": "linear", "factor": 4.0, "rope_theta": 100.0}})
    yield dict(name="rope_type null beside type", drop=drop, set={p: {"type": "linear", "rope_type": None, "factor": 4.0, "rope_theta": 100.0}})
    for name in ["dynamic", "llama3", "longrope", "ntk", "mrope", "su", "YARN", ""]:
        yield dict(name=f"rope_type {name}", drop=drop, set={p: dict(YARN, rope_type=name)})
    yield dict(name="rope_parameters twice", drop=drop, raw='"rope_parameters": {"rope_theta": 3.0}, "rope_parameters": ' + json.dumps(YARN))
    yield dict(name="factor twice", drop=drop, raw='"rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 100.0, "factor": 5}')
    others = {
        "rope_theta": [1000, 10000.0, 1e6, 1], "factor": [1, 2.5, 0.5, "4", True, 1e6], "beta_fast": [0, 1, 1.0, 20, 0.5], "beta_slow": [0, 4, 32, 2.5],
        "mscale": [0, 0.707, 1, 2.0, -1.0], "mscale_all_dim": [0, 0.707, 1, 2.0], "attention_factor": [0, 0.0, 1.0, 2, 1.5, -1.0],
        "original_max_position_embeddings": [16, 32.0, 128, 256, 1], "truncate": [True, False], "partial_rotary_factor": [1.0, 1, 0.5],
    }  # fmt: skip
    for rope_type in ["default", "linear", "yarn"] if kind == "deepseek_v3" else ["yarn"]:
        start = dict(YARN, rope_type=rope_type, beta_fast=4.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=0.6)
        if rope_type == "default":
            start = dict(rope_type="default", rope_theta=100.0)
        for key in ROPE:
            if key == "rope_type":
                continue
            unread = rope_type == "default" and key != "rope_theta" or rope_type == "linear" and key not in READ_BY_LINEAR
            for case in spellings(key, others[key][-1:] if unread else others[key]):
                inside = {k: v for k, v in start.items() if k not in case.get("drop", [])}
                inside.update(case.get("set", {}))
                yield dict(name=f"{rope_type}: {case['name']}", drop=drop, set={p: inside})
        old = {k: v for k, v in start.items() if k not in ["rope_theta", "rope_type"]}
        yield dict(name=f"{rope_type}, old spelling", drop=drop, set={"rope_scaling": dict(old, type=rope_type), "rope_theta": 100})
    yield dict(name="mscale without mscale_all_dim", drop=drop, set={p: dict(YARN, mscale=0.7)})
    yield dict(name="mscale_all_dim without mscale", drop=drop, set={p: dict(YARN, mscale_all_dim=0.7)})
    yield dict(name="equal betas", drop=drop, set={p: dict(YARN, beta_fast=1.0, beta_slow=1.0)})
    yield dict(name="equal betas, and one frequency exactly there", drop=drop, set={p: dict(YARN, beta_fast=32, beta_slow=32)})
    yield dict(name="null factor, no mscale_all_dim", drop=drop, set={p: dict(YARN, factor=None)})
    yield dict(name="original_max_position_embeddings outside", drop=drop, set={p: YARN, "original_max_position_embeddings": 16})
    yield dict(name="original_max_position_embeddings outside alone", drop=drop,
               set={p: {k: v for k, v in YARN.items() if k[0] != "o"}, "original_max_position_embeddings": 16})  # fmt: skip
    yield dict(name="partial_rotary_factor outside", set={"partial_rotary_factor": 0.5})


def differences(out, base):
    """Only what an edit changed."""
    if "values" in out:
        out["values"] = {k: v for k, v in out["values"].items() if k not in base["values"] or v != base["values"][k]}
    for key in ["rope", "logits"]:
        if key in out and out[key] == base.get(key):
            del out[key]
    return {k: [float(f"{x:.7g}") for x in v] if k in ["rope", "logits"] else v for k, v in out.items() if v != {}}


def main():
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity(logging.CRITICAL)
    lines, ran = [], 0
    for base, kind in [("v3", "deepseek_v3"), ("v2_groups_shards", "deepseek_v2"), ("v3", "deepseek_v32")]:
        start = {"set": {"model_type": kind}} if kind == "deepseek_v32" else {}
        with contextlib.redirect_stderr(io.StringIO()):
            own = run(base, start)
        cases = [dict(start, name="as it is"), *plain_cases(kind), *(rope_cases(kind) if kind != "deepseek_v32" else [])]
        for i, case in enumerate(cases):
            if kind == "deepseek_v32":
                case = dict(case, set={**case.get("set", {}), "model_type": kind})
            with contextlib.redirect_stderr(io.StringIO()):
                out = run(base, case)
            ran += "logits" in out
            ours = OURS_OF[kind].get(case["name"], OURS.get(case["name"]))
            result = {**({"base": base} if i == 0 else {}), "type": kind, **case, **(out if i == 0 else differences(out, own))}
            if ours and ("refused" in out) == (ours == READS):
                result["ours"] = ours
            lines.append(json.dumps(result, separators=(",", ":")))
    path = OUT / "configs.json"
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    print(f"{path.name}: {len(lines)} cases, {ran} with logits, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
