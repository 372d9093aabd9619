#!/bin/bash
# clang-format for every source: tools/format.sh [--check] [FILE...]. The style is in .clang-format.
set -u
check=
if [ "${1:-}" = --check ]; then check=1; shift; fi
if ! command -v clang-format >/dev/null; then
    echo "tools/format.sh: clang-format is missing; on Debian: apt-get install clang-format" >&2
    exit 1
fi
if [ $# -gt 0 ]; then files=("$@"); else
    mapfile -t files < <(git ls-files --cached --others --exclude-standard '*.c' '*.h' '*.cu' '*.cuh')
fi
one='for f; do [ ! -f "$f" ] || clang-format "$f" | cmp -s - "$f" || { [ "$0" = check ] || clang-format -i "$f"; echo "$f"; }; done'
changed=$(printf '%s\0' "${files[@]}" | xargs -0 -r -n 8 -P "$(nproc)" bash -c "$one" "${check:+check}" | sort)
if [ -z "$changed" ]; then
    echo "format: ${#files[@]} files as clang-format has them"
elif [ -n "$check" ]; then
    printf 'format: not as clang-format has it (make format): %s\n' $changed
    exit 1
else
    printf 'format: %s\n' $changed
fi
