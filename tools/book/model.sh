#!/bin/bash
# Makes the model that writes in the book's chapter 10, from nothing: tools/book/model.sh [FOLDER]
#
# nano-q learns the King James Bible (12,000 steps of 8 x 128 tokens), gets indexers, which watch its
# attention for 300 steps, and is packed into 10_full_model/web/nano.bin, 1.2 MB, which is committed.
# About half an hour on one core; FOLDER (build/book-model) keeps the models in full.
set -eu
cd "$(dirname "$0")/../.."
out=${1:-build/book-model}
make CUDA=0 10_full_model/deepseek corpus
how="--data build/corpus/bible.txt --context 128 --batch 8 --eval-batches 8 --peak 0 --overwrite"
./10_full_model/deepseek train --config nano-q --vocab 1024 $how --out "$out/dense" --steps 12000 --eval-every 500
./10_full_model/deepseek convert --model "$out/dense" --out "$out/sparse" --add-indexer --index-topk 32 --overwrite
./10_full_model/deepseek train --dsa warmup --from "$out/sparse" $how --out "$out/warm" --steps 300 --eval-every 100 \
    --learning-rate 0.01
tools/book/native.py build/book-tools/pack 10_full_model 10_full_model/web/pack.c 10_full_model/web/nano.c
build/book-tools/pack "$out/warm" 10_full_model/web/nano.bin
