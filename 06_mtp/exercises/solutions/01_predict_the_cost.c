/*
 * Solution 06.1: eh_proj is [512, 1024], and enorm, hnorm and the module's last norm have 512 each.
 * The head is multiplied with again; of the table a token only takes another row. (Tempting:
 * 16 * 64 rows, as for the model itself. The last three of each window look past its end.) And
 * lambda is shared out among the modules: 0.1 for each.
 */
extern const long long own, again, with_target;
extern const double loss;

const long long own = 512LL * 1024 + 3 * 512;
const long long again = 50257LL * 512;
const long long with_target = 16 * (64 - 3);
const double loss = 0.3 / 3 * (2 + 3 + 4);
