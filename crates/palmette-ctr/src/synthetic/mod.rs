/*!
A click log whose best possible log loss is known.

The label of a row is drawn with probability `sigmoid(logit)`, and the logit is
made of main effects of all twelve fields, of pairwise interactions, and of
third-order interactions. Interactions are planted through latent factors: a
value v of one of the five large fields has a hidden vector `z_v` of K numbers,
a pair of values adds a multiple of `<z_u, z_v>` and a triple a multiple of
`sum_k z_uk z_vk z_wk`. So they cannot be read off any field alone, there are
too many pairs of values to memorise them, and a model that multiplies
embeddings can find them.

Every row carries its true probability. No model may read it, but the log loss
of these probabilities on the test rows is what no model can be expected to
beat: [`bayes_log_loss`].

```
use palmette_ctr::synthetic::{SyntheticConfig, SyntheticLog, bayes_log_loss};

let log = SyntheticLog::new(SyntheticConfig { rows: 5000, ..SyntheticConfig::default() })?;
let rows = log.rows(0..5000);
let clicks = rows.iter().filter(|row| row.click).count() as f64;
let base_rate_entropy = palmette_ctr::metrics::binary_entropy(clicks / 5000.0);
assert!(bayes_log_loss(&rows) < 0.9 * base_rate_entropy);

let mut csv = Vec::new();
log.write_csv(&mut csv, |_| {})?;
assert!(csv.starts_with(b"click,price,age,history,user,item,"));
# Ok::<(), Box<dyn std::error::Error>>(())
```

All numbers come from counter-based streams: same seed, same bytes, and fewer
rows are a prefix of more.
*/

mod config;
mod fields;
mod log;
#[cfg(test)]
mod tests;

pub use config::{SyntheticConfig, SyntheticError};
pub use fields::{CATEGORICAL, CategoricalColumn, DENSE, LARGE_FIELDS};
pub use log::{Row, SCHEMA, SyntheticLog, bayes_log_loss, log_loss_of_probabilities};
