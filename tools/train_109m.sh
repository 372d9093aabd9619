#!/bin/bash
# Books in, a judged model out: deepseek data, train in pieces, generate and eval, one after the other.
#
#     tools/train_109m.sh --out DIR [--held-out FILE...] [FLAG...] FILE... [-- FLAG OF TRAIN...]
#
#     FILE...             text to learn from (JSON lines or plain; tools/books.py makes such files), if DIR/shards is not there yet
#     --held-out FILE     text to be judged on; without it, a part of the documents
#     --tasks FILE        what the model is asked in the end (deepseek eval --tasks); several times
#     --config NAME       109m (default), or nano, small, ...: the sizes of the batch go with it, see below
#     --budget MINUTES    of training: the speed is measured first, and as many steps planned as fit, but no more than --passes
#     --passes N          over the text (default 10)
#     --steps N           in the place of both
#     --minutes X         this call ends after X minutes, all is saved, and the same call again goes on (default: no limit)
#     --piece X           training is stopped and resumed every X minutes (default: a fifth of the budget, 9 at most): then
#                         there are samples, and nothing longer is lost
#     --device, --dtype   (default: cuda and bf16 where nvidia-smi finds a GPU, else cpu and f32)
#     --batch, --context, --accumulate N   another shape of a step: a GPU with less memory takes --batch 8 --accumulate 16
#     -- FLAG...          of deepseek train; what they say counts (-- --learning-rate 1e-3 --lowest-rate 1e-5)
#     --vocab N           tokens to learn (default: the configuration's 50257; nano's 2048)
#
# What a call has done, the next one does not do again. DIR then holds
#     shards/             tokens, with report.json: what was kept, and what was left out by which rule
#     plan                the number of steps, and what it was found from
#     model/, model/last/ the best model and the last, metrics.csv, loss.svg, load.svg (charts need gnuplot)
#     samples.txt         what the model wrote after each piece
#     pieces.csv          steps and seconds of each piece, from the start of the program to its end, and tokens a second
#     positions.csv, tasks.csv, eval.txt    how it was judged
#     log                 what all commands said
# The run is the same, byte for byte, in however many pieces; only samples.txt has other moments.
#
# What is the seed of this configuration's and what is not: AdamW, the learning rate from 3e-4 to 1e-5, 131,072 tokens a
# step (here 32 x 1024, accumulated 4 times) are; warm-up is a tenth of the steps, as 2,000 of 20,000 are; there is no dropout
# for fewer than ten passes, and one module for multi-token prediction is trained along.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/of_109m.sh

# ---- flags ----

out='' config=109m budget='' passes=10 steps='' minutes='' piece='' device='' dtype='' vocab='' batch='' context='' accumulate=''
files=() held_out=() tasks=() more=()
while [ $# -gt 0 ]; do
    case $1 in
    --out | --config | --budget | --passes | --steps | --minutes | --piece | --device | --dtype | --vocab | --batch | --context | --accumulate)
        [ $# -gt 1 ] || die "$1 needs a value"
        declare "${1#--}=$2"; shift 2 ;;
    --held-out) [ $# -gt 1 ] || die "$1 needs a file"; held_out+=(--held-out "$2"); shift 2 ;;
    --tasks) [ $# -gt 1 ] || die "$1 needs a file"; tasks+=(--tasks "$2"); shift 2 ;;
    --) shift; more=("$@"); break ;;
    --help | -h) show_help; exit 0 ;;
    -*) die "there is no flag $1 (--help lists them; flags of train come behind --)" ;;
    *) files+=("$1"); shift ;;
    esac
done
[ -n "$out" ] || die "--out DIR says where all goes"
need_program
number() { # NAME VALUE: is it one, above 0?
    [ -z "$2" ] || is_above_zero "$2" || die "--$1 '$2' is no number above 0"
}
for name in budget passes steps minutes piece vocab batch context accumulate; do number $name "${!name}"; done
find_device

# A step's sizes, and the learning rate that is good for them.
sizes() { # BATCH CONTEXT ACCUMULATE RATE FLOOR VALIDATE WINDOWS
    batch=${batch:-$1} context=${context:-$2} accumulate=${accumulate:-$3} rate=$4 floor=$5 validate=$6 windows=$7
}
case $config in
nano*) sizes 16 64 1 3e-3 3e-4 200 8; vocab=${vocab:-2048} ;;
small*) sizes 16 512 1 1e-3 1e-4 200 4 ;;
*) sizes 32 1024 4 3e-4 1e-5 500 8 ;;
esac
vocab=${vocab:-50257}
tokens_a_step=$((batch * context * accumulate))

log_into "$out"
left() { # minutes of this call; a large number without a limit
    awk -v all="${minutes:-1e9}" -v gone=$SECONDS 'BEGIN { print all - gone / 60 }'
}
is_less() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a < b) }'; }

# ---- text ----

# Books are long: the rule against more than 100,000 words, which is for pages of the web, is off.
if [ ! -e "$out/shards/index.json" ]; then
    [ ${#files[@]} -gt 0 ] || die "which files? There are no shards in $out/shards yet"
    say "data"
    "$deepseek" data "${files[@]}" "${held_out[@]}" --out "$out/shards" --vocab "$vocab" --sample 64 --limit words=50..
fi

# ---- plan ----

common=(--data "$out/shards" --config "$config" --mtp 1 --batch $batch --context $context --accumulate $accumulate
    --learning-rate $rate --lowest-rate $floor --eval-every $validate --eval-batches $windows
    --device "$device" --dtype "$dtype")

# Tokens a second: the median of a short run's steps.
measure_speed() {
    local limit
    limit=$(awk -v b="$budget" 'BEGIN { print (b / 20 < 0.4 ? b / 20 : 0.4) }')
    rm -rf "$out/speed"
    "$deepseek" train "${common[@]}" "${more[@]}" --out "$out/speed" --steps 1000000 --minutes "$limit" --peak 0 >&2
    median_speed "$out/speed/metrics.csv"
    rm -rf "$out/speed"
}

if [ ! -e "$out/plan" ]; then
    tokens=$("$deepseek" data --verify "$out/shards" | awk '$1 == "train" { print $2 }')
    most=$(awk -v t="$tokens" -v p="$passes" -v s=$tokens_a_step 'BEGIN { n = int(t * p / s); print (n > 0 ? n : 1) }')
    speed='not measured'
    if [ -z "$steps" ] && [ -n "$budget" ]; then
        say "how fast is it?"
        speed=$(measure_speed)
        # A twentieth is for validation and saving.
        steps=$(awk -v m="$budget" -v r="$speed" -v s=$tokens_a_step -v most="$most" \
            'BEGIN { n = int(0.95 * 60 * m * r / s); print (n < 1 ? 1 : n < most ? n : most) }')
    fi
    steps=${steps:-$most}
    printf 'steps=%s\n# tokens of text: %s, of a step: %s, a second: %s; --passes %s, --budget %s\n' \
        "$steps" "$tokens" $tokens_a_step "$speed" "$passes" "${budget:-none}" >"$out/plan.part"
    mv "$out/plan.part" "$out/plan"
fi
steps=$(sed -n 's/^steps=//p' "$out/plan")
[ -n "$steps" ] || die "$out/plan has no line steps=N; remove it, and it is made again"
say "$steps steps of $tokens_a_step tokens"

# ---- training ----

if [ -z "$piece" ]; then
    piece=9
    [ -z "$budget" ] || piece=$(awk -v b="$budget" 'BEGIN { print (b / 5 < 9 ? b / 5 : 9) }')
fi
done_steps() { # as the state that was saved last says
    local state=$out/model/last/training.safetensors found=''
    [ ! -e "$state" ] || found=$(head -c 4096 "$state" | grep -ao '"step":"[0-9]*"' | head -1 | tr -dc 0-9)
    echo "${found:-0}"
}
sample() {
    {
        echo "---- step $(done_steps) of $steps"
        "$deepseek" generate --model "$out/model/last" --prompts "$out/prompts" --temperature 0.8 --top-p 0.95 --seed 1 \
            --max-new-tokens 100 --batch 4 --device "$device" --dtype "$dtype" 2>&1
    } >>"$out/samples.txt"
}
[ -e "$out/prompts" ] || printf '%s\n' 'It was a dark night, and' 'She looked at him and said,' 'The history of the world' 'My dear sir,' >"$out/prompts"

warmup=$((steps / 10))
before=-1
[ -e "$out/pieces.csv" ] || echo from,to,seconds,tokens_per_second >"$out/pieces.csv"
while [ "$(done_steps)" != "$steps" ]; do
    now=$(left)
    is_less 0.05 "$now" || { say "the time is up after step $(done_steps); the same call goes on"; exit 0; }
    [ "$(done_steps)" != "$before" ] || die "no step was done in a piece of $piece minutes; give a longer --piece"
    before=$(done_steps)
    limit=$(awk -v a="$piece" -v b="$now" 'BEGIN { print (a < b ? a : b) }')
    say "training, for $limit minutes at most"
    begin=$EPOCHREALTIME
    "$deepseek" train "${common[@]}" --out "$out/model" --steps "$steps" --warmup $warmup --minutes "$limit" --resume "${more[@]}"
    awk -v a="$before" -v b="$(done_steps)" -v s=$tokens_a_step -v begin="$begin" -v end="$EPOCHREALTIME" \
        'BEGIN { printf "%d,%d,%.2f,%.0f\n", a, b, end - begin, (b - a) * s / (end - begin) }' >>"$out/pieces.csv"
    sample
done

# ---- judging ----

say "judging"
[ -e "$out/positions.csv" ] || "$deepseek" eval --model "$out/model" --data "$out/shards" --windows 256 --by-position \
    --csv "$out/positions.csv" --device "$device" | tee "$out/eval.txt"
[ ${#tasks[@]} -eq 0 ] || [ -e "$out/tasks.csv" ] || "$deepseek" eval --model "$out/model" "${tasks[@]}" --csv "$out/tasks.csv" \
    --device "$device" | tee -a "$out/eval.txt"
say "done: $out/model, $out/eval.txt, $out/samples.txt"
