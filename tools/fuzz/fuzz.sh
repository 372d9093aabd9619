#!/bin/bash
# Fuzzes everything that reads what others wrote, with clang's libFuzzer and its sanitizers.
#
#     tools/fuzz/fuzz.sh [SECONDS [TARGET...]]     SECONDS (60) for all targets together
#     tools/fuzz/fuzz.sh leaks [TARGET...]         each input kept so far once more, for leaks
#
# Inputs that reached new code stay in build/fuzz/corpus/TARGET and are where the next run begins;
# one that breaks something lies in build/fuzz/TARGET-crash-... and is repeated by
# `build/fuzz/fuzz_TARGET FILE`. Small seeds, tools/fuzz/seeds/TARGET/, come with the project. Exits with
# 1 when something was found; without clang it says so and exits with 0.
set -eu
cd "$(dirname "$0")/../.."
clang=$(command -v clang || command -v clang-14 || true)
probe=$(mktemp)
trap 'rm -f "$probe"' EXIT
if [ -z "$clang" ] || ! echo 'int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return d && n > 9; }' |
    "$clang" -x c - -fsanitize=fuzzer,address -o "$probe" 2>/dev/null; then
    echo "fuzz: there is no clang with libFuzzer (Debian: clang and libclang-rt-dev); skipped"
    exit 0
fi
targets="safetensors config model shards state csv tokenizer text documents tasks stream interactive limits options questions rewards"
mode=${1:-60}
shift || true
targets=${*:-$targets}

# ---- build: every source of common/ and the chapters that is no program, test, demo or exercise ----

B=build/fuzz
mkdir -p $B/obj
cat >$B/Makefile <<'END'
SOURCES := $(shell find common [0-9][0-9]_* -name '*.c' -not -path '*/tests/*' -not -path '*/exercises/*' -not -path '*/web/*' \
    -not -name testing.c -not -name 'demo*.c' | xargs grep -L '^int main') $(wildcard tools/fuzz/*.c)
OBJECTS := $(SOURCES:%.c=build/fuzz/obj/%.o)
FLAGS := -std=gnu11 -O1 -g -march=native -I. -isystem tools/fuzz -include tools/fuzz/gcc.h -w -fno-omit-frame-pointer \
    -fsanitize=fuzzer-no-link,address,undefined,float-cast-overflow -fno-sanitize-recover=all
comma := ,
build/fuzz/fuzz: $(OBJECTS)
	$(CLANG) -fsanitize=fuzzer,address,undefined $(foreach w,file_map file_unmap access madvise fatal,-Wl$(comma)--wrap=$(w)) \
	    $^ $(shell pkg-config --libs openblas 2>/dev/null || echo -lopenblas) -lcjson -lonig -lm -lpthread -o $@
build/fuzz/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CLANG) $(FLAGS) $(BLAS_FLAGS) -MMD -c $< -o $@
-include $(OBJECTS:.o=.d)
END
make -s -j"$(nproc)" -f $B/Makefile CLANG="$clang" BLAS_FLAGS="$(pkg-config --cflags openblas 2>/dev/null)" $B/fuzz

# ---- run ----

export ASAN_OPTIONS=allocator_may_return_null=0:detect_leaks=0
count=$(echo "$targets" | wc -w)
found=0
for target in $targets; do
    ln -sf fuzz $B/fuzz_"$target"
    mkdir -p $B/corpus/"$target" tools/fuzz/seeds/"$target"
    if [ "$mode" = leaks ]; then
        bad=0
        for file in $(find tools/fuzz/seeds/"$target" $B/corpus/"$target" -type f | shuf -n 50 --random-source=<(yes)); do
            ASAN_OPTIONS=detect_leaks=1 FUZZ_LEAKS=1 $B/fuzz_"$target" "$file" >$B/log 2>&1 || { bad=1; tail -n 30 $B/log; }
        done
        [ $bad = 0 ] || found=1
        echo "$target: $([ $bad = 0 ] && echo no leaks || echo LEAKS)"
        continue
    fi
    seconds=$((mode / count > 0 ? mode / count : 1))
    # -close_fd_mask=3: what the program says does not reach the terminal; reports do
    if ! $B/fuzz_"$target" -max_total_time=$seconds -timeout=10 -malloc_limit_mb=2048 -rss_limit_mb=3000 -max_len=65536 -seed=1 \
        -close_fd_mask=3 -print_final_stats=1 -artifact_prefix=$B/"$target"- $B/corpus/"$target" tools/fuzz/seeds/"$target" >$B/"$target".log 2>&1; then
        found=1
        grep -aE 'ERROR|SUMMARY|broken:|runtime error|Test unit' $B/"$target".log || tail -n 20 $B/"$target".log
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' $B/"$target".log)
    printf '%-12s %12s inputs in %d s, %s\n' "$target" "${runs:-?}" $seconds "$(find $B/corpus/"$target" -type f | wc -l) kept"
done
exit $found
