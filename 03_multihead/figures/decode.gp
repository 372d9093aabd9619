# One decoding step, attention alone, against the tokens in the cache.
stats data using (strcol('dtype') eq 'BF16') nooutput
dtype = STATS_max > 0 ? 'BF16' : 'F32' # a GPU's file holds both
stats data using 'H' nooutput
set title sprintf('One decoding step: %d query heads against the cache (%s)', STATS_max, dtype)
set logscale x 2
set logscale y
set xlabel 'tokens in the cache'
set ylabel 'microseconds'
set format y '%.0f'
set yrange [1:*]
set key bottom right
set datafile missing NaN # rows of other lines are no gaps in this one
us(variant, rung) = (strcol('dtype') eq dtype && strcol('variant') eq variant && strcol('rung') eq rung \
                     ? column('min_us') : NaN)
plot for [i=1:3] data using 'tokens':(us(word('MHA GQA MQA', i), 'grouped')) with linespoints lt i \
         title word('MHA GQA MQA', i), \
     for [i=2:3] data using 'tokens':(us(word('MHA GQA MQA', i), 'chapter 02')) with linespoints lt i dt 2 \
         title word('MHA GQA MQA', i).', every query head reading for itself'
