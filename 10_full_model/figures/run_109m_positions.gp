# Windows four times as long as those of training, with and without YaRN. Data: yarn.csv of tools/judge_109m.sh.
# A point stands where its stretch of tokens ends: 1 .. 8, 9 .. 16, 17 .. 32, ...
eval sized(400)
of(name) = strcol('way') eq name ? column('last') : NaN
set title "Bits per byte by place\nin a window of 4,096 tokens"
set xlabel 'tokens up to here'
set ylabel 'bits per byte'
set logscale x 2
set xrange [7:4600]
set xtics ('8' 8, '32' 32, '128' 128, '512' 512, '4,096' 4096)
set arrow 1 from 1024, graph 0 to 1024, graph 1 nohead lt 8
set label 1 'longest in training' at 1024, graph 0.55 right offset -0.7,0 textcolor rgb '#888888'
plot data using (of('longer')):'bits_per_byte' with linespoints lt 2 title 'as it is', \
     data using (of('yarn')):'bits_per_byte' with linespoints lt 5 title 'YaRN, not trained on', \
     data using (of('yarn-trained')):'bits_per_byte' with linespoints lt 1 title 'YaRN, and 150 steps'
