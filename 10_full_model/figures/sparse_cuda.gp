# What a token's attention costs in one layer of V3.2 on a GPU, latents and keys in eight bits, dense and sparse. Data: 10_full_model/bench_sparse.
eval sized(420)
set title "A token's attention in one layer of V3.2,\non an H200"
set xlabel 'tokens before it'
set ylabel 'microseconds a step'
set logscale xy
set xrange [3600:150000]
set yrange [15:20000]
set xtics ('4K' 4096, '8K' 8192, '16K' 16384, '32K' 32768, '64K' 65536, '128K' 131072)
of(b) = strcol('latents') eq 'fp8' && column('batch') == b ? column('tokens') : NaN
plot data using (of(128)):'dense_us' with linespoints lt 1 title '128 sequences, dense', \
     data using (of(128)):'min_us' with linespoints lt 2 title '128 sequences, sparse', \
     data using (of(1)):'dense_us' with linespoints lt 1 dt 2 title 'one sequence, dense', \
     data using (of(1)):'min_us' with linespoints lt 2 dt 2 title 'one sequence, sparse'
