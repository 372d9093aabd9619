# Training and validation loss of a model, against the step. Data: the CSV that ./demo or `deepseek train` writes.
# A mean that follows, of the first steps and later of about the last 20, drawn where they lie: it is late by `late`.
# (A curve through all points would end in the last one, whatever it is.)
eval sized(380)
seen = 0; level = 0.0
follow(x) = (seen = seen + 1, level = level + (x - level) / (seen < 20 ? seen : 20), level)
late(now) = seen < 40 ? seen / 2.0 : 20
stats data using 'step' nooutput
set xtics apart(STATS_max)
set title 'Loss in training, and on text that was kept back'
set xlabel 'step'
set ylabel 'loss per token (natural log)'
plot data using 'step':'loss' with lines lc rgb '#9ECAE1' lw 1 title 'training, each step', \
     data using (column('step') - late(0)):(follow(column('loss'))) with lines lt 1 title 'training, mean of about 20 steps', \
     data using 'step':'validation_loss' with points lt 2 title 'validation'
