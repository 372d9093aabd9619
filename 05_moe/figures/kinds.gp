# Where the choices of each kind of character go: one row an expert, one column a kind.
stats data using 'expert' nooutput
experts = int(STATS_max) + 1
stats data using 'kind' nooutput
kinds = int(STATS_max) + 1
stats data using 'share' nooutput
dark = 60 * STATS_max # from here on numbers are white
set title "What the experts see: where a kind's choices go"
set xrange [-0.5:kinds - 0.5]
set yrange [experts - 0.5:-0.5]
set cbrange [0:dark / 0.6]
set cblabel 'per cent of the kind'
set ytics 1
set ylabel 'expert'
set xlabel 'kind, and how many characters of it there were' offset 0,-0.7
set bmargin 5
eval sized(400)
unset grid
unset key
short(name) = name eq 'consonant' ? 'cons.' : name
plot data using 'kind':'expert':($2-0.5):($2+0.5):($1-0.5):($1+0.5):(100*column('share')):xticlabels(sprintf("%s\n(%d)", short(stringcolumn('name')), column('characters'))) \
         with boxxyerror fillcolor palette fillstyle solid 1 noborder, \
     data using 'kind':'expert':(column('share') >= 0.005 && 100*column('share') < dark ? sprintf('%.0f %%', 100*column('share')) : '') with labels, \
     data using 'kind':'expert':(100*column('share') >= dark ? sprintf('%.0f %%', 100*column('share')) : '') with labels textcolor rgb 'white'
