# One sequence's cache by its length, at DeepSeek-V3's sizes, for four kinds of attention.
eval sized(320)
set title "The cache of one sequence at DeepSeek-V3’s\nsizes (61 layers, BF16)"
set logscale x 2
set logscale y 10
set xlabel 'tokens'
set ylabel 'GiB'
set xrange [1024:131072*1.7]
set yrange [0.02:1000]
set xtics ('1k' 1024, '4k' 4096, '16k' 16384, '64k' 65536, '128k' 131072)
set format y '%g'
unset key
h200 = 139.8 # GiB, as the driver says
set label 'memory of one H200' at 1150,h200*1.35 textcolor rgb '#666666'
last(column_name, text) = sprintf('  %s', text)
plot h200 with lines lt 8 notitle, \
     for [i=1:4] data using 'tokens':(column(word('mha_gib gqa_gib mqa_gib mla_gib', i))) \
         with linespoints lt word('2 5 8 1', i)+0 dt 1 lw 2.5, \
     for [i=1:4] data using (column('tokens') == 131072 ? column('tokens')*1.12 : NaN):(column(word('mha_gib gqa_gib mqa_gib mla_gib', i))):(word('MHA GQA-8 MQA MLA', i)) \
         with labels left notitle
