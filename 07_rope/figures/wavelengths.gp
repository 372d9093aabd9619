# Tokens until a pair has come round once, for the 32 pairs of DeepSeek-V3 (θ 10000, 4096 tokens, factor 40).
eval sized(440)
set title "Tokens for one turn of each pair:\nDeepSeek-V3, stretched 40 times"
set logscale y 10
set xrange [0:31]; set yrange [1:4e6]
set xlabel 'pair'
set ylabel 'tokens'
set xtics 4
set ytics ('1' 1, '100' 1e2, '10,000' 1e4, '1,000,000' 1e6)
set label 1 'trained length 4,096' at 0.4,4096 offset 0,0.6 tc rgb '#666666'
set label 2 'new length 163,840' at 0.4,163840 offset 0,0.6 tc rgb '#666666'
plot 4096 with lines lt 8 notitle, 163840 with lines lt 8 notitle, \
     data using 'pair':'linear' with lines lt 2 lw 2 title 'PI: all divided by 40', \
     data using 'pair':'ntk' with lines lt 3 lw 2 title 'NTK: a larger θ', \
     data using 'pair':'yarn' with linespoints lt 1 pt 7 ps 0.5 lw 2 title 'YaRN: a ramp from pair 10 to 23', \
     data using 'pair':'none' with lines lt 7 lw 2 title 'as trained'
