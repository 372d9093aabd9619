# What the KV cache of one token costs (BF16), and what it would cost with a key head for every query head.
eval sized(400)
set title "KV cache of each token, beside it\nquery heads : key heads"
set logscale x 2
set xrange [8192:64*1024*1024]
set xlabel 'KiB for each token'
set xtics ('8' 8192, '64' 65536, '512' 524288, '4096' 4194304)
set yrange [8.4:-0.6]
set ytics scale 0
plot data using (column('bytes_as_mha')):0:(column('bytes_per_token')-column('bytes_as_mha')):(0):yticlabels(1) \
         with vectors nohead lc rgb '#BBBBBB' lw 2 notitle, \
     data using (column('bytes_as_mha')):0 with points lc rgb '#888888' pt 6 ps 1.2 title 'with a key head for each', \
     data using (column('bytes_per_token')):0 with points lc 1 pt 7 ps 1.4 title 'as it is', \
     data using (column('bytes_as_mha')*1.3):0:(sprintf('%d : %d', column('heads'), column('kv_heads'))) \
         with labels left notitle
