# What the KV cache of one token costs (BF16), and what it would cost with a key head for every query head.
set title 'KV cache: KiB for each token (query heads : key heads)'
set logscale x 2
set xrange [8192:16*1024*1024]
set xlabel 'KiB for each token'
set xtics ('8' 8192, '32' 32768, '128' 131072, '512' 524288, '2048' 2097152, '8192' 8388608)
set yrange [8.4:-0.6]
set ytics scale 0
set key bottom left Left
plot data using (column('bytes_as_mha')):0:(column('bytes_per_token')-column('bytes_as_mha')):(0):yticlabels(1) \
         with vectors nohead lc rgb '#BBBBBB' lw 2 notitle, \
     data using (column('bytes_as_mha')):0 with points lc rgb '#888888' pt 6 ps 1.2 title 'if every query head had its own', \
     data using (column('bytes_per_token')):0 with points lc 1 pt 7 ps 1.4 title 'as it is', \
     data using (column('bytes_as_mha')*1.3):0:(sprintf('%d : %d', column('heads'), column('kv_heads'))) \
         with labels left notitle
