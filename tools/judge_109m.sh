#!/bin/bash
# What becomes of a trained model: in fewer bits, guessing ahead, on longer texts, with sparse attention.
#
#     tools/judge_109m.sh --out DIR --model MODEL --data SHARDS [FLAG...]
#
#     --model MODEL       a folder that train wrote (of tools/train_109m.sh: its DIR/model)
#     --data SHARDS       what it learned from, as deepseek data wrote it
#     --tasks FILE        what the model in fewer bits is asked as well (deepseek eval --tasks); several times
#     --what PART,...     quantise, speculate, yarn, sparse (default: all)
#     --windows N         of text that each is judged by (default 256; of the longer ones half as many)
#     --steps N           of training, where a model is trained on: yarn, and each stage of sparse (default 150)
#     --batch N           windows in such a step (default 8)
#     --rate X            the highest learning rate of such a training (default 1e-4; indexers 5e-3 alone, then 1e-3)
#     --prompts N         that are continued side by side where many are (default 32)
#     --device, --dtype   (default: cuda and bf16 where nvidia-smi finds a GPU, else cpu and f32)
#
# A part whose CSV is there is not done again. DIR then holds
#     quantised.csv       a row for each format: bytes of the folder's weights, loss and bits per byte of held-out text, the
#                         share of the pairs that it gets right (with --tasks), tokens a second that generate writes, of one text
#                         and of many side by side. int4-gptq is calibrated on text that the model has written
#     speculative.csv     the same text with and without a guess ahead by the model's module, drawn and greedy: tokens a second,
#                         tokens a step, share of the guesses that were kept
#     yarn.csv            bits per byte by position in windows four times as long as in training: as the model is, by YaRN
#                         untrained, and by YaRN after --steps steps on such windows
#     sparse.csv          loss before; after the indexers' warm-up and the sparse stage; and after as many steps with dense
#                         attention. Of the indexers, over a stage's last tenth: recall of the true k (a quarter of a window),
#                         attention on their k, and on the best k
#     warm.csv, trained.csv    both stages' metrics, step by step
#     log                 what all commands said
# and the folders of the models.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/of_109m.sh
invocation="tools/judge_109m.sh $*"

# ---- flags ----

out='' model='' data='' what=quantise,speculate,yarn,sparse windows=256 steps=150 batch=8 rate=1e-4 prompts=32 device='' dtype=''
tasks=()
while [ $# -gt 0 ]; do
    case $1 in
    --out | --model | --data | --what | --windows | --steps | --batch | --rate | --prompts | --device | --dtype)
        [ $# -gt 1 ] || die "$1 needs a value"
        declare "${1#--}=$2"; shift 2 ;;
    --tasks) [ $# -gt 1 ] || die "$1 needs a file"; tasks+=(--tasks "$2"); shift 2 ;;
    --help | -h) show_help; exit 0 ;;
    *) die "there is no flag $1 (--help lists them)" ;;
    esac
done
[ -n "$out" ] && [ -n "$model" ] && [ -n "$data" ] || die "--out DIR, --model DIR and --data SHARDS are needed"
need_program
[ -e "$model/config.json" ] || die "$model has no config.json: it is no model"
for part in ${what//,/ }; do
    case $part in quantise | speculate | yarn | sparse) ;; *) die "--what '$part' is no part (--help lists them)" ;; esac
done
for name in windows steps batch prompts; do
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] || die "--$name '${!name}' is no number of 1 or more"
done
find_device
where=(--device "$device" --dtype "$dtype")

log_into "$out"

# ---- what all parts need ----

config() { # KEY: of the model's config.json; nothing for null
    sed -n "s/^[[:space:]]*\"$1\":[[:space:]]*\([0-9.]*\).*/\1/p" "$model/config.json"
}
trained=$(config trained_context_length)
trained=${trained:-$(config max_position_embeddings)}

value() { # CSV COLUMN [N]: the mean over the last N rows (default 1)
    column "$1" "$2" | tail -n "${3:-1}" | awk '{ sum += $1 } END { printf "%.6g\n", sum / NR }'
}
# The lines of stdin as a CSV, under the head of one that the program wrote, as this script's.
write_csv() { # FILE HEAD-OF COLUMNS
    {
        echo "# command: $invocation"
        sed -n '/^# command/d;/^#/p' "$2"
        echo "$3"
        cat
    } >"$1.part"
    mv "$1.part" "$1"
}
evaluate() { # MODEL CSV FLAG...
    local folder=$1 csv=$2
    shift 2
    "$deepseek" eval --model "$folder" --data "$data" --csv "$csv" "${where[@]}" "$@"
}
# A model is made once: what is half made is in the way.
make_model() { # FOLDER COMMAND...
    local folder=$1
    shift
    [ ! -e "$folder/config.json" ] || return 0
    rm -rf "$folder" "$folder.part"
    "$deepseek" "$@" --out "$folder.part"
    mv "$folder.part" "$folder"
}
continue_training() { # FOLDER FLAG...
    local folder=$1
    shift
    make_model "$folder" train --data "$data" --batch "$batch" --steps "$steps" --learning-rate "$rate" --eval-every "$steps" \
        --peak 0 "${where[@]}" "$@"
}
# Continues prompts 1 .. N for seven eighths of a window, BATCH at a time; says tokens a second, a step, and kept.
write_text() { # MODEL N BATCH FLAG...
    local folder=$1 said
    seq -f 'Chapter %g. ' "$2" >"$out/prompts.$2"
    said=$("$deepseek" generate --model "$folder" --prompts "$out/prompts.$2" --batch "$3" --seed 1 \
        --max-new-tokens $((trained * 7 / 8)) "${where[@]}" "${@:4}" 2>&1 >/dev/null)
    awk '/ tokens\/s$/ { rate = $(NF - 1) }
        / tokens a step/ { a_step = $1; if (/kept:/) { kept = $(NF - 1) / 100 } }
        END { if (rate == "") exit 1; print rate "," a_step "," kept }' <<<"$said" || { echo "$said" >&2; return 1; }
}

# ---- in fewer bits ----

one_format() { # FORMAT: its row, into row-FORMAT
    local format=$1 folder=$out/$1 csv=$out/eval-$1.csv right='' bytes one many
    case $format in
    bf16) make_model "$folder" convert --model "$model" --weights bf16 ;;
    int4-gptq)
        # The held-out text is what it is judged by; so it is calibrated on what the model itself writes.
        "$deepseek" generate --model "$model" --prompts "$out/prompts.$prompts" --batch "$prompts" --seed 2 --temperature 1 \
            --top-p 1 --max-new-tokens $((trained * 7 / 8)) "${where[@]}" >"$out/calibration.txt" 2>/dev/null
        make_model "$folder" quantize --model "$model" --to int4 --method gptq --calibrate "$out/calibration.txt" \
            --windows $(((prompts + 1) / 2)) ;;
    int4-head) make_model "$folder" quantize --model "$model" --to int4 --head ;;
    fp8) make_model "$folder" quantize --model "$model" --to fp8 --ragged ;;
    *) make_model "$folder" quantize --model "$model" --to "$format" ;;
    esac
    evaluate "$folder" "$csv" --windows "$windows"
    if [ ${#tasks[@]} -gt 0 ]; then
        "$deepseek" eval --model "$folder" "${tasks[@]}" --csv "$out/tasks-$format.csv" "${where[@]}" >/dev/null
        right=$(awk -F, '/^pairs,/ && $3 == "" && $4 == 1 { print $7; exit }' "$out/tasks-$format.csv")
    fi
    bytes=$(cat "$folder"/*.safetensors | wc -c)
    one=$(write_text "$folder" 2 1 --temperature 0)
    many=$(write_text "$folder" "$prompts" "$prompts" --temperature 0)
    echo "$format,$bytes,$(value "$csv" loss),$(value "$csv" bits_per_byte),$right,${one%%,*},${many%%,*}" >"$out/row-$format"
}
quantise() {
    local format missing=''
    for format in bf16 int8 int4 int4-gptq int4-head fp8; do
        [ ! -e "$out/row-$format" ] || continue
        say "$format"
        set +e
        (set -e; one_format $format)
        [ $? -eq 0 ] || missing+=" $format"
        set -e
    done
    [ -z "$missing" ] || { say "no numbers of$missing"; return 1; }
    cat "$out"/row-{bf16,int8,int4,int4-gptq,int4-head,fp8} | write_csv "$out/quantised.csv" "$out/eval-bf16.csv" \
        format,bytes,loss,bits_per_byte,pairs_right,tokens_per_second_1,tokens_per_second_many
}

# ---- guessing ahead ----

speculate() {
    local temperature drafts result rows=''
    [ "$(config num_nextn_predict_layers)" -gt 0 ] || { say "no module of this model guesses ahead"; return 0; }
    for temperature in 0 0.8; do
        for drafts in 0 1; do
            say "temperature $temperature, $drafts guesses"
            result=$(write_text "$model" 8 1 --temperature "$temperature" --top-p 1 --speculative "$drafts")
            rows+="$temperature,$drafts,$result"$'\n'
        done
    done
    evaluate "$model" "$out/eval.csv" --windows 1 >/dev/null # its head says where all this was
    printf %s "$rows" | write_csv "$out/speculative.csv" "$out/eval.csv" \
        temperature,guesses,tokens_per_second,tokens_a_step,kept
}

# ---- four times as long ----

# The model's folder with another config.json; weights and all else are the same files.
with_config() { # FOLDER SED-SCRIPT
    rm -rf "$1"
    mkdir "$1"
    ln -s "$(realpath "$model")"/* "$1"
    rm -rf "$1/config.json" "$1/last"
    sed "$2" "$model/config.json" >"$1/config.json"
}
yarn() {
    local long=$((4 * trained)) name rows=''
    local longer="s/\(\"max_position_embeddings\":\).*/\1 $long,/"
    with_config "$out/longer" "$longer"
    with_config "$out/yarn" "$longer;/\"rope_parameters\"/,/}/c\\
\"rope_parameters\": {\"rope_type\": \"yarn\", \"rope_theta\": $(config rope_theta), \"factor\": 4,\\
\"original_max_position_embeddings\": $trained, \"beta_fast\": 32, \"beta_slow\": 1, \"mscale\": 1, \"mscale_all_dim\": 1},"
    continue_training "$out/yarn-trained" --from "$model" --rope-factor 4 --rope-original "$trained" --context "$long"
    for name in longer yarn yarn-trained; do
        say "$name, $long tokens"
        evaluate "$out/$name" "$out/positions-$name.csv" --context "$long" --windows $(((windows + 1) / 2)) --by-position
        rows+=$(awk -F, -v OFS=, -v name="$name" '/^[0-9]/ { print name, $1, $2, $3, $5, $6 }' "$out/positions-$name.csv")$'\n'
    done
    printf %s "$rows" | write_csv "$out/yarn.csv" "$out/positions-longer.csv" way,first,last,loss,bits_per_byte,loss_error
}

# ---- sparse attention ----

sparse() {
    local name folder column rows='' indexed=$out/indexed k
    [ -n "$(config q_lora_rank)" ] || { say "this model has no q_lora_rank: it cannot have indexers"; return 0; }
    k=$((trained / 4))
    make_model "$indexed" convert --model "$model" --add-indexer --index-topk $k
    continue_training "$out/dense" --from "$model" --context "$trained"
    continue_training "$out/warm" --from "$indexed" --context "$trained" --dsa warmup --learning-rate 5e-3
    continue_training "$out/trained" --from "$out/warm" --context "$trained" --dsa sparse \
        --index-rate "$(awk -v r="$rate" 'BEGIN { print 1e-3 / r }')"
    for name in warm trained; do cp "$out/$name/metrics.csv" "$out/$name.csv"; done
    say "before and after, by the same windows; of a sparse model with k = $k"
    for name in before dense warm trained; do
        [ $name = before ] && folder=$model || folder=$out/$name
        evaluate "$folder" "$out/eval-$name.csv" --windows "$windows"
        rows+="$name,$(value "$out/eval-$name.csv" loss),$(value "$out/eval-$name.csv" bits_per_byte)"
        case $name in
        warm | trained)
            for column in index_loss index_recall index_mass best_mass tokens_per_second; do
                rows+=",$(value "$out/$name.csv" $column $(((steps + 9) / 10)))"
            done ;;
        *) rows+=",,,,," ;;
        esac
        rows+=$'\n'
    done
    printf %s "$rows" | write_csv "$out/sparse.csv" "$out/eval-before.csv" \
        model,loss,bits_per_byte,index_loss,index_recall,index_mass,best_mass,tokens_per_second
}

# ---- all of it ----

# One that fails does not take the others along.
declare -A result=([quantise]=quantised [speculate]=speculative [yarn]=yarn [sparse]=sparse)
failed=''
for part in ${what//,/ }; do
    [ ! -e "$out/${result[$part]}.csv" ] || continue
    begin=$SECONDS
    set +e
    (set -e; "$part")
    [ $? -eq 0 ] || failed+=" $part"
    set -e
    say "$part: $((SECONDS - begin)) s"
done
[ -z "$failed" ] || { say "this failed:$failed; the same call goes on"; exit 1; }
say "done: $out"
