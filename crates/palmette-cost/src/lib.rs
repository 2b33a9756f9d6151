/*!
Cost sheets and hard limits: multiply-accumulates, parameters, memory.

A [`CostSheet`] is what a model costs; [`Limits`] is what it may cost, parsed
from what a person writes (`macs=1.5M params=2M memory=4GiB`). A candidate over
a limit is *infeasible*, which is not the same as bad: it is never trained and
carries no score. A [`MemoryModel`] counts tables and optimiser state, and
[`largest_table_cap`] finds how many rows a table may keep before any network
is looked at. [`HardLimits`] adds what only a machine decides, peak memory and
the time of predictions; [`LinearLatency`] foretells the latter from counts.

```
use palmette_cost::{CostSheet, Limits, MemoryModel, largest_table_cap};

let limits = Limits::parse("macs=1.5M memory=64MiB")?;
let adagrad = MemoryModel::default();

// Tables of 16 columns; half of the memory is left to the network.
let rows = [1_000_000, 500, 2_000_000];
let cap = largest_table_cap(&rows, 32 << 20, adagrad.row_bytes(16)).unwrap();
let capped = rows.map(|rows| (rows.min(cap), 16));

let sheet = CostSheet::new(1_448_000, 400_000, capped, &adagrad);
assert!(limits.violations(&sheet).is_empty());
assert!(limits.is_met(&sheet));
# Ok::<(), palmette_cost::LimitError>(())
```
*/

mod hard;
mod latency;
mod limits;
mod quantity;
mod sheet;
mod tables;

pub use hard::{HardLimits, LatencyLimit};
pub use latency::LinearLatency;
pub use limits::{LimitError, Limits, Metric, Violation};
pub use quantity::{format_bytes, format_count};
pub use sheet::{CostSheet, MemoryModel};
pub use tables::{largest_table_cap, smallest_tables};
