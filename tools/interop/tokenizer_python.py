#!/usr/bin/env python3
"""Do the tokenizers and transformers libraries agree with common/tokenizer?

Builds a small C program, trains a tokenizer with it on a text, and compares, for that tokenizer (as
Tokenizer.from_file and as AutoTokenizer load it) and for the golden one with DeepSeek-V3's patterns:
the ids of the text, and of every Unicode character before, after and between letters and spaces.

    tools/interop/tokenizer_python.py TEXT      needs gcc, `make all CUDA=0`, numpy,
                                                tokenizers, transformers
"""
import pathlib
import subprocess
import sys
import tempfile
import unicodedata

import numpy
from tokenizers import Tokenizer
from transformers import AutoTokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = r"""
#include "common/files/files.h"
#include "common/text/tokenizer_folder.h"
#include <stdio.h>
#include <string.h>
/* train TEXT DIRECTORY, or: encode TOKENIZER TEXT IDS */
int main(int argc, char **argv) {
    Error err;
    MappedFile text;
    Tokenizer *t;
    if (argc == 4 && strcmp(argv[1], "train") == 0) {
        if (file_map(&text, argv[2], &err) < 0) fatal("%s", err.text);
        if (!(t = tokenizer_train(text.data, text.size, 2305, NULL, NULL, &err)))
            fatal("%s", err.text);
        if (tokenizer_save_folder(t, argv[3], -1, 1024, &err) < 0) fatal("%s", err.text);
        return 0;
    }
    size_t count;
    if (argc != 5 || !(t = tokenizer_load(argv[2], &err)) || file_map(&text, argv[3], &err) < 0)
        fatal("%s", err.text);
    int32_t *ids = tokenizer_encode(t, text.data, text.size, &count);
    FILE *stream = fopen(argv[4], "wb");
    return !stream || fwrite(ids, 4, count, stream) != count || fclose(stream) != 0;
}
"""


def every_character():
    """Those assigned in Python's Unicode data: of newer ones the engines may know different things."""
    points = [c for c in map(chr, range(1, 0x110000)) if unicodedata.category(c) not in ("Cs", "Cn")]
    return "".join(f"a{c}b {c}{c} 1{c}\n" for c in points)


def compare(what, folder, tokenizer, encode, text):
    (folder / "text").write_bytes(text.encode())
    subprocess.run([folder / "program", "encode", tokenizer, folder / "text", folder / "ids"],
                   check=True)
    ours = numpy.fromfile(folder / "ids", dtype=numpy.int32)
    theirs = numpy.array(encode(text), dtype=numpy.int32)
    if len(ours) == len(theirs) and (ours == theirs).all():
        print(f"{what}: {len(ours)} ids agree")
        return True
    at = int((ours[:len(theirs)] != theirs[:len(ours)]).argmax())
    print(f"{what}: {len(ours)} ids here, {len(theirs)} there; they differ from number {at} on: "
          f"{ours[at:at + 8]} {theirs[at:at + 8]}")
    return False


def main():
    text = pathlib.Path(sys.argv[1]).read_text()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "program.c").write_text(PROGRAM)
        subprocess.run(["gcc", "-std=gnu11", "-O2", "-fopenmp", f"-I{ROOT}", "program.c",
                        str(ROOT / "build/cpu/common/libcommon.a"), "-lcjson", "-lonig", "-lm",
                        "-o", "program"], cwd=folder, check=True)
        subprocess.run([folder / "program", "train", sys.argv[1], folder], check=True)
        ours = folder / "tokenizer.json"
        deepseek = ROOT / "common/tests/goldens/tokenizer_deepseek.json"
        auto = AutoTokenizer.from_pretrained(folder)
        assert auto.eos_token == "<|endoftext|>" and auto.model_max_length == 1024
        good = True
        for path, what, load in [
                (ours, "trained here, Tokenizer.from_file", Tokenizer.from_file),
                (deepseek, "DeepSeek-V3's patterns", Tokenizer.from_file)]:
            library = load(str(path))
            encode = lambda s: library.encode(s, add_special_tokens=False).ids
            good &= compare(f"{what}, text", folder, path, encode, text)
            good &= compare(f"{what}, every character", folder, path, encode, every_character())
        encode = lambda s: auto(s, add_special_tokens=False)["input_ids"]
        good &= compare("trained here, AutoTokenizer, text", folder, ours, encode, text)
        assert auto.decode(encode(text)) == text
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
