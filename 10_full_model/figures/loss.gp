# Training and validation loss of a model, against the step. Data: the CSV that ./demo or `deepseek train` writes.
set title 'Loss in training, and on text that was kept back'
set xlabel 'step'
set ylabel 'loss per token (natural log)'
set samples 500
set key top right Right noreverse
plot data using 'step':'loss' with lines lc rgb '#9ECAE1' lw 1 title 'training, each step', \
     data using 'step':'loss' smooth bezier with lines lt 1 title 'training, smoothed', \
     data using 'step':'validation_loss' with points lt 2 ps 1.2 title 'validation'
