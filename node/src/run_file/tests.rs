use paceline_model::data::{Column, ColumnKind, Table};
use paceline_model::{Fit, Layer, Moment, Partition, Rule, Source, TrainConfig};
use paceline_protocol::runfile::{RoundSection, RunSection, SEED_MAX};
use proptest::prelude::*;

use super::*;

const SMALL: &str = "[run]\nname = \"a\"\nrounds = 5\n[model]\narch = \"mlp\"\n[data]\ndataset = \"mnist\"\n";

fn small() -> RunFile {
    parse(SMALL, "a.toml").expect("the smallest run file parses")
}

fn error(text: &str) -> String {
    parse(text, "a.toml").expect_err("the text is wrong").to_string()
}

#[test]
fn left_out_keys_have_the_defaults_of_the_design() {
    let learning = small().learning;
    let default = TrainConfig::sgd(1, 50, 0.05);
    assert_eq!((learning.train.config, learning.train.settings), (default, None));
    assert_eq!((learning.data.partition, learning.rule), (Partition::Iid, Rule::FedAvg));
    let shapes = parse(&SMALL.replace("mnist", "shapes"), "a.toml").expect("it has no other key");
    assert_eq!(shapes.learning.data.source, Some(Source::Shapes { samples: 5000 }));
}

#[test]
fn the_template_parses_and_shows_the_defaults() {
    let text = template(&[]);
    let parsed = parse(&text, "template").expect("the template parses");
    // Takes the "#" away from the lines that show a default of this template.
    let shows_default = |line: &str| {
        line.strip_prefix("# ").filter(|l| l.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))).is_some()
            && ![
                "classes",
                "image",
                "holdout",
                "fit",
                "layers",
                "settings",
                "weights",
                "trainable",
                "target",
                "patience",
                "time =",
            ]
            .iter()
            .any(|k| line.starts_with(&format!("# {k}")))
    };
    let uncommented: String =
        text.lines().map(|l| if shows_default(l) { format!("{}\n", &l[2..]) } else { format!("{l}\n") }).collect();
    assert!(uncommented.contains("\nlr_decay = 1.0"), "{uncommented}");
    assert_eq!(parse(&uncommented, "template"), Ok(parsed));
}

#[test]
fn the_template_shows_every_layer_and_the_defaults_of_every_rule() {
    let text = template(&[]);
    for layer in
        ["conv", "group_norm", "relu", "max_pool", "residual", "global_avg_pool", "flatten", "dropout", "linear"]
    {
        assert!(text.contains(&format!("{{ type = \"{layer}\"")), "{layer}");
    }
    assert!(text.contains("#   \"fedadam\":    lr = 0.01, beta1 = 0.9, beta2 = 0.99, tau = 0.001\n"), "{text}");
    let listed = text.lines().filter(|line| line.starts_with("#   \"")).count();
    assert_eq!(listed, Rule::NAMES.len() - 1);
}

#[test]
fn a_template_for_a_trainer_has_no_data_and_parses() {
    let text = template(&[("model", "arch", "\"trainer\"".to_owned()), ("train", "settings", "{ a = 1 }".to_owned())]);
    let parsed = parse(&text, "template").expect("the template parses");
    assert_eq!((parsed.learning.model.net(), &parsed.learning.data.source), (&Net::Trainer, &None));
}

#[test]
fn comments_and_order_do_not_change_the_run() {
    let other = "# mine\ndata = { dataset = \"mnist\" }\n[model]\narch='mlp'\n[run]\nrounds=0x5 # few\nname=\"a\"\n";
    let other = parse(other, "b.toml").expect("another spelling of the same");
    assert_eq!(other.run_id(), small().run_id());
}

#[test]
fn any_value_changes_the_run() {
    let mut other = small();
    other.learning.train.config.lr = 0.1;
    assert_ne!(other.run_id(), small().run_id());
}

#[test]
fn the_canonical_form_of_the_smallest_file_stays_as_it_is() {
    let expected = "[run]\nname = \"a\"\nrounds = 5\nmin_nodes = 3\nseed = 1\n\n[model]\narch = \"mlp\"\n\n[data]\n\
        dataset = \"mnist\"\npartition = \"iid\"\n\n[train]\nepochs = 1\nbatch = 50\nlr = 0.05\nlr_decay = 1.0\n\
        momentum = 0.0\nweight_decay = 0.0\nclip_norm = 0.0\nprox_mu = 0.0\naugment = true\n\n[round]\nfraction = 1.0\n\
        min_updates = \"majority\"\ntimeout = \"10min\"\nkeep_updates = 2\n\n[aggregate]\nrule = \"fedavg\"\n";
    assert_eq!(small().canonical(), expected);
}

#[test]
fn a_key_in_the_wrong_section_is_told_where_it_belongs() {
    assert_eq!(error(&format!("{SMALL}lr = 1\n")), "a.toml:8:1: unknown key `lr` in [data]: it belongs in [train]");
    assert_eq!(error("lr = 1\n"), "a.toml:1:1: unknown section `lr`: put it under [train]");
    let text = format!("{SMALL}[train]\nlrdecay = 1\n");
    assert_eq!(error(&text), "a.toml:9:1: unknown key `lrdecay` in [train]: did you mean `lr_decay`?");
}

#[test]
fn values_out_of_range_name_place_value_range_and_an_example() {
    let cases = [
        ("[train]\nlr = -1\n", "a.toml:9:6: `lr` in [train] is -1: expected a finite number above 0"),
        ("[train]\nlr = inf\n", "a.toml:9:6: `lr` in [train] is inf: expected a finite number above 0"),
        ("[train]\nbatch = 0\n", "a.toml:9:9: `batch` in [train] is 0: expected a whole number from 1 to 1048576"),
        ("[train]\nbatch = \"5\"\n", "a.toml:9:9: `batch` in [train] is \"5\": expected a whole number"),
        ("[train]\nsettings = 5\n", "a.toml:9:12: `settings` in [train] is 5: expected a table"),
        ("[metrics]\nlead = \"F1\"\n", "a.toml:9:8: `lead` in [metrics] is \"F1\": expected a name of a-z"),
        (
            "[aggregate]\nrule = \"fedav\"\n",
            "a.toml:9:8: `rule` in [aggregate] is \"fedav\": expected one of \"fedavg\"",
        ),
        ("samples = 5\n", "a.toml:8:11: `samples` in [data] goes with `dataset = \"shapes\"`"),
        (
            "partition = { shard = 2 }\n",
            "a.toml:8:15: unknown key `shard` in `partition` in [data]: did you mean `shards`?",
        ),
        ("partition = { shards = 2, labels = 2 }\n", "a.toml:8:36: `partition` in [data] has two keys"),
        ("partition = {}\n", "a.toml:8:13: `partition` in [data] is a table: expected \"iid\", {"),
    ];
    for (tail, expected) in cases {
        let found = error(&format!("{SMALL}{tail}"));
        assert!(found.starts_with(expected), "{found}\nexpected {expected}");
    }
}

#[test]
fn a_folder_needs_its_classes_and_the_size_of_its_images() {
    let folder = |keys: &str| SMALL.replace("\"mnist\"", &format!("\"folder\"\n{keys}"));
    assert_eq!(error(&folder("")), "a.toml:6:2: `classes` in [data] is missing: add `classes = [\"cat\", \"dog\"]`");
    assert!(error(&folder("classes = ['a', 'b']")).contains("`image` in [data] is missing"));
    assert!(error(&folder("classes = ['a', 'a']\nimage = [3, 8, 8]")).contains("class \"a\" is listed twice"));
    assert!(error(&folder("classes = ['a', 'b']\nimage = [2, 8, 8]")).contains("1 (grey) or 3 (colour) channels"));
    let sound = parse(&folder("classes = ['a', 'b']\nimage = [3, 8, 8]"), "a.toml").expect("it is all there");
    let Some(Source::Folder { holdout, fit, .. }) = sound.learning.data.source else { panic!("a folder") };
    assert_eq!((holdout, fit), (0.1, Fit::Exact));
}

#[test]
fn a_model_has_either_a_name_or_layers() {
    assert!(error(&SMALL.replace("arch = \"mlp\"", "")).contains("`arch` in [model] is missing: add `arch = "));
    let both = SMALL.replace("arch = \"mlp\"", "arch = \"mlp\"\nlayers = [{ type = 'relu' }]");
    assert!(error(&both).contains("[model] has both `arch` and `layers`"));
}

#[test]
fn a_trainer_brings_its_own_data_and_gets_its_settings_as_they_stand() {
    let text =
        "[run]\nname = \"a\"\nrounds = 5\n[model]\narch = \"trainer\"\n[train.settings]\nb = [1, 2.5]\na.c = \"x\"\n";
    let file = parse(text, "a.toml").expect("a trainer needs no data");
    let (train, settings) = file.learning.for_trainer();
    assert_eq!(settings, serde_json::json!({ "a": { "c": "x" }, "b": [1, 2.5] }));
    assert_eq!(
        (&train["batch"], &train["lr"], &train["settings"]),
        (&50.into(), &0.05.into(), &serde_json::Value::Null)
    );
    let again = parse(&file.canonical(), "canonical").expect("the canonical form parses");
    assert_eq!(again, file);
    assert!(error(&format!("{text}[data]\ndataset = \"shapes\"\n")).contains("a trainer has data of its own"));
    assert!(error(&format!("{text}[aggregate]\nrule = \"scaffold\"\n")).contains("a.toml:10:8: `rule = \"scaffold\"`"));
}

#[test]
fn a_parameter_that_the_rule_does_not_have_is_refused() {
    let found = error(&format!("{SMALL}[aggregate]\nrule = \"fedavg\"\nbeta1 = 0.5\n"));
    assert_eq!(found, "a.toml:10:9: `beta1` in [aggregate] has no meaning for `rule = \"fedavg\"`: remove it");
    let text = format!("{SMALL}[aggregate]\nrule = \"fedadam\"\nbeta1 = 0.5\n");
    let rule = parse(&text, "a.toml").expect("fedadam has it").learning.rule;
    let moment = Moment::Adam { beta2: 0.99 };
    assert_eq!(rule, Rule::Adaptive { moment, lr: 0.01, beta1: 0.5, tau: 0.001 });
}

#[test]
fn a_record_has_the_rule_on_one_line() {
    let text = format!("{SMALL}[aggregate]\nrule = \"fedavgm\"\n");
    let learning = parse(&text, "a.toml").expect("it is sound").learning;
    assert_eq!(learning.aggregation(), "rule = \"fedavgm\", lr = 1.0, momentum = 0.9");
}

#[test]
fn a_target_that_can_not_be_meant_is_refused() {
    let with = |target: &str| error(&format!("{SMALL}[stop]\ntarget = {target}\n"));
    assert!(with("90").ends_with("an accuracy is a share from 0 to 1: for 90 % say 0.9"), "{}", with("90"));
    assert!(with("0").contains("a.toml:9:10: `target` in [stop] is 0"), "{}", with("0"));
    assert!(parse(&format!("{SMALL}[stop]\ntarget = 1.0\n"), "a.toml").is_ok());
}

#[test]
fn scaffold_takes_no_momentum() {
    let text = format!("{SMALL}[train]\nmomentum = 0.9\n[aggregate]\nrule = \"scaffold\"\n");
    assert!(error(&text).starts_with("a.toml:9:12: `momentum` in [train] does not go with"), "{}", error(&text));
}

#[test]
fn scaffold_takes_no_learning_rate_that_drowns_in_rounding() {
    let scaffold = |train: &str| format!("{SMALL}[train]\n{train}\n[aggregate]\nrule = \"scaffold\"\n");
    let tiny = error(&scaffold("lr = 1e-12"));
    assert!(tiny.starts_with("a.toml:9:6: `lr` in [train] makes the last round's learning rate 1e-12"), "{tiny}");
    let decayed = error(&scaffold("lr = 0.1\nlr_decay = 0.001"));
    assert!(
        decayed.starts_with("a.toml:10:12: `lr_decay` in [train] makes") && decayed.contains("raise it"),
        "{decayed}"
    );
}

#[test]
fn a_layer_has_its_own_keys() {
    let with = |layer: &str| SMALL.replace("arch = \"mlp\"", &format!("layers = [{layer}]"));
    let file = parse(&with("{type='conv',out=8,kernel=5},{type='relu'}"), "a.toml").expect("layers");
    let layers = Net::Layers(vec![Layer::Conv { out: 8, kernel: 5, stride: 1, pad: 2 }, Layer::Relu]);
    assert_eq!(file.learning.model.net(), &layers);
    assert!(error(&with("{type='conv',out=8}")).contains("`kernel` in a `conv` layer is missing: add `kernel = 3`"));
    assert!(error(&with("{type='relu',out=8}")).contains("unknown key `out` in a `relu` layer"));
    assert!(error(&with("{type='max_pol',size=2}")).contains("did you mean \"max_pool\"?"));
    assert!(error(&with("{out=2}")).contains("`type` in item 1 of `layers` in [model] is missing"));
}

#[test]
fn metrics_at_their_defaults_leave_the_run_as_it_is() {
    let text = format!("{SMALL}[metrics]\nlead = \"accuracy\"\nbetter = \"higher\"\n");
    assert_eq!(parse(&text, "a.toml").expect("it is sound").run_id(), small().run_id());
    let text = format!("{SMALL}[metrics]\nlead = \"loss\"\nbetter = \"lower\"\n");
    let file = parse(&text, "a.toml").expect("it is sound");
    assert!(file.learning.metrics.is_better(0.5, 1.0) && !file.learning.metrics.is_better(1.0, 0.5));
    assert_eq!(parse(&file.canonical(), "canonical"), Ok(file));
}

const TABLE: &str = "[run]\nname = \"x\"\nrounds = 1\n[model]\narch = \"table-mlp\"\n[data]\ndataset = \"table\"\n";

#[test]
fn a_column_has_numbers_or_categories_and_stands_once() {
    let with = |target: &str, columns: &str| format!("{TABLE}target = {target}\ncolumns = {columns}\n");
    let kind = "{ name = \"kind\", categories = [\"cat\", \"dog\"] }";
    let age = "{ name = \"age\", mean = 4, deviation = 2.5 }";
    let file = parse(&with(kind, &format!("[{age}]")), "a.toml").expect("it is sound");
    let Some(Source::Table(table)) = file.learning.data.source else { panic!("it is a table") };
    assert_eq!((table.width(), table.holdout, table.target.categories().len()), (1, 0.1, 2));
    for (target, columns, expected) in [
        (kind, format!("[{age}, {age}]"), "a.toml:9:57: column \"age\" is listed twice"),
        (kind, format!("[{age}, {kind}]"), "column \"kind\" is the target"),
        (kind, "[{ name = \"age\", mean = 4 }]".to_owned(), "needs `mean` and `deviation`"),
        (kind, "[{ name = \"age\", mean = 4, deviation = 0 }]".to_owned(), "a finite number above 0"),
        (kind, "[{ name = \"sex\", categories = [\"f\", \"f\"] }]".to_owned(), "\"f\" is listed twice"),
        (kind, "[]".to_owned(), "a list of 1 to 1000"),
        (kind, format!("[{age}]\n[metrics]\nlead = \"loss\""), "lower values of loss are the better ones"),
        (age, "[{ name = \"sex\", categories = [\"f\", \"m\"] }]".to_owned(), "say `lead = \"mean_error\"`"),
    ] {
        let error = error(&with(target, &columns));
        assert!(error.contains(expected), "{columns}: {error}");
    }
    assert!(error(&format!("{SMALL}target = {kind}\n")).contains("goes with `dataset = \"table\"`"));
    assert!(error(TABLE).contains("`target` in [data] is missing"));
}

fn numbers(range: std::ops::Range<f64>) -> impl Strategy<Value = f64> {
    range.prop_map(|x| x + 0.0)
}

fn layers() -> impl Strategy<Value = Layer> {
    let side = 1..=1024usize;
    let width = 1..=1usize << 20;
    prop_oneof![
        (width.clone(), side.clone(), side.clone(), 0..=1024usize).prop_map(|(out, kernel, stride, pad)| Layer::Conv {
            out,
            kernel,
            stride,
            pad
        }),
        width.clone().prop_map(|groups| Layer::GroupNorm { groups }),
        Just(Layer::Relu),
        side.clone().prop_map(|size| Layer::MaxPool { size }),
        (width.clone(), side, width.clone()).prop_map(|(out, stride, groups)| Layer::Residual { out, stride, groups }),
        Just(Layer::GlobalAvgPool),
        Just(Layer::Flatten),
        width.prop_map(|out| Layer::Linear { out }),
        numbers(0.0..1.0).prop_map(|rate| Layer::Dropout { rate }),
    ]
}

fn models() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(paceline_model::spec::PRESETS.to_vec()).prop_map(|arch| format!("arch = \"{arch}\"")),
        prop::collection::vec(layers(), 1..20).prop_map(|layers| {
            let lines: Vec<String> = layers.iter().map(super::layers::canonical).collect();
            format!("layers = [{}]", lines.join(", "))
        }),
    ]
}

fn columns(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Column>> {
    let words = prop::collection::btree_set("[^\\p{C}\\s]{1,16}", 2..9);
    let deviation = prop::num::f64::POSITIVE.prop_filter("finite", |x| x.is_finite() && *x > 0.0);
    let kind = prop_oneof![
        (numbers(-1e9..1e9), deviation).prop_map(|(mean, deviation)| ColumnKind::Number { mean, deviation }),
        words.prop_map(|words| ColumnKind::Categories(words.into_iter().collect())),
    ];
    prop::collection::btree_map("[^\\p{C}\\s]{1,16}", kind, count)
        .prop_map(|all| all.into_iter().map(|(name, kind)| Column { name, kind }).collect())
}

fn datasets() -> impl Strategy<Value = Source> {
    let image = (prop::sample::select(vec![1usize, 3]), 1..=1024usize, 1..=1024usize);
    let fit = prop::sample::select(vec![Fit::Exact, Fit::Crop, Fit::Stretch]);
    let classes = prop::collection::btree_set("[^\\p{C}/\\\\.]{1,16}", 2..20);
    prop_oneof![
        (50..=1usize << 20).prop_map(|samples| Source::Shapes { samples }),
        Just(Source::Cifar10),
        Just(Source::Mnist),
        (classes, image, numbers(0.001..1.0), fit).prop_map(|(classes, (c, h, w), holdout, fit)| Source::Folder {
            classes: classes.into_iter().collect(),
            image: [c, h, w],
            holdout,
            fit
        }),
        (columns(2..6), numbers(0.001..1.0)).prop_map(|(mut columns, holdout)| {
            let target = columns.pop().expect("there are two at least");
            Source::Table(Table { target, columns, holdout })
        }),
    ]
}

fn partitions() -> impl Strategy<Value = Partition> {
    prop_oneof![
        Just(Partition::Iid),
        numbers(0.01..1e6).prop_map(Partition::Dirichlet),
        (1..=1000usize).prop_map(Partition::Shards),
        (1..=1000usize).prop_map(Partition::Labels),
        numbers(0.0..10.0).prop_map(Partition::PowerLaw),
    ]
}

prop_compose! {
    fn trains()(
        epochs in 1..=10_000usize, batch in 1..=1usize << 20,
        lr in prop::num::f64::POSITIVE.prop_filter("finite", |x| x.is_finite() && *x > 0.0),
        lr_decay in numbers(1e-300..1.0), momentum in numbers(0.0..1.0), weight_decay in numbers(0.0..1e300),
        clip_norm in numbers(0.0..1e300), prox_mu in numbers(0.0..10.0), augment in any::<bool>(),
    ) -> TrainConfig {
        TrainConfig { epochs, batch, lr, lr_decay, momentum, weight_decay, clip_norm, prox_mu, augment }
    }
}

fn rules() -> impl Strategy<Value = Rule> {
    let rate = || numbers(1e-9..100.0);
    let share = || numbers(0.0..1.0);
    let adaptive = |(moment, lr, beta1, tau)| Rule::Adaptive { moment, lr, beta1, tau };
    prop_oneof![
        Just(Rule::FedAvg),
        (rate(), share()).prop_map(|(lr, momentum)| Rule::FedAvgM { lr, momentum }),
        (Just(Moment::Adagrad), rate(), share(), rate()).prop_map(adaptive),
        (share().prop_map(|beta2| Moment::Adam { beta2 }), rate(), share(), rate()).prop_map(adaptive),
        (share().prop_map(|beta2| Moment::Yogi { beta2 }), rate(), share(), rate()).prop_map(adaptive),
        rate().prop_map(|lr| Rule::Scaffold { lr }),
    ]
}

fn stops() -> impl Strategy<Value = StopSection> {
    use prop::option::of;
    let all = ((), of(1..=100_000u64), of(1_000..=2_592_000_000u64));
    // A share goes with every metric that leads here.
    let all = (of(numbers(1e-9..1.0)), all.1, all.2);
    all.prop_map(|(target, patience, time_ms)| StopSection { target, patience, time_ms })
}

prop_compose! {
    fn run_files()(
        name in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}", rounds in 1..=100_000u64, min_nodes in 1..=4096u32, seed in 0..=SEED_MAX,
        model in models(), source in datasets(), partition in partitions(), mut config in trains(), rule in rules(),
        fraction in numbers(1e-9..1.0), min_updates in prop::option::of(1..=4096u32),
        timeout_ms in 1_000..=2_592_000_000u64, keep_updates in 0..=100_000u32,
        (lower, stop) in (any::<bool>(), stops()),
    ) -> RunFile {
        if matches!(rule, Rule::Scaffold { .. }) {
            (config.momentum, config.lr, config.lr_decay) = (0.0, config.lr.max(1e-9), 1.0);
        }
        // The net comes through the parser, which alone makes one.
        let model = parse(&SMALL.replace("arch = \"mlp\"", &model), "a.toml").expect("a net").learning.model;
        let is_number = matches!(&source, Source::Table(table) if table.target.categories().is_empty());
        let metrics = match lower || is_number {
            true => Metrics { lead: "loss".into(), better: Better::Lower },
            false => Metrics::default(),
        };
        let data = DataSection { source: Some(source), partition };
        let learning = Sections { model, data, train: TrainSection { config, settings: None }, rule, metrics, stop };
        let round = RoundSection { fraction, min_updates, timeout_ms, keep_updates };
        RunFile { run: RunSection { name, rounds, min_nodes, seed }, round, learning }
    }
}

proptest! {
    #[test]
    fn parsing_the_canonical_form_gives_the_same_run_file(file in run_files()) {
        let canonical = file.canonical();
        prop_assert_eq!(parse(&canonical, "canonical"), Ok(file));
    }

    #[test]
    fn no_damage_to_a_run_file_makes_the_parser_panic(file in run_files(), at in any::<prop::sample::Index>(), with in "\\PC{0,3}") {
        let mut text: Vec<char> = file.canonical().chars().collect();
        let at = at.index(text.len());
        text.splice(at..=at, with.chars());
        let _ = parse(&text.into_iter().collect::<String>(), "damaged");
    }
}
