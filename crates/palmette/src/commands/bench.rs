//! `palmette bench`: strategies compared on tables of trained networks, rankings with training.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use palmette_search::bench::{
    LabelStudy, Method, ParetoStudy, RegretStudy, ShrinkStudy, label_study, pareto_study,
    regret_study, shrink_study,
};
use palmette_search::shrink::{ShrinkConfig, autocorrelation};
use palmette_search::tables::{OwnTable, Role, Table, TableDomain, open_parquet, read_csv};
use serde::Serialize;

use crate::bench_page;
use palmette::console::Console;

const EXAMPLES: &str = "\
Examples:
  palmette bench search nb201_all.parquet --seeds 300 -o bench/
  palmette bench search nb201_all.parquet --study shrink --transfer cifar100-val@12ep
  palmette bench search nb201_all.parquet --study pareto --cost lat_pixel3
  palmette bench search own.csv --score accuracy --methods random,local-search

A CSV file has a header, one row a network: columns of the genotype, and of a score (higher is
better). Known Parquet tables: NAS-Bench-201, NAS-Bench-Macro, Accel-NASBench. A table that lacks
networks of its space is a pool: strategies take the nearest row that is new.";

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  palmette bench search nb201_all.parquet --seeds 300 -o bench/
  palmette bench ranking log --networks 100 --seeds 2

Each has its own --help.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Compare search strategies on a table of trained networks
    Search(SearchArgs),
    /// Compare a supernet's ranking of random networks with training each from scratch
    Ranking(super::bench_ranking::Args),
}

/// What is studied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Study {
    /// Regret against evaluations, over paired seeds
    Regret,
    /// Autocorrelation of the quality by Hamming distance
    Locality,
    /// Shrinking, its baselines, and searches of what is left
    Shrink,
    /// Hypervolume of quality and cost against evaluations
    Pareto,
    /// Kendall's tau of predictors against their number of labels
    Labels,
}

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
struct SearchArgs {
    /// Table: a Parquet file of a known benchmark, or a CSV file of your own
    #[arg(value_name = "TABLE")]
    table: PathBuf,
    /// Column that searches see (default: the table's first)
    #[arg(long, value_name = "COLUMN")]
    score: Option<String>,
    /// Studies to run
    #[arg(long, value_enum, value_delimiter = ',', default_value = "regret")]
    study: Vec<Study>,
    /// Methods, the first being what the others are compared with (default: all for one objective)
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    methods: Vec<String>,
    /// Numbers of distinct evaluations to report
    #[arg(long, value_delimiter = ',', default_values_t = [50, 100, 300, 500])]
    evaluations: Vec<usize>,
    /// Numbers of labels of the labels study
    #[arg(long, value_delimiter = ',', default_values_t = [25, 50, 100, 200, 400])]
    labels: Vec<usize>,
    /// Seeds 0..N, the same for every method
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    seeds: u32,
    /// Hard limit on a cost column [example: lat_pixel3=10]
    #[arg(long, value_name = "COLUMN=VALUE")]
    limit: Option<String>,
    /// Cost column: the second objective of the pareto study; for CSV also what a limit may name
    #[arg(long, value_name = "COLUMN")]
    cost: Option<String>,
    /// Columns to search after shrinking, with nothing carried over
    #[arg(long, value_delimiter = ',', value_name = "COLUMN")]
    transfer: Vec<String>,
    /// Deal the qualities to other networks: every method must then fall to random search
    #[arg(long)]
    permute: bool,
    /// CSV: columns of the genotype (default: all others)
    #[arg(long, value_delimiter = ',', value_name = "COLUMN")]
    genotype: Vec<String>,
    /// CSV: columns that only the final report may see
    #[arg(long, value_delimiter = ',', value_name = "COLUMN")]
    test: Vec<String>,
    /// Folder for search.json and search.html
    #[arg(short, long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

/// Everything that was found.
#[derive(Serialize)]
pub struct Report {
    /// The table's name.
    pub table: String,
    /// Networks in it.
    pub networks: usize,
    /// Whether it is a pool.
    pub is_pool: bool,
    /// The column searched.
    pub quality: String,
    /// Whether qualities were permuted.
    pub permuted: bool,
    /// Regret study.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regret: Option<RegretStudy>,
    /// Autocorrelation at distance 1, 2, ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autocorrelation: Option<Vec<f64>>,
    /// Shrinking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shrink: Option<ShrinkStudy>,
    /// Predictors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelStudy>,
    /// Two objectives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pareto: Option<ParetoStudy>,
}

pub fn run(args: &Args, console: &Console) -> anyhow::Result<ExitCode> {
    match &args.what {
        What::Search(args) => search(args, console),
        What::Ranking(args) => super::bench_ranking::run(args, console),
    }
}

fn search(args: &SearchArgs, console: &Console) -> anyhow::Result<ExitCode> {
    let mut table = read_table(args)?;
    if args.permute {
        table = table.permuted(0);
    }
    let quality = quality_column(args, &table)?;
    let domain = match &args.limit {
        None => TableDomain::new(&table),
        Some(limit) => {
            let (cost, most) =
                limit.split_once('=').context("write the limit like lat_pixel3=10")?;
            let most: f64 =
                most.parse().with_context(|| format!("limit `{limit}`: `{most}` is no number"))?;
            TableDomain::limited(&table, cost, most).with_context(|| {
                format!(
                    "no network of the table has `{cost}` of at most {most}; cost columns: {}",
                    names(&table, Role::Cost)
                )
            })?
        }
    };
    let seeds = args.seeds as usize;
    let runs = |study| args.study.contains(&study);
    let mut report = Report {
        table: table.name().to_owned(),
        networks: table.genotypes().len(),
        is_pool: !table.is_complete(),
        quality: quality.clone(),
        permuted: args.permute,
        regret: None,
        autocorrelation: None,
        shrink: None,
        labels: None,
        pareto: None,
    };
    if runs(Study::Regret) {
        let defaults = [
            Method::Random,
            Method::Evolution,
            Method::NasRecEvolution,
            Method::Metropolis,
            Method::Nsga2,
            Method::FarthestGreedy,
            Method::LocalSearch,
            Method::PredictorGuided,
        ];
        let methods = methods(args, &defaults)?;
        let note = |name: &str| console.note(&format!("{name}: {seeds} searches"));
        report.regret =
            Some(regret_study(&domain, &quality, &methods, &args.evaluations, seeds, note)?);
    }
    if runs(Study::Locality) {
        let values = &table.column(&quality).context("the column is gone")?.values;
        report.autocorrelation = Some(autocorrelation(table.space(), table.genotypes(), values));
    }
    if runs(Study::Shrink) {
        let config = ShrinkConfig::default();
        report.shrink = Some(shrink_study(&domain, &quality, &args.transfer, &config, seeds)?);
    }
    if runs(Study::Labels) {
        // Cells of NAS-Bench-201 have isomorphs; the gene of a missing edge is 0.
        let absent = (table.name() == "nas-bench-201").then_some(0);
        report.labels = Some(label_study(&table, &quality, &args.labels, absent, seeds)?);
    }
    if runs(Study::Pareto) {
        let cost = args.cost.as_deref().with_context(|| {
            format!("the pareto study needs --cost; cost columns: {}", names(&table, Role::Cost))
        })?;
        let methods = methods(args, &[Method::Random, Method::Nsga2])?;
        report.pareto =
            Some(pareto_study(&domain, &quality, cost, &methods, &args.evaluations, seeds)?);
    }
    if let Some(folder) = &args.output {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let write = |name: &str, text: String| {
            let file = folder.join(name);
            std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
        };
        write("search.json", serde_json::to_string_pretty(&report)?)?;
        write("search.html", bench_page::page(&report))?;
        console.note(&format!("wrote {}", folder.join("search.html").display()));
    }
    console.result(&report, || bench_page::text(&report))?;
    Ok(ExitCode::SUCCESS)
}

fn read_table(args: &SearchArgs) -> anyhow::Result<Table> {
    if args.table.extension().is_some_and(|extension| extension == "parquet") {
        return Ok(open_parquet(&args.table)?);
    }
    let own = OwnTable {
        genotype: args.genotype.clone(),
        score: args.score.clone().context("a CSV table needs --score COLUMN")?,
        test: args.test.clone(),
        costs: args.cost.iter().cloned().collect(),
    };
    Ok(read_csv(&args.table, &own)?)
}

fn quality_column(args: &SearchArgs, table: &Table) -> anyhow::Result<String> {
    let known = names(table, Role::Validation);
    let mut columns = table.columns().iter().filter(|column| column.role == Role::Validation);
    let column = match &args.score {
        Some(name) => columns.find(|column| column.name == *name),
        None => columns.next(),
    };
    let column = column.with_context(|| format!("--score: needed one of {known}"))?;
    Ok(column.name.clone())
}

fn methods(args: &SearchArgs, defaults: &[Method]) -> anyhow::Result<Vec<Method>> {
    if args.methods.is_empty() {
        return Ok(defaults.to_vec());
    }
    let known = Method::ALL.map(Method::name).join(", ");
    args.methods
        .iter()
        .map(|name| {
            Method::find(name).with_context(|| format!("no method `{name}`; known: {known}"))
        })
        .collect()
}

fn names(table: &Table, role: Role) -> String {
    let names = table.columns().iter().filter(|column| column.role == role);
    names.map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
}
