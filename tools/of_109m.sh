# What train_109m.sh, compare_109m.sh and judge_109m.sh share; sourced by them, in the repository's root.
# shellcheck shell=bash
deepseek=${DEEPSEEK:-10_full_model/deepseek}

die() { echo "$(basename "$0"): $*" >&2; exit 2; }
say() { echo "== $*"; }

# The script's head is its help.
show_help() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "tools/$(basename "$0")"; }

need_program() { [ -x "$deepseek" ] || die "build it first: make 10_full_model"; }

is_above_zero() { awk -v x="$1" 'BEGIN { exit !(x ~ /^[0-9.]+$/ && x + 0 > 0) }'; }

# Sets device and dtype where no flag did: a GPU in BF16, if there is one.
find_device() {
    if [ -z "$device" ]; then
        device=cpu
        ! nvidia-smi -L >/dev/null 2>&1 || device=cuda
    fi
    [ -n "$dtype" ] || { [ "$device" = cuda ] && dtype=bf16 || dtype=f32; }
}

# From here on, what is said is in DIR/log, too.
log_into() { # DIR
    mkdir -p "$1"
    exec > >(tee -a "$1/log") 2>&1
}

column() { # CSV COLUMN: all its values
    awk -F, -v name="$2" '/^#/ { next } !column { for (i = 1; i <= NF; i++) if ($i == name) column = i; next }
        { print $column }' "$1"
}

# Tokens a second of a short run: the median step; of five and more, the first two are left out.
median_speed() { # METRICS
    column "$1" tokens_per_second | awk '{ v[NR] = $1 } END { for (i = NR > 4 ? 3 : 1; i <= NR; i++) print v[i] }' |
        sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}
