# One decoding step, attention alone, against the tokens in the cache.
eval sized(440)
stats data using (strcol('dtype') eq 'BF16') nooutput
dtype = STATS_max > 0 ? 'BF16' : 'F32' # a GPU's file holds both
stats data using 'H' nooutput
heads = STATS_max
stats data using 'B' nooutput
batch = STATS_max > 1 ? sprintf('%d sequences, ', STATS_max) : ''
if (!exists('where')) where = '' # decode_cuda.gp names its machine
set title sprintf("One decoding step%s:\n%s%d query heads (%s)", where, batch, heads, dtype)
set logscale x 2
set logscale y
set xlabel 'tokens in the cache'
set ylabel 'microseconds'
set format y '%.0f'
set yrange [dtype eq 'BF16' ? 4 : 1:*]
set key samplen 4
set rmargin 4
set datafile missing NaN # rows of other lines are no gaps in this one
us(variant, rung) = (strcol('dtype') eq dtype && strcol('variant') eq variant && strcol('rung') eq rung \
                     ? column('min_us') : NaN)
plot for [i=1:3] data using 'tokens':(us(word('MHA GQA MQA', i), 'grouped')) with linespoints lt i \
         title word('MHA GQA MQA', i), \
     for [i=2:3] data using 'tokens':(us(word('MHA GQA MQA', i), 'chapter 02')) with linespoints lt i dt 2 \
         title word('MHA GQA MQA', i).", chapter 02's kernel"
