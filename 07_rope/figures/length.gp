# Perplexity of the same characters, with more and more text before them; above without any further training, below
# after a little at the new length.
stats data using 'train_length' nooutput
trained = STATS_max
stats data using 'length' nooutput
last = STATS_max
eval sized(740)
set multiplot
set logscale x 2
set logscale y 10
set xrange [*:last]; set yrange [3:80]
set ytics (3, 4, 6, 10, 20, 40, 80)
set arrow 1 from trained, 3 to trained, 80 nohead lt 8
set label 1 sprintf(' trained at %d', trained) at trained, 72 offset 0.6,0 tc rgb '#666666'
set ylabel 'perplexity'
set title 'No further training'
set size 1,0.42; set origin 0,0.58
unset key
plot data using 'length':'no_positions' with linespoints lt 8 dt 1 title 'no positions', \
     data using 'length':'as_trained' with linespoints lt 7 title 'as trained', \
     data using 'length':'pi' with linespoints lt 2 title 'PI', \
     data using 'length':'ntk' with linespoints lt 3 title 'NTK', \
     data using 'length':'yarn' with linespoints lt 1 title 'YaRN'
set key
set size 1,0.58; set origin 0,0
unset label 1
set xlabel 'characters in the window'
set title sprintf('After some more training at %d', last)
plot data using 'length':'no_positions' with linespoints lt 8 dt 1 title 'no positions (not tuned)', \
     data using 'length':'tuned_as_trained' with linespoints lt 7 title 'as trained', \
     data using 'length':'tuned_pi' with linespoints lt 2 title 'PI', \
     data using 'length':'tuned_ntk' with linespoints lt 3 title 'NTK', \
     data using 'length':'tuned_yarn' with linespoints lt 1 title 'YaRN'
unset multiplot
