# Attention weights of a row of words: a cell for each query (row) and key (column), its share in percent written in it.
set title "Equal words find each other:\nwords with random vectors"
set xlabel "key: the word that is looked at" offset 0,0.4
set ylabel "query: the word that looks" offset 0.5,0
set border 0
unset grid
unset key
set tics scale 0
set xtics rotate by 40 right offset 0.5,0 noenhanced
set ytics noenhanced
set cbrange [0:*]
set cblabel 'percent'
set cbtics scale 0.4
# Of more than 12 words numbers, and names below, would run into each other.
number(w) = words > 12 ? '' : sprintf('%.0f', 100 * w)
below(word) = words > 12 ? '' : word
set bmargin 5.8
stats data using (column('key')) nooutput
words = STATS_max + 1
eval sized(words > 12 ? 150 + 18 * words : 400)
if (words > 12) set bmargin 2; set xlabel "key: the same words, from left to right" offset 0,0
stats data using (column('weight')) nooutput
set xrange [-0.5:words - 0.5]; set yrange [words - 0.5:-0.5] # behind stats, which would heed them
plot data using (column('key')):(column('query')):($2-0.5):($2+0.5):($1-0.5):($1+0.5):(100 * column('weight')):xtic(below(stringcolumn('key_word'))):ytic(stringcolumn('query_word')) \
         with boxxyerror fillcolor palette fillstyle solid 1 noborder, \
     data using (column('key')):(column('query')):(column('weight') < 0.6 * STATS_max ? number(column('weight')) : '') \
         with labels textcolor rgb '#333333', \
     data using (column('key')):(column('query')):(column('weight') < 0.6 * STATS_max ? '' : number(column('weight'))) \
         with labels textcolor rgb 'white'
