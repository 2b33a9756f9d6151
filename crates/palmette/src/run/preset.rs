//! Settings by name: the published ones with every constant written out, and those of small logs.

use palmette_ctr::nasrec::PathStrategy;
use palmette_ctr::train::{
    Order, RankingSettings, RankingWeights, SupernetSettings, TrainSettings,
};

use super::config::{Config, SearchConfig, SpaceConfig, TrainConfig};

/// Logs with fewer training rows are searched with [`Preset::Small`] unless the user says how.
pub const SMALL_LOG_ROWS: usize = 1_000_000;

/// Settings for a kind of log. The published ones are NASRec's on one of its three logs (Zhang et
/// al., arXiv 2207.07187), with the constants of the released scripts.
///
/// Two things are the tool's own: the final learning rate is chosen on validation rows among the
/// published one and those that hand-made models try, and hand-made models and random search run
/// beside the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Preset {
    /// Logs of less than a million rows: small space and batches, ranking by fresh weights
    Small,
    /// NASRec on Criteo: 71,625 supernet steps, 2,048 candidates, top 15 retrained
    Paper,
    /// NASRec on Avazu: 63,170 supernet steps
    PaperAvazu,
    /// NASRec on KDD Cup 2012: 116,905 supernet steps of 1,024 rows
    PaperKdd12,
}

/// What differs from log to log.
struct Published {
    steps: u64,
    warmup_steps: u64,
    batch_size: usize,
    ranking_batches: usize,
    final_learning_rate: f64,
    final_batch_size: usize,
}

/// Rows of a validation batch of the released ranking.
const VALIDATION_BATCH: usize = 8192;

impl Preset {
    /// Whether the counts are fixed by a publication.
    pub fn is_published(self) -> bool {
        self != Self::Small
    }

    /// The configuration for a log with so many training rows; files and `--set` go over it.
    pub fn config(self, train_rows: usize) -> Config {
        match self {
            Self::Small => small(train_rows),
            Self::Paper => published(Published {
                steps: 71_625,
                warmup_steps: 15_000,
                batch_size: 512,
                ranking_batches: 150,
                final_learning_rate: 0.16,
                final_batch_size: 256,
            }),
            Self::PaperAvazu => published(Published {
                steps: 63_170,
                warmup_steps: 12_500,
                batch_size: 512,
                ranking_batches: 125,
                final_learning_rate: 0.20,
                final_batch_size: 256,
            }),
            Self::PaperKdd12 => published(Published {
                steps: 116_905,
                warmup_steps: 20_000,
                batch_size: 1024,
                ranking_batches: 175,
                final_learning_rate: 0.16,
                final_batch_size: 512,
            }),
        }
    }
}

/// What was found to work on logs of 10,000 to 250,000 rows (docs/results.md): epsilon 1e-3 and
/// batches of 64, since the rows of a table hardly leave their random start at 1e-2 and 512; no
/// layer norm in the supernet; candidates ranked by fresh weights over its tables.
fn small(train_rows: usize) -> Config {
    let epoch = (train_rows / SMALL_BATCH).max(1) as u64;
    let shared = SupernetSettings::default();
    Config {
        space: SpaceConfig {
            blocks: Some(3),
            dense_widths: Some(vec![16, 32, 64, 128]),
            sparse_widths: Some(vec![16, 32]),
            ..SpaceConfig::default()
        },
        search: SearchConfig {
            evaluations: 256,
            top_k: 8,
            supernet: SupernetSettings {
                steps: (2 * epoch).clamp(100, 10_000),
                warmup_steps: (epoch / 50).min(40),
                learning_rate: 0.1,
                epsilon: 1e-3,
                batch_size: SMALL_BATCH,
                layer_norm: false,
                ..shared
            },
            ranking: RankingSettings {
                weights: RankingWeights::Fresh,
                finetune_steps: epoch.min(400),
                learning_rate: 0.1,
                epsilon: 1e-3,
                batch_size: SMALL_BATCH,
                validation_rows: 8192,
            },
            ..SearchConfig::default()
        },
        train: TrainConfig {
            network: TrainSettings {
                learning_rate: 0.1,
                epsilon: 1e-3,
                batch_size: SMALL_BATCH,
                ..TrainSettings::default()
            },
            learning_rates: vec![0.05, 0.1, 0.2],
            ..TrainConfig::default()
        },
        ..Config::default()
    }
}

/// Rows of a batch on small logs.
const SMALL_BATCH: usize = 64;

fn published(log: Published) -> Config {
    Config {
        space: SpaceConfig {
            name: "nasrec-full".into(),
            blocks: Some(7),
            dense_widths: Some(vec![16, 32, 64, 128, 256, 512, 768, 1024]),
            sparse_widths: Some(vec![16, 32, 48, 64]),
            max_sources: Some(4),
        },
        search: SearchConfig {
            strategy: "evolution".into(),
            evaluations: 2048,
            top_k: 15,
            table_cap: 500_000,
            random_search: true,
            supernet: SupernetSettings {
                paths: PathStrategy::SingleOperatorAnyConnection,
                steps: log.steps,
                warmup_steps: log.warmup_steps,
                learning_rate: 0.12,
                epsilon: 1e-2,
                batch_size: log.batch_size,
                clip_norm: 5.0,
                order: Order::Shuffled,
                layer_norm: true,
            },
            ranking: RankingSettings {
                weights: RankingWeights::Shared,
                finetune_steps: 500,
                learning_rate: 0.04,
                epsilon: 1e-2,
                batch_size: log.batch_size,
                validation_rows: log.ranking_batches * VALIDATION_BATCH,
            },
        },
        train: TrainConfig {
            network: TrainSettings {
                learning_rate: 0.12,
                epsilon: 1e-2,
                batch_size: log.batch_size,
                epochs: 1.0,
                clip_norm: 5.0,
                order: Order::Shuffled,
                layer_norm: false,
            },
            learning_rates: vec![0.01, 0.04, 0.12, log.final_learning_rate],
            final_batch_size: Some(log.final_batch_size),
            ..TrainConfig::default()
        },
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use palmette_ctr::nasrec::{NasRecConfig, NasRecSpace, Operators};
    use palmette_search::EvolutionConfig;

    use super::super::plan::Plan;
    use super::*;

    #[test]
    fn presets_have_the_published_counts() {
        let check = |preset: Preset, validation: usize, expect: [u64; 4]| {
            let config = preset.config(1_000_000);
            let plan = Plan::configured(&config, validation);
            let found = [
                plan.supernet_steps,
                plan.warmup_steps,
                plan.finetune_steps,
                plan.validation_rows as u64,
            ];
            assert_eq!(found, expect, "{preset:?}");
            assert_eq!((plan.evaluations, plan.top_k), (2048, 15), "{preset:?}");
        };
        // A tenth of each log is its validation part.
        check(Preset::Paper, 4_584_061, [71_625, 15_000, 500, 1_228_800]);
        check(Preset::PaperAvazu, 4_042_896, [63_170, 12_500, 500, 1_024_000]);
        check(Preset::PaperKdd12, 14_963_911, [116_905, 20_000, 500, 1_433_600]);
        // Fewer rows than published: all of them.
        check(Preset::Paper, 10_000, [71_625, 15_000, 500, 10_000]);
    }

    #[test]
    fn the_steps_are_one_epoch_of_the_log() {
        // 45,840,617 and 40,428,967 rows, eight tenths of them for training.
        for (preset, rows) in [(Preset::Paper, 45_840_617.0), (Preset::PaperAvazu, 40_428_967.0)] {
            let supernet = preset.config(1_000_000).search.supernet;
            let epoch = 0.8 * rows / supernet.batch_size as f64;
            assert!((supernet.steps as f64 - epoch).abs() < 2.0, "{preset:?}: {epoch}");
        }
    }

    #[test]
    fn the_space_and_the_evolution_are_the_published_ones() {
        let config = Preset::Paper.config(1_000_000);
        let space = NasRecSpace::new(NasRecConfig::published(Operators::Full)).unwrap();
        assert_eq!(config.space.space().unwrap(), space);
        let evolution = EvolutionConfig::published();
        assert_eq!(evolution.evaluations(), config.search.evaluations);
        let counts = [evolution.population, evolution.tournament, evolution.children];
        assert_eq!((counts, evolution.generations), ([128, 64, 8], 240));
        assert_eq!(evolution.mutations(0), 6);
    }

    #[test]
    fn a_file_goes_over_the_preset() {
        let set = ["search.evaluations=32".to_owned()];
        let config = Config::layered(Preset::Paper.config(1_000_000), None, &set).unwrap();
        assert_eq!((config.search.evaluations, config.search.top_k), (32, 15));
        assert_eq!(config.train.final_batch_size, Some(256));
    }
}
