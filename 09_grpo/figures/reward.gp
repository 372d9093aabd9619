# What to watch while rewards teach: accuracy rises, certainty too, and groups run out of differences.
eval sized(400)
set title 'Learning from rewards'
set xlabel 'step'
set yrange [0:1.02]
plot data using 'step':'held_out' with lines lw 3 title 'held-out accuracy, likeliest answer', \
     data using 'step':'reward' with lines title 'mean reward of the step''s answers', \
     data using 'step':'frac_reward_zero_std' with lines dt 2 title 'groups without a difference', \
     data using 'step':'entropy' with lines dt 3 title 'entropy of a token, nats'
