#!/bin/bash
# The same seconds of training for a model and for three without one of its parts: what is each part worth?
#
#     tools/compare_109m.sh --out DIR --data SHARDS --minutes X [FLAG...] [-- FLAG OF TRAIN...]
#
#     --data SHARDS       as deepseek data wrote them (of tools/train_109m.sh: its DIR/shards)
#     --minutes X         of training for each of them; validating and saving come on top
#     --config NAME       which model (default 109m)
#     --run NAME=CONFIG:MODULES[:SPEED]
#                         a model of the comparison, its configuration (a preset, or a folder with a config.json) and its
#                         modules for multi-token prediction; several times. Default: full=NAME:1, dense=NAME-dense:1 (no
#                         experts, as many active parameters), no-mtp=NAME:0 and mha=NAME-mha:1 (plain multi-head attention).
#                         SPEED: tokens a second, where known; else it is measured
#     --batch, --context, --accumulate N   the shape of a step (default 32, 1024 and 4; nano: 16, 64, 1)
#     --rate, --floor X   learning rate (default 3e-4 to 1e-5; nano: 3e-3 to 3e-4); a tenth of the steps is warm-up
#     --device, --dtype   (default: cuda and bf16 where nvidia-smi finds a GPU, else cpu and f32)
#
# The speed of each is measured first, and as many steps planned as fit into the minutes, so that each has its learning
# rate at the floor when its time is up. What a call has done, the next one does not do again. DIR then holds
#     compare.csv         six validations of each: seconds (of steps alone), tokens, loss, bits per byte
#     models.csv          of each: parameters, cache bytes of a token, tokens a second, steps done and planned, the last validation
#     NAME/, NAME.csv     its folder and its metrics
#     log                 what all commands said
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/of_109m.sh
invocation="tools/compare_109m.sh $*"

# ---- flags ----

out='' data='' minutes='' config=109m batch='' context='' accumulate='' rate='' floor='' device='' dtype=''
runs=() more=()
while [ $# -gt 0 ]; do
    case $1 in
    --out | --data | --minutes | --config | --batch | --context | --accumulate | --rate | --floor | --device | --dtype)
        [ $# -gt 1 ] || die "$1 needs a value"
        declare "${1#--}=$2"; shift 2 ;;
    --run) [ $# -gt 1 ] || die "$1 needs NAME=CONFIG:MODULES"; runs+=("$2"); shift 2 ;;
    --) shift; more=("$@"); break ;;
    --help | -h) show_help; exit 0 ;;
    *) die "there is no flag $1 (--help lists them; flags of train come behind --)" ;;
    esac
done
[ -n "$out" ] && [ -n "$data" ] && [ -n "$minutes" ] || die "--out DIR, --data SHARDS and --minutes X are needed"
need_program
[ -e "$data/report.json" ] || die "$data has no report.json: these are no shards of deepseek data"
is_above_zero "$minutes" || die "--minutes '$minutes' is no number above 0"
case $config in
nano*) batch=${batch:-16} context=${context:-64} accumulate=${accumulate:-1} rate=${rate:-3e-3} floor=${floor:-3e-4} ;;
*) batch=${batch:-32} context=${context:-1024} accumulate=${accumulate:-4} rate=${rate:-3e-4} floor=${floor:-1e-5} ;;
esac
for name in batch context accumulate; do
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] || die "--$name '${!name}' is no number of 1 or more"
done
[ ${#runs[@]} -gt 0 ] || runs=("full=$config:1" "dense=$config-dense:1" "no-mtp=$config:0" "mha=$config-mha:1")
for run in "${runs[@]}"; do
    [[ $run =~ ^[a-z0-9-]+=[^:]+:[0-9](:[0-9]+)?$ ]] || die "--run '$run' is not NAME=CONFIG:MODULES or NAME=CONFIG:MODULES:SPEED"
done
find_device

log_into "$out"
step_tokens=$((batch * context * accumulate))

train() { # FOLDER CONFIG MODULES FLAG...
    "$deepseek" train --data "$data" --out "$1" --config "$2" --mtp "$3" --batch $batch --context $context --accumulate $accumulate \
        --learning-rate "$rate" --lowest-rate "$floor" --peak 0 --device "$device" --dtype "$dtype" "${@:4}" "${more[@]}"
}
measured_speed() { # CONFIG MODULES: the median step of a few seconds, the first ones left out
    rm -rf "$out/speed"
    train "$out/speed" "$1" "$2" --steps 1000000 --eval-every 1000000 --eval-batches 1 \
        --minutes "$(awk -v m="$minutes" 'BEGIN { print (m / 10 < 0.1 ? m / 10 : 0.1) }')" >&2
    median_speed "$out/speed/metrics.csv"
    rm -rf "$out/speed"
}

# ---- one after the other ----

for run in "${runs[@]}"; do
    IFS=: read -r preset modules speed <<<"${run#*=}"
    name=${run%%=*} folder=$out/${run%%=*}
    [ ! -e "$out/$name.csv" ] || continue
    "$deepseek" info --config "$preset" >/dev/null || { say "$name is left out"; continue; }
    if [ ! -e "$out/$name.plan" ]; then
        say "$name: how fast is it?"
        speed=${speed:-$(measured_speed "$preset" "$modules")}
        steps=$(awk -v m="$minutes" -v r="$speed" -v s=$step_tokens 'BEGIN { n = int(60 * m * r / s + 0.5); print (n < 6 ? 6 : n) }')
        echo "$steps $speed" >"$out/$name.plan"
    fi
    read -r steps speed <"$out/$name.plan"
    say "$name: $steps steps, planned for $minutes minutes at $speed tokens a second"
    train "$folder" "$preset" "$modules" --steps "$steps" --warmup $(((steps + 9) / 10)) --eval-every $(((steps + 5) / 6)) --resume
    "$deepseek" info --config "$folder" --csv "$out/$name.info.csv" >/dev/null
    cp "$folder/metrics.csv" "$out/$name.csv"
done

# ---- side by side ----

there=()
for run in "${runs[@]}"; do
    [ ! -e "$out/${run%%=*}.csv" ] || there+=("${run%%=*}")
done
[ ${#there[@]} -gt 0 ] || die "none of them could be trained"
bytes_a_token=$(tr -d ' \n\t' <"$data/report.json" | sed 's/.*"validation":{"tokens":\([0-9]*\),"text_bytes":\([0-9]*\).*/\2 \1/' |
    awk '{ print $1 / $2 }')
head_lines() { # under the head of a CSV that the program wrote
    echo "# command: $invocation"
    sed -n '/^# command/d;/^#/p' "$out/${there[0]}.csv"
}
{
    head_lines
    echo model,step,seconds,tokens,validation_loss,bits_per_byte
    for name in "${there[@]}"; do
        awk -F, -v name="$name" -v s=$step_tokens -v b="$bytes_a_token" '/^#/ { next }
            !rate { for (i = 1; i <= NF; i++) { if ($i == "tokens_per_second") rate = i; if ($i == "validation_loss") loss = i }; next }
            { seconds += s / $rate }
            $loss != "" { printf "%s,%d,%.2f,%.0f,%s,%.5f\n", name, $1, seconds, $1 * s, $loss, $loss / log(2) / b }' "$out/$name.csv"
    done
} >"$out/compare.csv"
{
    head_lines
    echo model,parameters,active,cache_bytes,steps,planned,tokens,seconds,tokens_per_second,loss,bits_per_byte
    for name in "${there[@]}"; do
        read -r steps seconds < <(column "$out/$name.csv" tokens_per_second | awk -v s=$step_tokens '{ t += s / $1 } END { print NR, t }')
        sizes=$(awk -F, -v OFS=, '$1 == "parameters all" { p = $2 } $1 == "active all" { a = $2 }
            $1 == "cache bytes of a token bf16" { c = $2 } END { print p, a, c }' "$out/$name.info.csv")
        read -r planned _ <"$out/$name.plan"
        loss=$(column "$out/$name.csv" validation_loss | grep . | tail -1)
        awk -v t="$seconds" -v n=$((steps * step_tokens)) -v l="$loss" -v b="$bytes_a_token" -v first="$name,$sizes,$steps,$planned" \
            'BEGIN { printf "%s,%.0f,%.1f,%.0f,%s,%.5f\n", first, n, t, n / t, l, l / log(2) / b }'
    done
} >"$out/models.csv"
say "done: $out/compare.csv, $out/models.csv"
