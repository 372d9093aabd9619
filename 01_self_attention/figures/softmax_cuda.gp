# The ladder of softmax: each rung's share of the copy bandwidth. Four rows in F32, then the same four in BF16.
eval sized(380)
set title "Softmax of 8192 rows of 8192:\nshare of the copy bandwidth"
set ylabel 'percent of a copy'
set yrange [0:112]
set xrange [-0.6:3.6]
set xtics scale 0
set boxwidth 0.36 absolute
set grid noxtics ytics
plot data using 0:(0):xtic(strcol('rung')) every ::0::3 with boxes lc rgb 'white' notitle, \
     data using ($0 - 0.19):'percent' every ::0::3 with boxes lt 1 title 'F32', \
     data using ($0 + 0.19):'percent' every ::4::7 with boxes lt 2 title 'BF16', \
     data using ($0 - 0.19):(column('percent') + 3.5):(sprintf('%.0f', column('percent'))) every ::0::3 with labels notitle, \
     data using ($0 + 0.19):(column('percent') + 3.5):(sprintf('%.0f', column('percent'))) every ::4::7 with labels notitle
