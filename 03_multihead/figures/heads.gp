# Four heads on one sentence: row = the character that looks, column = the one it looks at, dark = much weight.
habits = "itself one_back two_back three_back spaces its_own_word the_same_earlier what_followed_the_same"
eval sized(560)
stats data using 'panel' nooutput
panels = int(STATS_max)
stats data using 't' nooutput
last = STATS_max
set cbrange [0:1]
unset colorbox
unset key
unset grid
unset border
unset tics
set size ratio 1
text = '' # the characters of the diagonal, one after the other; strcol() ends at a comma, quoted or not
seen(c) = strlen(c) ? c : ','
stats data using ($1 == 1 && $6 == $7 ? (text = text.seen(strcol(9)), 0) : NaN) nooutput
set multiplot layout 2,2 title "A row: what one character looks at, in\n".text noenhanced
do for [i=1:panels] {
    set xrange [*:*]; set yrange [*:*] # stats counts only what the ranges show
    stats data using ($1 == i ? $2 : NaN) nooutput
    layer = int(STATS_max)
    stats data using ($1 == i ? $3 : NaN) nooutput
    head = int(STATS_max)
    stats data using ($1 == i ? $4 : NaN) nooutput
    habit = int(STATS_max)
    stats data using ($1 == i ? $5 : NaN) nooutput
    share = STATS_max
    name = word(habits, habit + 1)
    # underscores stand for blanks: word() splits at those
    words = ''
    do for [c=1:strlen(name)] { words = words.(name[c:c] eq '_' ? ' ' : name[c:c]) }
    set title sprintf("layer %d, head %d:\n%s, %.0f %%", layer, head, words, 100*share)
    set xrange [-0.5:last+0.5]; set yrange [last+0.5:-0.5]
    # A square for every weight of at least 1 %.
    plot data using ($1 == i && $10 >= 0.01 ? $7 : NaN):6:($7-0.5):($7+0.5):($6-0.5):($6+0.5):10 \
             with boxxyerror fillcolor palette fillstyle solid 1 noborder
}
unset multiplot
