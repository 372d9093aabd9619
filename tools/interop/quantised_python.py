#!/usr/bin/env python3
"""Does transformers open what `deepseek quantize` writes, and with the same numbers?

Random models are written by transformers and quantised by 10_full_model/deepseek: FP8 in DeepSeek's
layout, INT8 and INT4 as compressed-tensors packs them. Each folder is opened by transformers on a CPU in
its own dtype, BF16 or F32, beside the plain folder that `deepseek convert --dequantize` makes of it: all
weights and all logits must be equal, bit by bit. `deepseek logits` on the quantised folder must be those
of transformers in F32, on the dequantised weights, but for the order of sums.

    tools/interop/quantised_python.py [DIR TEXT]    needs torch, safetensors, transformers, accelerate and
                                                    compressed-tensors; make 10_full_model first. DIR: a
                                                    plain model to begin with, instead of random ones, and
                                                    TEXT for the methods that look at one
"""
import pathlib
import sys
import tempfile

import torch
from full_model_python import SIZES, YARN, deepseek, load, ours, random_model, relative

EVEN = dict(
    SIZES, vocab_size=300, hidden_size=128, intermediate_size=256, kv_lora_rank=128, q_lora_rank=128, qk_nope_head_dim=32,
    qk_rope_head_dim=32, v_head_dim=32, moe_intermediate_size=128, num_attention_heads=4, num_key_value_heads=4,
)  # fmt: skip
MODELS = {
    "V3": ("deepseek_v3", dict(EVEN, n_group=4, topk_group=2, rope_parameters=YARN)),
    "V3 ragged": ("deepseek_v3", dict(EVEN, q_lora_rank=96, kv_lora_rank=48, v_head_dim=24, moe_intermediate_size=64, attention_bias=True)),
    "V2, tied": ("deepseek_v2", dict(EVEN, q_lora_rank=None, n_shared_experts=2, tie_word_embeddings=True)),
}  # fmt: skip
DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}
WAYS = {
    "FP8": ["--to", "fp8"],
    "INT8, rows": ["--to", "int8", "--group", 0],
    "INT8, groups of 64": ["--to", "int8", "--group", 64],
    "INT4, groups of 64": ["--to", "int4", "--group", 64],
    "INT4, groups of 32": ["--to", "int4", "--group", 32],
    "INT8, head too": ["--to", "int8", "--group", 0, "--head"],
    "INT4, head too": ["--to", "int4", "--group", 64, "--head"],
}


METHODS = {"gptq": "int4", "awq": "int4", "smoothquant": "int8", "llmint8": "int8"}


def compare(name, plain, way, scratch):
    few, many = scratch / "few", scratch / "many"
    torch.manual_seed(3)
    for weights, dtype in DTYPES.items():
        deepseek("quantize", "--model", plain, "--out", few, *WAYS[way], "--weights", weights, "--shard-mb", 0.5, "--overwrite")
        deepseek("convert", "--model", few, "--out", many, "--dequantize", "--overwrite")
        theirs, wanted = load(few, dtype="auto").eval(), load(many, dtype=dtype).eval()
        ids = torch.randint(0, theirs.config.vocab_size, (2, 40))
        for (k, a), (_, b) in zip(theirs.state_dict().items(), wanted.state_dict().items(), strict=True):
            if a.dtype != b.dtype or not torch.equal(a, b):
                sys.exit(f"{name}, {way}, {weights}: {k} is not the dequantised weight ({a.dtype}, {b.dtype})")
        with torch.no_grad():
            a, b = theirs(ids).logits, wanted(ids).logits
        if not torch.equal(a, b):
            sys.exit(f"{name}, {way}, {weights}: logits differ by {relative(a, b):.1e}")
    distance = relative(ours(few, ids, scratch)["logits"], a)
    if not distance <= 2e-5:
        sys.exit(f"{name}, {way}: our logits are {distance:.1e} away")
    print(f"{name:10} {way:19} BF16 and F32: 0 difference   ours in F32: {distance:.0e}")


def main():
    if len(sys.argv) not in (1, 3):
        sys.exit(__doc__)
    given = sys.argv[1:2]
    for method, to in METHODS.items() if given else ():
        WAYS[method] = ["--method", method, "--to", to, "--calibrate", sys.argv[2]]
    for name, (model_type, settings) in {given[0]: (None, {})}.items() if given else MODELS.items():
        with tempfile.TemporaryDirectory() as scratch:
            scratch = pathlib.Path(scratch)
            plain = pathlib.Path(name) if given else scratch / "plain"
            torch.manual_seed(7)
            if not given:
                random_model(model_type, settings).save_pretrained(plain)
            for way in WAYS:
                compare(name, plain, way, scratch)
    print("all the same")


if __name__ == "__main__":
    main()
