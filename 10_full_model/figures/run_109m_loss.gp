# The run of 109m: its loss against the tokens seen. Data: metrics.csv of tools/train_109m.sh, thinned by tools/thin.py.
# The first steps fall from 10.8 so fast that they would leave no room for the rest: the picture begins at 6.
eval sized(380)
set title 'Loss over the run, a point for every few steps'
set xlabel 'billions of tokens'
set ylabel 'loss per token (natural log)'
set yrange [*:6]
plot data using 'billions':'mtp_loss_1' with lines lc rgb '#CC79A7' lw 1.5 title 'the module: the token behind the next', \
     data using 'billions':'loss' with lines lt 1 lw 1.5 title 'training: the next token', \
     data using 'billions':'validation_loss' with points lt 2 title 'books that were held out'
