#!/usr/bin/env python3
"""Golden files of chapter 10: small quantised checkpoints, and what their weights and logits are.

    python tools/goldens/10_quantised.py [NAME...]      needs torch, safetensors, transformers and compressed-tensors

fp8 is written here as DeepSeek writes V3 and its successors: ragged tiles; scales as F32, BF16, F8_E8M0 and U8; as
weight_scale_inv and as scale; a module for multi-token prediction. (transformers 5.24 does not open such matrices:
its logits are those of the dequantised model.) The others are packed by compressed-tensors' own compressor, with
its scales, and opened by transformers:

    int4_groups   INT4, groups of 32, scales in BF16
    int4_rows     INT4, a scale a row, rows of 36 numbers: half a word is left at their ends
    int8_rows     INT8, a scale a row, rows of 30

Beside each folder's files, expected.safetensors:

    input_ids [2, 13]   logits, in float64
    crc.NAME            of every weight's numbers as F32, named and cut as in a plain file: CRC-32, as I64
"""
import importlib
import json
import pathlib
import shutil
import sys
import tempfile
import zlib

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

plain = importlib.import_module("10_full_model")

SIZES = dict(vocab_size=20, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, n_routed_experts=4,
             q_lora_rank=None)  # fmt: skip
MODELS = {
    "fp8": dict(SIZES, hidden_size=136, intermediate_size=24, moe_intermediate_size=12, n_routed_experts=2, kv_lora_rank=16,
                qk_nope_head_dim=60, qk_rope_head_dim=8, v_head_dim=16, num_mtp_layers=1, tie_word_embeddings=True),
    "int4_groups": dict(SIZES, hidden_size=64, intermediate_size=96, moe_intermediate_size=32, kv_lora_rank=32, v_head_dim=16),
    "int4_rows": dict(SIZES, hidden_size=36, intermediate_size=36, moe_intermediate_size=36, kv_lora_rank=36, v_head_dim=18),
    "int8_rows": dict(SIZES, hidden_size=30, intermediate_size=30, moe_intermediate_size=30, kv_lora_rank=30, v_head_dim=15),
}  # fmt: skip


def is_linear(name):
    return (".self_attn." in name or ".mlp." in name) and name.endswith(("_proj.weight", "_with_mqa.weight"))


# ---- DeepSeek's FP8 ----


def tiles(t):
    """Each tile's largest |number|, a row of tiles after the other; and how to repeat a number over its tile."""
    out, inner = t.shape
    padded = torch.zeros(-(-out // 128) * 128, -(-inner // 128) * 128)
    padded[:out, :inner] = t
    amax = padded.abs().unflatten(0, (-1, 128)).unflatten(2, (-1, 128)).amax((1, 3))
    return amax, lambda s: s.repeat_interleave(128, 0).repeat_interleave(128, 1)[:out, :inner]


def fp8(name, weight, kind):
    """The tensors of a weight, and its numbers. kind: how the scale is written."""
    amax, spread = tiles(weight)
    scale = amax / 448
    if kind != "f32":
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    codes = (weight / spread(scale)).clamp(-448, 448).to(torch.float8_e4m3fn)
    exponent = (torch.log2(scale) + 127).round().to(torch.uint8)
    stored = {"f32": scale, "bf16": scale.bfloat16(), "u8": exponent, "e8m0": exponent.view(torch.float8_e8m0fnu)}[kind]
    module = name.removesuffix(".weight")
    end = "scale" if kind == "e8m0" else "weight_scale_inv"
    return {name: codes, f"{module}.{end}": stored}, codes.float() * spread(scale)


def write_fp8(folder, tensors):
    kinds = ["f32", "e8m0", "u8", "bf16"]
    stored, numbers = {}, {}
    for name, t in tensors.items():
        if is_linear(name):
            more, numbers[name] = fp8(name, t.float(), kinds[len(numbers) % 4])
            stored.update(more)
        else:
            stored[name] = numbers[name] = t if "bias" in name else t.bfloat16()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    quantisation = dict(activation_scheme="dynamic", fmt="e4m3", quant_method="fp8", scale_fmt="ue8m0", weight_block_size=[128, 128])
    return quantisation, numbers


# ---- compressed-tensors ----


def write_packed(folder, tensors, bits, group):
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    how = dict(num_bits=bits, type="int", symmetric=True, strategy="group" if group else "channel", group_size=group)
    args = QuantizationArgs(**how)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    packer = BaseCompressor.get_value_from_registry("pack-quantized")
    stored, numbers = {}, {}
    for name, t in tensors.items():
        if not is_linear(name):
            stored[name] = numbers[name] = t if "bias" in name else t.bfloat16()
            continue
        t = t.bfloat16() if group else t.float()
        groups = t.unflatten(1, (-1, group or t.shape[1]))
        scale, _ = calculate_qparams(groups.amin(2), groups.amax(2), args)
        packed = packer.compress({"weight": t, "weight_scale": scale.to(t.dtype)}, scheme)
        stored.update({f"{name.removesuffix('.weight')}.{end}": x for end, x in packed.items()})
        codes = packer.decompress({**packed, "weight_scale": torch.ones_like(scale)}, scheme)["weight"].float()
        numbers[name] = (codes.unflatten(1, (-1, group or t.shape[1])) * scale.to(t.dtype).float()[:, :, None]).flatten(1)
    save_file({k: t.contiguous() for k, t in stored.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    group_0 = dict(targets=["Linear"], weights=how, input_activations=None, output_activations=None)
    return dict(config_groups=dict(group_0=group_0), format="pack-quantized", quant_method="compressed-tensors",
                quantization_status="compressed", ignore=["lm_head"], kv_cache_scheme=None, dequantize=True), numbers  # fmt: skip


# ---- a folder ----


def logits(folder, ids):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager")
    plain.in_float64(True)
    model = model.double()
    for _, t in model.named_buffers():
        t.data = t.data.double()
    out = model(ids).logits.detach()
    plain.in_float64(False)
    return out


def write(name):
    folder = plain.OUT / f"quantised_{name}"
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(20)
    settings = dict(MODELS[name])
    model = plain.make("deepseek_v3", settings)
    model.save_pretrained(folder)
    if "mtp" in str(settings):
        plain.add_modules(folder, model)
    tensors = load_file(folder / "model.safetensors")
    quantisation, numbers = write_fp8(folder, tensors) if name == "fp8" else write_packed(
        folder, tensors, int(name[3]), 32 if "groups" in name else None)  # fmt: skip
    numbers = {k: t.float().contiguous() for k, t in numbers.items()}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantisation}, indent=2) + "\n")

    ids = torch.randint(0, SIZES["vocab_size"], (2, 13))
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        save_file(numbers, scratch / "model.safetensors", metadata={"format": "pt"})
        (scratch / "config.json").write_text(json.dumps(config))
        expected = logits(scratch, ids)
    if name != "fp8" and "groups" not in name:  # of BF16 scales transformers makes BF16 numbers
        assert torch.equal(expected, logits(folder, ids)), name
    crcs = {f"crc.{k}": torch.tensor([zlib.crc32(t.numpy().tobytes())]) for k, t in numbers.items()}
    save_file({"input_ids": ids.int(), "logits": expected.float(), **crcs}, folder / "expected.safetensors",
              metadata={"made_by": "tools/goldens/10_quantised.py", "torch": torch.__version__.split("+")[0]})  # fmt: skip
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name:12} {size:7} bytes, {len(crcs)} weights")


if __name__ == "__main__":
    for name in sys.argv[1:] or MODELS:
        write(name)
