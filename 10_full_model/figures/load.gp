# How uneven the experts' load is in each step of training. Data: the CSV that ./demo or `deepseek train` writes.
# A mean that follows, of the first steps and later of about the last 20, drawn where they lie: it is late by `late`.
# (A curve through all points would end in the last one, whatever it is.)
eval sized(360)
seen = 0; level = 0.0
follow(x) = (seen = seen + 1, level = level + (x - level) / (seen < 20 ? seen : 20), level)
late(now) = seen < 40 ? seen / 2.0 : 20
stats data using 'step' nooutput
set xtics apart(STATS_max)
set title 'The busiest expert of the least even layer'
set xlabel 'step'
set ylabel 'MaxVio (0: even)'
set yrange [0:*]
plot data using 'step':'max_vio' with lines lc rgb '#9ECAE1' lw 1 title 'each step', \
     data using (column('step') - late(0)):(follow(column('max_vio'))) with lines lt 1 title 'mean of about 20 steps'
