#!/bin/bash
# What this machine has, and what to do about what it lacks: make doctor. It changes nothing and
# never fails.
cd "$(dirname "$0")/.." || exit 0
mkdir -p build
lacking=0

row() { printf '%-4s %-11s %s\n' "$1" "$2" "$3"; }
good() { row ok "$@"; }
bad() { # WHAT, STATE, REMEDY
    row "--" "$1" "$2"
    printf '%16s-> %s\n' '' "$3"
    lacking=$((lacking + 1))
}
install() { if command -v apt-get >/dev/null; then echo "apt-get install $1 (make demo and make test do it)"; else echo "install $2 with your package manager"; fi; }

. /etc/os-release 2>/dev/null
good system "${PRETTY_NAME:-$(uname -s)}, $(uname -m)"
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)
simd=$(grep -m 1 -oE 'avx512f|avx2' /proc/cpuinfo 2>/dev/null | sort -u | tail -n 1)
grep -qm 1 avx512f /proc/cpuinfo 2>/dev/null && simd=avx512
good cpu "${cpu:-unknown}, $(nproc) cores${simd:+, $simd}${OMP_NUM_THREADS:+, OMP_NUM_THREADS=$OMP_NUM_THREADS}"

free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1e5) / 10 }')
if awk "BEGIN { exit !($free >= 3) }"; then good disk "$free GB free here"
else bad disk "$free GB free here" "a build takes half a gigabyte, with CUDA two"; fi

if command -v gcc >/dev/null; then good compiler "$(gcc --version | head -n 1)"
else bad compiler "no gcc" "$(install build-essential 'gcc 9 or newer')"; fi
if command -v make >/dev/null; then good make "$(make --version | head -n 1)"; fi

flags=$(pkg-config --cflags --libs openblas 2>/dev/null || echo -lopenblas)
# shellcheck disable=SC2086
if gcc -O2 -fopenmp -I. tools/doctor.c common/core/blas.c $flags -o build/doctor 2>build/doctor.log; then
    if used=$(build/doctor 2>&1); then
        good OpenBLAS "$used"
        picked=$(BLAS_PRETEND_CORE=none build/doctor kernels 2>/dev/null)
        if [ -n "$OPENBLAS_CORETYPE" ]; then
            row "" "" "OPENBLAS_CORETYPE=$OPENBLAS_CORETYPE is set here and decides which kernels are used"
        elif [ "$picked" != "${used%%,*}" ]; then
            row "" "" "left alone it would use its $picked kernels, which are slower here; our programs correct that"
        fi
        library=$(ldd build/doctor 2>/dev/null | sed -n 's/.*openblas[^ ]* => \([^ ]*\).*/\1/p')
        case $(readlink -f "$library") in
        *pthread* | *serial*) bad threads "$(readlink -f "$library") is not the OpenMP build: its threads and ours get in each other's way" "$(install libopenblas-openmp-dev 'the OpenMP build of OpenBLAS')" ;;
        esac
    else bad OpenBLAS "a program linked with it does not start: $used" "see build/doctor.log"; fi
else bad OpenBLAS "missing, or it cannot be linked (build/doctor.log)" "$(install libopenblas-openmp-dev OpenBLAS)"; fi

for library in 'libcjson libcjson-dev cJSON reads-JSON' 'oniguruma libonig-dev Oniguruma the-tokenizer' 'criterion libcriterion-dev Criterion the-tests'; do
    read -r name package title use <<<"$library"
    if version=$(pkg-config --modversion "$name" 2>/dev/null); then good "$title" "$version (${use/-/ })"
    else bad "$title" "missing (${use/-/ })" "$(install "$package" "$title")"; fi
done

nvcc=$(command -v nvcc || ls "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" 2>/dev/null)
if [ -n "$nvcc" ]; then good nvcc "$("$nvcc" --version | sed -n 's/.*release \([^,]*\).*/\1/p') at $nvcc"
else bad nvcc "not in PATH, \$CUDA_HOME/bin or /usr/local/cuda/bin: CPU only" "fine without a GPU; else https://developer.nvidia.com/cuda-downloads"; fi
if command -v nvidia-smi >/dev/null && gpu=$(nvidia-smi --query-gpu=name,memory.total,driver_version,compute_cap --format=csv,noheader 2>/dev/null) && [ -n "$gpu" ]; then
    while read -r line; do good GPU "$line"; done <<<"$gpu"
else bad GPU "none that nvidia-smi knows: tests for it are skipped" "everything but --device cuda works without"; fi

nccl=$(ls "$(dirname "${nvcc:-/usr/local/cuda/bin/nvcc}")/../include/nccl.h" 2>/dev/null)
if [ -n "$nccl" ]; then good NCCL "$(awk '/define NCCL_(MAJOR|MINOR|PATCH)/ { v = v (v ? "." : "") $3 } END { print v }' "$nccl") beside nvcc (several GPUs)"
else bad NCCL "no nccl.h beside nvcc: GPUs of several ranks speak through the host" "fine with one GPU; it comes with the CUDA toolkit, or as NVIDIA's libnccl-dev"; fi
if command -v mpirun >/dev/null && mpi=$(pkg-config --modversion ompi-c 2>/dev/null); then good MPI "Open MPI $mpi (several machines)"
else bad MPI "no Open MPI to build with: several ranks start by deepseek launch, torchrun or srun" "fine on one machine; make mpi installs it"; fi

if command -v gnuplot >/dev/null; then good gnuplot "$(gnuplot --version)"
else bad gnuplot "missing: demos draw in the terminal only" "$(install gnuplot-nox gnuplot)"; fi
if [ -f build/corpus/bible.txt ]; then good corpus "build/corpus/bible.txt, $(wc -c <build/corpus/bible.txt) bytes"
elif command -v bible >/dev/null; then good corpus "the program bible is there; make corpus writes the text"
else bad corpus "no program bible" "$(install bible-kjv bible-kjv)"; fi
if command -v python3 >/dev/null; then good python3 "$(python3 --version 2>&1 | cut -d' ' -f2) (test runner, exercises; no packages needed)"
else bad python3 "missing (test runner, exercises)" "$(install python3 python3)"; fi
if command -v git >/dev/null; then good git "$(git --version | cut -d' ' -f3)"
else bad git "missing: CSV files cannot name their commit" "$(install git git)"; fi
if command -v clang-format >/dev/null; then good format "$(clang-format --version)"
else bad format "no clang-format: only needed to change code (make format)" "apt-get install clang-format"; fi

[ $lacking = 0 ] && echo "Nothing is lacking." || echo "$lacking of these are lacking; what follows each arrow mends it."
exit 0
