//! `palmette bench search`: strategies compared on tables of trained networks.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use palmette::console::Console;
use palmette::run::write_whole;
use palmette::studies::{SearchReport, Studied, SurrogateFit, page, text};
use palmette_search::bench::{
    LabelPlan, Method, PredictorKind, RegretPlan, check_evaluations, label_study, leakage_study,
    limit_study, mean_ranks, pareto_study, regret_study, shrink_study, speed_study,
    surrogate_study,
};
use palmette_search::shrink::{ShrinkConfig, autocorrelation};
use palmette_search::tables::{
    OwnTable, Role, Surrogate, Table, TableDomain, measurement_like, open_parquet, read_csv,
};

const EXAMPLES: &str = "\
Examples:
  palmette bench search nb201_all.parquet nas_bench_macro.parquet -o bench/
  palmette bench search nb201_all.parquet --score cifar10-val@12ep,cifar100-val@12ep
  palmette bench search nb201_all.parquet --study shrink --transfer cifar100-val@12ep
  palmette bench search nb201_all.parquet --study limits,pareto --seeds 100
  palmette bench search accel_nasbench_imagenet.parquet --study regret,surrogate,labels
  palmette bench search own.csv --score accuracy --methods random,local-search

A CSV file has a header, one row a network: columns of the genotype, and of a score (higher is
better). Known Parquet tables: NAS-Bench-201, NAS-Bench-Macro, Accel-NASBench. A table that lacks
networks of its space is a pool: strategies take the nearest row that is new; the surrogate study
fits such a table and searches its whole space instead. An evaluation is a distinct network.";

/// What is studied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Study {
    /// Regret against evaluations, over paired seeds
    Regret,
    /// The same on boosted trees fitted to a pool, over its whole space
    Surrogate,
    /// Autocorrelation of the quality by Hamming distance
    Locality,
    /// Shrinking, its baselines, and searches of what is left
    Shrink,
    /// Kendall's tau of predictors against their number of labels
    Labels,
    /// Regret under a hard limit on each cost in turn
    Limits,
    /// Hypervolume of quality and each cost against evaluations
    Pareto,
    /// Regret on permuted qualities, where nothing may be better than chance
    Leakage,
    /// Rounds a second, and seconds for 1,000 searches (the only study with a clock)
    Speed,
}

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Tables: Parquet files of known benchmarks, or CSV files of your own
    #[arg(value_name = "TABLE", required = true)]
    tables: Vec<PathBuf>,
    /// Columns that searches see, one after another (default: each table's first)
    #[arg(long, value_delimiter = ',', value_name = "COLUMN")]
    score: Vec<String>,
    /// Studies to run
    #[arg(long, value_enum, value_delimiter = ',', default_value = "regret")]
    study: Vec<Study>,
    /// Methods (default: those that the study is about)
    #[arg(long, value_delimiter = ',', value_name = "NAME", value_parser = method_parser())]
    methods: Vec<Method>,
    /// Method that the others are compared with, seed by seed (default: the first)
    #[arg(long, value_name = "NAME", value_parser = method_parser())]
    against: Option<Method>,
    /// Numbers of distinct evaluations to report; studies of one number take the largest
    #[arg(long, value_delimiter = ',', default_values_t = [50, 100, 300, 500], value_parser = positive())]
    evaluations: Vec<u64>,
    /// Seeds 0..N, the same for every method
    #[arg(long, default_value_t = 300, value_parser = positive())]
    seeds: u64,
    /// Hard limit on a cost column, for regret and shrinking [example: lat_pixel3=10]
    #[arg(long, value_name = "COLUMN=VALUE")]
    limit: Option<String>,
    /// Share of the networks that the limits study admits
    #[arg(long, value_name = "SHARE", default_value_t = 0.25)]
    admitted: f64,
    /// Cost columns: second objectives, and the first pre-trains predictors (default: the table's)
    #[arg(long, value_delimiter = ',', value_name = "COLUMN")]
    cost: Vec<String>,
    /// Columns to search after shrinking, with nothing carried over
    #[arg(long, value_delimiter = ',', value_name = "COLUMN")]
    transfer: Vec<String>,
    /// Predictors of the labels study (default: all)
    #[arg(long, value_delimiter = ',', value_name = "NAME", value_parser = predictor_parser())]
    predictors: Vec<PredictorKind>,
    /// Numbers of labels of the labels study
    #[arg(long, value_delimiter = ',', default_values_t = [50, 100, 200, 400], value_parser = positive())]
    labels: Vec<u64>,
    /// Splits of the labels study
    #[arg(long, default_value_t = 30, value_parser = positive())]
    splits: u64,
    /// Deal the qualities to other networks before anything else
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

fn method_parser() -> impl TypedValueParser<Value = Method> {
    PossibleValuesParser::new(Method::ALL.map(Method::name))
        .try_map(|name| Method::find(&name).ok_or("unknown method"))
}

fn predictor_parser() -> impl TypedValueParser<Value = PredictorKind> {
    PossibleValuesParser::new(PredictorKind::ALL.map(PredictorKind::name))
        .try_map(|name| PredictorKind::find(&name).ok_or("unknown predictor"))
}

fn positive() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=1_000_000_000)
}

pub fn run(args: &Args, console: &Console) -> anyhow::Result<ExitCode> {
    if !(args.admitted > 0.0 && args.admitted <= 1.0) {
        bail!("--admitted {}: needed is a share above 0, at most 1", args.admitted);
    }
    let mut report = SearchReport::default();
    let mut tables = Vec::new();
    for file in &args.tables {
        let table = read_table(args, file)?;
        if args.genotype.is_empty() {
            for name in measurement_like(&table) {
                let warning = format!(
                    "{}: column `{name}` became a choice of the genotype, yet nearly every row has \
                     its own number there; if it was measured, name it with --score, --test or \
                     --cost, else name the genotype with --genotype",
                    table.name()
                );
                console.note(&format!("warning: {warning}"));
                report.warnings.push(warning);
            }
        }
        tables.push(table);
    }
    names_exist(args, &tables)?;
    let mut searched = Vec::new();
    for table in tables {
        let qualities = qualities(args, &table)?;
        searched.push((if args.permute { table.permuted(0) } else { table }, qualities));
    }
    for (table, qualities) in &searched {
        let domain = domain(args, table)?;
        for quality in qualities {
            report.studied.push(study(args, &domain, quality, console)?);
        }
    }
    let studies: Vec<_> =
        report.studied.iter().flat_map(|studied| studied.regret.iter().cloned()).collect();
    if studies.len() > 1 {
        report.checkpoints = studies[0].checkpoints.clone();
        report.mean_ranks = mean_ranks(&studies);
    }
    if let Some(folder) = &args.output {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        for (name, text) in [
            ("search.json", serde_json::to_string_pretty(&report)?),
            ("search.html", page(&report)),
        ] {
            let file = folder.join(name);
            write_whole(&file, |out| Ok(out.write_all(text.as_bytes())?))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        console.note(&format!("wrote {}", folder.join("search.html").display()));
    }
    console.result(&report, || text(&report))?;
    Ok(ExitCode::SUCCESS)
}

/// All studies of one quality.
fn study(
    args: &Args,
    domain: &TableDomain<'_>,
    quality: &str,
    console: &Console,
) -> anyhow::Result<Studied> {
    let table = domain.table();
    let seeds = args.seeds as usize;
    let checkpoints: Vec<usize> = args.evaluations.iter().map(|&n| n as usize).collect();
    let most = checkpoints.iter().copied().max().unwrap_or(1);
    check_evaluations(table, &checkpoints)?;
    let methods = |defaults: &[Method]| match &args.methods[..] {
        [] => defaults.to_vec(),
        methods => methods.to_vec(),
    };
    let mut studied = Studied {
        table: table.name().to_owned(),
        networks: table.genotypes().len(),
        is_pool: !table.is_complete(),
        genotype: table.space().choices().iter().map(|choice| choice.name.clone()).collect(),
        quality: quality.to_owned(),
        is_permuted: args.permute,
        ..Studied::default()
    };
    for study in ordered(&args.study) {
        let name = study.to_possible_value().map_or(String::new(), |v| v.get_name().to_owned());
        let what = format!("{quality}, {name}");
        let ticking = |total: usize| console.progress(total as u64, &what);
        match study {
            Study::Surrogate if table.is_complete() => {
                console.note(&format!("{what}: the table is complete and needs none"));
            }
            Study::Regret | Study::Surrogate => {
                let methods = methods(&Method::COMPARED);
                let reference = args.against.unwrap_or(methods[0]);
                if !methods.contains(&reference) {
                    bail!("--against {}: needed is one of the methods compared", reference.name());
                }
                let checkpoints = checkpoints.clone();
                let plan = RegretPlan { methods, reference, checkpoints, seeds };
                let progress = ticking(plan.searches());
                let tick = || progress.add(1);
                let found = if study == Study::Regret {
                    regret_study(domain, quality, &plan, &tick)?
                } else {
                    let surrogate = Surrogate::fit(table, quality)
                        .context("a surrogate needs at least 20 rows to fit")?;
                    let (tau, held_out) = (surrogate.tau(), surrogate.held_out());
                    studied.surrogate = Some(SurrogateFit { tau, held_out });
                    surrogate_study(&surrogate, table, quality, &plan, &tick)?
                };
                studied.regret.push(found);
                progress.finish();
            }
            Study::Locality => {
                let column = table.column(quality).context("the column is gone")?;
                studied.autocorrelation =
                    Some(autocorrelation(table.space(), table.genotypes(), &column.values));
            }
            Study::Shrink => {
                let config = ShrinkConfig::default();
                let progress = ticking(seeds);
                let tick = || progress.add(1);
                studied.shrink =
                    Some(shrink_study(domain, quality, &args.transfer, &config, seeds, &tick)?);
                progress.finish();
            }
            Study::Labels => {
                let predictors = match &args.predictors[..] {
                    [] => PredictorKind::ALL.to_vec(),
                    predictors => predictors.to_vec(),
                };
                let labels: Vec<usize> = args.labels.iter().map(|&n| n as usize).collect();
                let cost = costs(args, table)?.into_iter().next();
                let plan = LabelPlan { predictors, labels, seeds: args.splits as usize, cost };
                let progress = ticking(plan.splits());
                let tick = || progress.add(1);
                studied.labels = Some(label_study(table, quality, &plan, &tick)?);
                progress.finish();
            }
            Study::Limits => {
                let methods = methods(&[Method::Random, Method::Evolution, Method::LocalSearch]);
                let costs = table.columns().iter().filter(|column| column.role == Role::Cost);
                let progress = ticking(costs.count() * methods.len() * seeds);
                let tick = || progress.add(1);
                let found =
                    limit_study(domain, quality, &methods, args.admitted, most, seeds, &tick)?;
                studied.limits = Some(found);
                progress.finish();
            }
            Study::Pareto => {
                let methods = methods(&[Method::Random, Method::Evolution, Method::Nsga2]);
                let costs = costs(args, table)?;
                if costs.is_empty() {
                    bail!("the pareto study needs a cost column, and the table has none");
                }
                let progress = ticking(costs.len() * methods.len() * seeds);
                let tick = || progress.add(1);
                for cost in &costs {
                    let found =
                        pareto_study(domain, quality, cost, &methods, &checkpoints, seeds, &tick)?;
                    studied.pareto.push(found);
                }
                progress.finish();
            }
            Study::Leakage => {
                let methods = methods(&Method::COMPARED);
                let progress = ticking(seeds);
                let tick = || progress.add(1);
                studied.leakage =
                    Some(leakage_study(domain, quality, &methods, most, seeds, &tick)?);
                progress.finish();
            }
            Study::Speed => {
                let methods = methods(&[Method::Random, Method::Evolution, Method::LocalSearch]);
                studied.speed = Some(speed_study(domain, quality, &methods, 1_000, most)?);
            }
        }
    }
    Ok(studied)
}

/// Each study once, in the order of the list of studies.
fn ordered(studies: &[Study]) -> Vec<Study> {
    let all = Study::value_variants().iter().copied();
    all.filter(|study| studies.contains(study)).collect()
}

fn read_table(args: &Args, file: &Path) -> anyhow::Result<Table> {
    if file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet")) {
        return Ok(open_parquet(file)?);
    }
    let own = OwnTable {
        genotype: args.genotype.clone(),
        score: args.score.clone(),
        test: args.test.clone(),
        costs: args.cost.clone(),
    };
    // Of several tables each has some of the columns; that every name is one somewhere is checked
    // when all are read.
    let own = if args.tables.len() > 1 { own.of_file(file)? } else { own };
    Ok(read_csv(file, &own)?)
}

/// Every name of a column must be one in some table, in the role that it is named for.
fn names_exist(args: &Args, tables: &[Table]) -> anyhow::Result<()> {
    let of_role = |role: Role| -> Vec<&str> {
        let columns = tables.iter().flat_map(Table::columns);
        columns.filter(|column| column.role == role).map(|column| column.name.as_str()).collect()
    };
    let choices = tables.iter().flat_map(|table| table.space().choices());
    let choices: Vec<&str> = choices.map(|choice| choice.name.as_str()).collect();
    let limit = args.limit.iter().filter_map(|limit| limit.split_once('='));
    let limit: Vec<String> = limit.map(|(name, _)| name.to_owned()).collect();
    for (option, named, known) in [
        ("--score", &args.score, of_role(Role::Validation)),
        ("--test", &args.test, of_role(Role::Test)),
        ("--cost", &args.cost, of_role(Role::Cost)),
        ("--genotype", &args.genotype, choices),
        ("--transfer", &args.transfer, of_role(Role::Validation)),
        ("--limit", &limit, of_role(Role::Cost)),
    ] {
        if let Some(unknown) = named.iter().find(|name| !known.contains(&name.as_str())) {
            bail!(unknown_column(option, unknown, &known));
        }
    }
    Ok(())
}

/// What is wrong with a name, and which of the known ones was probably meant.
fn unknown_column(option: &str, unknown: &str, known: &[&str]) -> String {
    let likeness = |name: &&&str| strsim::jaro_winkler(unknown, name);
    let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let meant = match nearest.filter(|name| likeness(name) > 0.7) {
        Some(name) => format!("; did you mean `{name}`?"),
        None if known.is_empty() => "; the tables have none".to_owned(),
        None => format!("; there are: {}", known.join(", ")),
    };
    format!("{option} {unknown}: no table has such a column in that role{meant}")
}

/// The columns to search: those named that the table has, or its first.
fn qualities(args: &Args, table: &Table) -> anyhow::Result<Vec<String>> {
    let known = || table.columns().iter().filter(|column| column.role == Role::Validation);
    let found: Vec<String> = match &args.score[..] {
        [] => known().take(1).map(|column| column.name.clone()).collect(),
        named => {
            let has = |name: &&String| known().any(|column| column.name == **name);
            named.iter().filter(has).cloned().collect()
        }
    };
    if found.is_empty() {
        let known = names(table, Role::Validation);
        bail!("{}: no such score; --score must name one of {known}", table.name());
    }
    Ok(found)
}

/// The cost columns named, or all that the table has.
fn costs(args: &Args, table: &Table) -> anyhow::Result<Vec<String>> {
    let known: Vec<&str> = table
        .columns()
        .iter()
        .filter(|column| column.role == Role::Cost)
        .map(|column| column.name.as_str())
        .collect();
    if let Some(unknown) = args.cost.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("--cost {unknown}: {} has {}", table.name(), names(table, Role::Cost));
    }
    Ok(match &args.cost[..] {
        [] => known.into_iter().map(str::to_owned).collect(),
        named => named.to_vec(),
    })
}

fn domain<'a>(args: &Args, table: &'a Table) -> anyhow::Result<TableDomain<'a>> {
    let Some(limit) = &args.limit else { return Ok(TableDomain::new(table)) };
    let (cost, most) = limit.split_once('=').context("write the limit like lat_pixel3=10")?;
    let most: f64 =
        most.parse().with_context(|| format!("limit `{limit}`: `{most}` is no number"))?;
    TableDomain::limited(table, cost, most).with_context(|| {
        format!(
            "no network of the table has `{cost}` of at most {most}; cost columns: {}",
            names(table, Role::Cost)
        )
    })
}

fn names(table: &Table, role: Role) -> String {
    let names = table.columns().iter().filter(|column| column.role == role);
    let names: Vec<&str> = names.map(|column| column.name.as_str()).collect();
    if names.is_empty() { "no such column".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_column_is_answered_with_the_nearest() {
        let known = ["lat_pixel3", "macs"];
        let near = unknown_column("--limit", "lat_pixl3", &known);
        assert!(near.starts_with("--limit lat_pixl3: no table has such a column"), "{near}");
        assert!(near.ends_with("did you mean `lat_pixel3`?"), "{near}");
        let far = unknown_column("--cost", "zzz", &known);
        assert!(far.ends_with("there are: lat_pixel3, macs"), "{far}");
        assert!(unknown_column("--test", "zzz", &[]).ends_with("the tables have none"));
    }
}
