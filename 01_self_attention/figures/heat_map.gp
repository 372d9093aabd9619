# Attention weights of a row of words: a cell for each query (row) and key (column), its share in percent written in it.
set title "Equal words find each other:\nwords with random vectors"
set xlabel "key: the word that is looked at" offset 0,0.4
set ylabel "query: the word that looks" offset 1.5,0
set border 0
unset grid
unset key
set tics scale 0
set xtics rotate by 40 right offset 0.5,0 noenhanced
set ytics noenhanced
set yrange [*:*] reverse
set cbrange [0:*]
set cblabel 'percent'
set cbtics scale 0.4
# Of more than 12 words the numbers would run into each other.
number(w) = words > 12 ? '' : sprintf('%.0f', 100 * w)
set bmargin 5.8
eval sized(400)
stats data using (column('key')) nooutput
words = STATS_max + 1
stats data using (column('weight')) nooutput
plot data using (column('key')):(column('query')):(100 * column('weight')):xtic(stringcolumn('key_word')):ytic(stringcolumn('query_word')) \
         with image pixels, \
     data using (column('key')):(column('query')):(column('weight') < 0.6 * STATS_max ? number(column('weight')) : '') \
         with labels textcolor rgb '#333333', \
     data using (column('key')):(column('query')):(column('weight') < 0.6 * STATS_max ? '' : number(column('weight'))) \
         with labels textcolor rgb 'white'
