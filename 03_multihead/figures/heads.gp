# Four heads on one sentence: row = the character that looks, column = the one it looks at, dark = much weight.
habits = "itself one_back two_back three_back spaces its_own_word the_same_earlier what_followed_the_same"
if (kind eq 'svg') {
    set terminal svg size 900,900 dynamic enhanced background rgb 'white' font 'DejaVu Sans Mono,Courier,monospace,12'
} else {
    set terminal pngcairo size 1800,1800 enhanced background rgb 'white' font 'DejaVu Sans Mono,12' fontscale 1.7
}
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
set multiplot layout 2,2 title 'Down: the character that looks. Across: the one it looks at.' font ',13' \
    margins 0.04,0.98,0.02,0.90 spacing 0.05,0.07
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
    set title sprintf('layer %d, head %d: %s, %.0f %%', layer, head, words, 100*share) font ',13'
    set xrange [-1.7:last+0.5]; set yrange [last+0.5:-1.7]
    # A square for every weight of at least 1 %; the characters stand at the left and on top.
    plot data using ($1 == i && $10 >= 0.01 ? $7 : NaN):6:($7-0.5):($7+0.5):($6-0.5):($6+0.5):10 \
             with boxxyerror fillcolor palette fillstyle solid 1 noborder, \
         data using ($1 == i && $6 == $7 ? $7 : NaN):(-1.1):9 with labels font ',11', \
         data using ($1 == i && $6 == $7 ? -1.1 : NaN):6:8 with labels font ',11'
}
unset multiplot
