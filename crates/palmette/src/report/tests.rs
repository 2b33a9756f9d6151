//! A report on made-up data, and reports on parts of it.

use palmette_ctr::nasrec::Shape;
use palmette_random::{Draw, stream};

use super::*;
use crate::drawing::{Drawing, architecture_svg, tests};

/// Made-up data, and the page says so.
fn example(low: f64, high: f64) -> ReportData {
    let mut random = stream(1, "test/report", 0);
    let mut noise = move |scale: f64| scale * random.normal();
    let progress: Vec<Evaluated> = (0..256)
        .map(|i| {
            let trend = 0.4520 + 0.006 * (-f64::from(i) / 60.0).exp();
            let loss = trend + noise(0.0009).abs();
            Evaluated { log_loss: (i % 23 != 7).then_some(loss) }
        })
        .collect();
    let model = |name: &str, origin, macs: u64, log_loss| CostedModel {
        name: name.into(),
        origin,
        macs,
        log_loss,
    };
    let mut models = vec![
        model("LR", Origin::Baseline, 400, 0.4632),
        model("FM", Origin::Baseline, 7_000, 0.4591),
        model("MLP", Origin::Baseline, 420_000, 0.4561),
        model("DeepFM", Origin::Baseline, 430_000, 0.4548),
        model("DCN-v2", Origin::Baseline, 1_900_000, 0.4543),
        model("searched 3", Origin::Chosen, 1_210_000, 0.4521),
    ];
    for i in 0..8u32 {
        let macs = (3.0e5 * f64::from(i + 1).powf(1.1)) as u64;
        models.push(model("searched", Origin::Searched, macs, 0.4527 + noise(0.0006).abs()));
        models.push(model("random", Origin::Random, macs * 2, 0.4540 + noise(0.0009)));
    }
    let pairs = (0..100)
        .map(|_| {
            let quality = noise(0.002);
            (0.4571 + quality + noise(0.0012), 0.4543 + quality + noise(0.0004))
        })
        .collect();
    let bins = (1..=20)
        .map(|i| {
            let predicted = 0.02 + 0.7 * (f64::from(i) / 20.0).powi(2);
            let observed = (predicted + noise(0.012)).clamp(0.001, 0.99);
            let half = 0.02 + 0.02 * observed;
            CalibrationBin {
                predicted,
                observed,
                low: observed - half.min(observed),
                high: observed + half,
            }
        })
        .collect();
    let middle = (low + high) / 2.0;
    let difference = |shift: f64| {
        Some(Difference {
            difference: middle + shift,
            low: low + shift,
            high: high + shift,
            confidence: 0.95,
        })
    };
    let compared = |name: &str, origin, log_loss: f64, macs: u64, difference| Compared {
        name: name.into(),
        origin,
        seeds: 5,
        log_loss: Spread { mean: log_loss, deviation: Some(0.00021) },
        auc: Some(Spread { mean: 1.25 - log_loss, deviation: Some(0.0004) }),
        macs: Some(macs),
        difference,
    };
    let path = tests::parse(tests::CRITEO_FULL);
    let drawing = Drawing {
        title: "searched 3",
        subtitle: "1.45 M multiply-accumulates a sample",
        ..Drawing::new(&path, Shape { dense: 13, fields: 26 })
    };
    ReportData {
        title: "Made-up test data: no figure here was measured".into(),
        verdict: Some(Verdict {
            incumbent: "DeepFM".into(),
            own: true,
            difference: Difference { difference: middle, low, high, confidence: 0.95 },
            resampled: "61 days".into(),
        }),
        dataset: Some(DatasetFacts {
            name: "made-up log".into(),
            train_rows: 240_000,
            validation_rows: 27_346,
            test_rows: 60_000,
            base_rate: Some(0.2371),
            weighted: false,
            dense_fields: 13,
            categorical_fields: 26,
            fingerprint: Some("0123456789abcdef0123456789abcdef".into()),
        }),
        test: Some(TestMetrics {
            log_loss: 0.45213,
            bayes_log_loss: Some(0.44102),
            auc: Some(0.79811),
            grouped_auc: Some(0.70112),
            normalised_entropy: Some(0.82341),
        }),
        cost: Some(Cost { macs: 1_448_000, params: 1_312_000, embedding_params: 49_100_000 }),
        progress,
        models,
        rank: Some(RankAgreement {
            pairs,
            tau: 0.58,
            interval: Some((0.49, 0.66)),
            ceiling: Some(0.81),
            macs_tau: Some(0.12),
        }),
        drawing: Some(architecture_svg(&drawing).unwrap()),
        calibration: Some(CalibrationPlot { ratio: Some(1.013), expected_error: 0.0087, bins }),
        comparison: vec![
            compared("searched 3", Origin::Chosen, 0.45213, 1_448_000, None),
            compared("random search", Origin::Random, 0.45302, 2_100_000, difference(0.0012)),
            compared("DCN-v2", Origin::Baseline, 0.45433, 1_900_000, difference(0.0003)),
            compared("DeepFM", Origin::Baseline, 0.45482, 430_000, difference(0.0)),
            compared("MLP", Origin::Baseline, 0.45611, 420_000, difference(-0.0011)),
            compared("<b>yours</b>", Origin::Baseline, 0.46011, 96_000, difference(0.0049)),
        ],
        phases: [
            ("prepare", 12.4),
            ("supernet", 1803.0),
            ("search", 932.0),
            ("retrain", 2410.0),
            ("baselines", 640.0),
        ]
        .map(|(name, seconds)| Phase { name: name.into(), seconds })
        .to_vec(),
        command: Some("palmette search --data dataset --budget 20m --limit macs=1.5M".into()),
        configuration: Some("[search]\npopulation = 128\n\n[run]\nseed = 7\n".into()),
        notes: vec!["The interval covers the draw of test days, not the draw of seeds.".into()],
    }
}

#[test]
fn the_first_line_says_ship_or_keep() {
    let check = |low: f64, high: f64, headline: &str, detail: &str| {
        let page = render(&example(low, high)).unwrap();
        let first = page.split("<h1>").nth(1).unwrap().split("</h1>").next().unwrap();
        assert_eq!(first, headline);
        assert!(page.contains(detail), "{detail}");
        show(&headline[..4].to_lowercase(), &page);
    };
    check(
        -0.0043,
        -0.0021,
        "Ship the searched model",
        "test log loss is 0.00320 below DeepFM’s (paired 95 % interval −0.00430 to −0.00210, bootstrap over 61 days)",
    );
    check(
        -0.0012,
        0.0004,
        "Keep DeepFM",
        "is not shown to be better: test log loss differs by −0.00040",
    );
    check(
        0.0002,
        0.0014,
        "Keep DeepFM",
        "The searched model is worse: test log loss differs by +0.00080",
    );
}

/// The page said to keep a model that exists only inside the run, also where nothing was decided.
#[test]
fn without_a_model_of_the_user_nothing_is_kept() {
    let check = |low: f64, high: f64, headline: &str| {
        let mut data = example(low, high);
        data.verdict.as_mut().unwrap().own = false;
        let page = render(&data).unwrap();
        assert!(page.contains(&format!("<h1>{headline}</h1>")), "{headline}");
    };
    check(-0.003, -0.001, "Ship the searched model");
    check(-0.003, 0.001, "No clear winner");
    check(0.001, 0.003, "DeepFM is better");
}

/// `PALMETTE_SHOW=folder` keeps the pages to look at.
fn show(name: &str, page: &str) {
    if let Ok(folder) = std::env::var("PALMETTE_SHOW") {
        std::fs::write(format!("{folder}/report-{name}.html"), page).unwrap();
    }
}

#[test]
fn the_page_needs_nothing_else_and_escapes_what_users_wrote() {
    let page = render(&example(-0.0043, -0.0021)).unwrap();
    for forbidden in ["<script", "src=", "href=", "@import", "url(http", "<b>yours"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    // The only address is the name of the SVG namespace.
    let addresses = page.matches("http").count();
    assert_eq!(addresses, page.matches("http://www.w3.org/2000/svg").count());
    assert!(page.contains("&lt;b&gt;yours&lt;&#x2f;b&gt;"));
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert_eq!(page.matches("<section").count(), page.matches("</section>").count());
    assert!(!page.contains("NaN") && !page.contains("inf\""), "a coordinate is not a number");
    for part in ["Search", "Cost and quality", "Calibration", "Does the supernet rank?", "Time"] {
        assert!(page.contains(&format!("<h2>{part}</h2>")), "{part}");
    }
}

#[test]
fn a_partial_run_reports_what_it_has() {
    let page = render(&ReportData::default()).unwrap();
    assert!(page.contains("<h1>No verdict</h1>") && !page.contains("<h2>"));
    let whole = example(-0.0043, -0.0021);
    let partial = ReportData { progress: whole.progress.clone(), ..ReportData::default() };
    let page = render(&partial).unwrap();
    assert!(page.contains("<h2>Search</h2>") && page.matches("<h2>").count() == 1);
    assert!(page.contains("256 evaluations, 11 of them diverged or over a limit"));
    // Data that a killed run may leave: nothing feasible, one model, equal numbers.
    let odd = ReportData {
        progress: vec![Evaluated { log_loss: None }; 3],
        models: vec![CostedModel {
            name: "only".into(),
            origin: Origin::Chosen,
            macs: 0,
            log_loss: 0.5,
        }],
        rank: Some(RankAgreement { pairs: vec![(0.5, 0.5); 2], ..RankAgreement::default() }),
        phases: vec![Phase { name: "none".into(), seconds: 0.0 }],
        ..ReportData::default()
    };
    let page = render(&odd).unwrap();
    assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
}

#[test]
fn data_round_trip_through_json() {
    let data = example(-0.0043, -0.0021);
    let text = serde_json::to_string(&data).unwrap();
    let back: ReportData = serde_json::from_str(&text).unwrap();
    assert!(back == data, "every number must keep its bits");
    let error = serde_json::from_str::<ReportData>("{\"verdictt\": null}").unwrap_err();
    assert!(error.to_string().contains("unknown field `verdictt`"), "{error}");
}

#[test]
fn the_front_is_what_nobody_beats_in_both() {
    let data = example(-0.0043, -0.0021);
    let front = charts::front(&data.models);
    for model in &data.models {
        let beaten = data.models.iter().any(|other| {
            (other.macs < model.macs && other.log_loss <= model.log_loss)
                || (other.macs <= model.macs && other.log_loss < model.log_loss)
        });
        assert_eq!(front.contains(&model), !beaten, "{}", model.name);
    }
}

/// The texts of a chart's names with the rectangles that they cover.
fn name_extents(svg: &str) -> Vec<(String, [f64; 4])> {
    let attribute = |tag: &str, key: &str| -> f64 {
        let rest = tag.split_once(&format!("{key}=\"")).unwrap().1;
        rest.split_once('"').unwrap().0.parse().unwrap()
    };
    let names = svg.split("<text class=\"name").skip(1);
    names
        .map(|tag| {
            let (head, rest) = tag.split_once('>').unwrap();
            let text = rest.split_once('<').unwrap().0.to_owned();
            let (x, y) = (attribute(head, "x"), attribute(head, "y"));
            let width = 6.3 * text.chars().count() as f64;
            let left = if head.starts_with(" end") { x - width } else { x };
            (text, [left, left + width, y - 9.0, y + 2.0])
        })
        .collect()
}

#[test]
fn names_of_models_that_cost_the_same_do_not_overlap() {
    let model = |name: &str, macs, log_loss| CostedModel {
        name: name.into(),
        origin: if name == "the chosen model" { Origin::Chosen } else { Origin::Baseline },
        macs,
        log_loss,
    };
    let mut models = vec![
        model("the chosen model", 120_000, 0.4500),
        model("mlp-equal", 120_000, 0.4502),
        model("deepfm", 121_000, 0.4503),
        model("dlrm", 119_000, 0.4501),
        model("autoint-plus", 120_500, 0.4502),
        model("dcn-v2", 122_000, 0.4502),
        model("lr", 40, 0.4700),
        model("fm", 40, 0.4699),
    ];
    for _ in 0..2 {
        let svg = charts::pareto(&models).unwrap();
        show("pareto", &svg);
        let names = name_extents(&svg);
        assert_eq!(names.len(), models.len());
        for (i, (a, [left, right, top, bottom])) in names.iter().enumerate() {
            assert!(*left >= 60.0 && *right <= 520.0 && *top >= 15.0 && *bottom <= 300.0, "{a}");
            for (b, [other_left, other_right, other_top, other_bottom]) in &names[..i] {
                let apart = left >= other_right
                    || other_left >= right
                    || top >= other_bottom
                    || other_top >= bottom;
                assert!(apart, "{a} over {b}: {svg}");
            }
        }
        // And when all of them cost nearly the same, at the right edge.
        models.iter_mut().for_each(|m| m.macs = 100_000 + m.macs / 1000);
        models[7].macs = 10;
    }
}
