# What a token's attention costs in one layer, against the tokens before it, dense and sparse. Data: 10_full_model/bench_sparse.
eval sized(440)
set title "A token's attention in one layer:\nall tokens, or those that an indexer picks"
set xlabel 'tokens before it'
set ylabel 'microseconds'
set logscale xy
set xrange [900:40000]
set xtics ('1K' 1024, '2K' 2048, '4K' 4096, '8K' 8192, '16K' 16384, '32K' 32768)
plot data using 'tokens':'dense_us' with linespoints lt 1 title 'dense', \
     data using 'tokens':'min_us' with linespoints lt 2 title 'sparse, all of it', \
     data using 'tokens':'scores_us' with linespoints lt 3 dt 2 title 'the indexer''s scores', \
     data using 'tokens':'top_k_us' with linespoints lt 4 dt 2 title 'the k largest', \
     data using 'tokens':'attention_us' with linespoints lt 5 dt 2 title 'attention to k'
