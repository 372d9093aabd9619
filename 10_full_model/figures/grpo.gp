# What to watch while rewards teach. Data: the CSV that `deepseek grpo` writes.
# held-out accuracy rises, certainty too, and groups run out of differences.
eval sized(400)
set title 'Learning from rewards'
set xlabel 'step'
set yrange [0:1.02]
plot data using 'step':'reward' with lines lc rgb '#9ECAE1' lw 1 title 'mean reward of a step''s answers', \
     data using 'step':'eval_pass@1' with linespoints lt 1 title 'held-out, drawn answers (pass\@1)', \
     data using 'step':'eval_greedy' with linespoints lt 2 title 'held-out, likeliest answer', \
     data using 'step':'frac_reward_zero_std' with lines lt 8 title 'groups without a difference'
