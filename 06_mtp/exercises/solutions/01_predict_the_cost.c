/*
 * Solution 06.1: eh_proj is [768, 1536], and enorm, hnorm and the module's last norm have 768 each.
 * The head is multiplied with again; of the table a token only takes another row. (Tempting:
 * 24 * 40 rows, as for the model itself. The last three of each window look past its end.) And
 * lambda is shared out among the modules: a fifteenth for each. (Tempting: 0.2 for each.)
 */
extern const long long own, again, with_target;
extern const double loss;

const long long own = 768LL * 1536 + 3 * 768;
const long long again = 32000LL * 768;
const long long with_target = 24 * (40 - 3);
const double loss = 0.2 / 3 * (2 + 3 + 4);
