use proptest::prelude::*;

use super::*;
use crate::base::bounds::{ROSTER_MAX, ROUNDS_MAX, SAMPLES_MAX};

const SMALL: &str = "[run]\nname = \"a\"\nrounds = 5\n[model]\narch = \"mlp\"\n[data]\ndataset = \"mnist\"\n";

fn small() -> RunFile {
    RunFile::parse(SMALL, "a.toml").expect("the smallest run file parses")
}

fn error(text: &str) -> String {
    RunFile::parse(text, "a.toml").expect_err("the text is wrong").to_string()
}

#[test]
fn left_out_keys_have_the_defaults_of_the_design() {
    let file = small();
    assert_eq!((file.run.min_nodes, file.run.seed), (3, 1));
    assert_eq!(file.train, TrainSection::default());
    assert_eq!(file.round, RoundSection { fraction: 1.0, min_updates: None, timeout_ms: 600_000, keep_updates: 2 });
    assert_eq!(file.data.partition, Partition::Iid);
}

#[test]
fn the_template_parses_and_shows_the_defaults() {
    let template = RunFile::parse(RunFile::template(), "template").expect("the template parses");
    // Takes the "#" away from the lines that show a default of this template.
    let shows_default = |line: &str| {
        line.strip_prefix("# ").filter(|l| l.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))).is_some()
            && !["# classes", "# image", "# holdout", "# layers"].iter().any(|other| line.starts_with(other))
    };
    let lines = RunFile::template().lines().map(|l| if shows_default(l) { &l[2..] } else { l });
    let uncommented: String = lines.map(|l| format!("{l}\n")).collect();
    assert!(uncommented.contains("\nlr_decay = 1.0"));
    assert_eq!(RunFile::parse(&uncommented, "template"), Ok(template));
}

#[test]
fn the_template_shows_every_layer_and_the_defaults_of_every_rule() {
    assert!(read::LAYERS.iter().all(|(layer, _)| RunFile::template().contains(&format!("\"{layer}\""))));
    for name in Rule::NAMES.into_iter().filter(|name| *name != "fedavg") {
        let parameters = Rule::named(name).expect("a rule").parameters();
        let shown: Vec<String> = parameters.iter().map(|(key, value)| format!("{key} = {value:?}")).collect();
        let line = RunFile::template().lines().find(|line| line.starts_with(&format!("#   \"{name}\":")));
        assert!(line.is_some_and(|line| line.ends_with(&format!(" {}", shown.join(", ")))), "{name}: {line:?}");
    }
}

#[test]
fn comments_and_order_do_not_change_the_run() {
    let other = "# mine\ndata = { dataset = \"mnist\" }\n[model]\narch='mlp'\n[run]\nrounds=0x5 # few\nname=\"a\"\n";
    let other = RunFile::parse(other, "b.toml").expect("another spelling of the same");
    assert_eq!(other.run_id(), small().run_id());
}

#[test]
fn any_value_changes_the_run() {
    let mut other = small();
    other.train.lr = 0.1;
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
fn an_unknown_key_is_refused_with_the_nearest_right_one() {
    let text = format!("{SMALL}[train]\nlrdecay = 1\n");
    assert_eq!(error(&text), "a.toml:9:1: unknown key `lrdecay` in [train]: did you mean `lr_decay`?");
}

#[test]
fn an_unknown_section_is_refused_with_the_nearest_right_one() {
    assert_eq!(error(&format!("{SMALL}[trian]\n")), "a.toml:8:2: unknown section `trian`: did you mean `train`?");
}

#[test]
fn a_key_in_the_wrong_section_is_told_where_it_belongs() {
    assert_eq!(error(&format!("{SMALL}lr = 1\n")), "a.toml:8:1: unknown key `lr` in [data]: it belongs in [train]");
    assert_eq!(error("lr = 1\n"), "a.toml:1:1: unknown section `lr`: put it under [train]");
}

#[test]
fn a_missing_key_is_shown_with_a_line_that_would_do() {
    let text = SMALL.replace("rounds = 5\n", "");
    assert_eq!(error(&text), "a.toml:1:2: `rounds` in [run] is missing: add `rounds = 10`");
}

#[test]
fn values_out_of_range_name_place_value_range_and_an_example() {
    let cases = [
        ("[train]\nlr = -1\n", "a.toml:9:6: `lr` in [train] is -1: expected a finite number above 0"),
        ("[train]\nlr = inf\n", "a.toml:9:6: `lr` in [train] is inf: expected a finite number above 0"),
        ("[train]\nbatch = 0\n", "a.toml:9:9: `batch` in [train] is 0: expected a whole number from 1 to 1048576"),
        ("[train]\nbatch = \"5\"\n", "a.toml:9:9: `batch` in [train] is \"5\": expected a whole number"),
        ("[round]\nfraction = 1.5\n", "a.toml:9:12: `fraction` in [round] is 1.5: expected a number above 0"),
        ("[round]\ntimeout = \"soon\"\n", "a.toml:9:11: `timeout` in [round] is \"soon\": expected a duration"),
        ("[round]\ntimeout = \"1ms\"\n", "a.toml:9:11: `timeout` in [round] is \"1ms\": expected a duration"),
        (
            "[aggregate]\nrule = \"fedav\"\n",
            "a.toml:9:8: `rule` in [aggregate] is \"fedav\": expected one of \"fedavg\"",
        ),
        ("samples = 5\n", "a.toml:8:11: `samples` in [data] goes with `dataset = \"shapes\"`"),
        (
            "partition = { shard = 2 }\n",
            "a.toml:8:15: unknown key `shard` in `partition` in [data]: did you mean `shards`?",
        ),
    ];
    for (tail, expected) in cases {
        let found = error(&format!("{SMALL}{tail}"));
        assert!(found.starts_with(expected), "{found}\nexpected {expected}");
    }
}

#[test]
fn a_parameter_that_the_rule_does_not_have_is_refused() {
    let found = error(&format!("{SMALL}[aggregate]\nrule = \"fedavg\"\nbeta1 = 0.5\n"));
    assert_eq!(found, "a.toml:10:9: `beta1` in [aggregate] has no meaning for `rule = \"fedavg\"`: remove it");
    let text = format!("{SMALL}[aggregate]\nrule = \"fedadam\"\nbeta1 = 0.5\n");
    let rule = RunFile::parse(&text, "a.toml").expect("fedadam has it").aggregate.rule;
    assert_eq!(rule, Rule::FedAdam { lr: 0.01, beta1: 0.5, beta2: 0.99, tau: 0.001 });
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
    let text = scaffold("lr = 0.1\nlr_decay = 0.001");
    let decayed = error(&text);
    assert!(
        decayed.starts_with("a.toml:10:12: `lr_decay` in [train] makes") && decayed.contains("raise it"),
        "{decayed}"
    );
}

#[test]
fn a_key_or_an_item_of_a_list_has_a_place() {
    let text = SMALL.replace("arch = \"mlp\"", "layers = [\n  { type = 'flatten' },\n  { type = 'relu' }]");
    let place = |section, key, item| RunFile::place(&text, "a.toml", section, key, item);
    assert_eq!(place("model", "layers", None), "a.toml:5:1");
    assert_eq!(place("model", "layers", Some(1)), "a.toml:7:3");
    assert_eq!(place("run", "seed", None), "a.toml:1:2");
    assert_eq!(place("train", "batch", None), "a.toml:10:1");
}

#[test]
fn a_name_that_would_leave_its_directory_is_refused() {
    for name in ["../a", "", ".a", "a/b", "é", &"a".repeat(65)] {
        let text = SMALL.replace("\"a\"", &format!("{name:?}"));
        assert!(RunFile::parse(&text, "a.toml").is_err(), "{name}");
    }
}

#[test]
fn durations_have_units() {
    let cases = [("90s", 90_000), ("10min", 600_000), ("1h", 3_600_000), ("1500ms", 1_500), ("2 d", 172_800_000)];
    for (text, ms) in cases {
        let file = RunFile::parse(&format!("{SMALL}[round]\ntimeout = \"{text}\"\n"), "a.toml");
        assert_eq!(file.expect("a duration").round.timeout_ms, ms, "{text}");
    }
}

#[test]
fn a_layer_has_its_own_keys() {
    let with = |layer: &str| SMALL.replace("arch = \"mlp\"", &format!("layers = [{layer}]"));
    let layers =
        RunFile::parse(&with("{type='conv',out=8,kernel=5},{type='relu'}"), "a.toml").expect("layers").model.layers;
    assert_eq!(layers, [LayerSection::Conv { out: 8, kernel: 5, stride: 1, pad: 2 }, LayerSection::Relu]);
    assert!(error(&with("{type='conv',out=8}")).contains("`kernel` in a `conv` layer is missing"));
    assert!(error(&with("{type='relu',out=8}")).contains("unknown key `out` in a `relu` layer"));
    assert!(error(&with("{type='max_pol',size=2}")).contains("did you mean \"max_pool\"?"));
    assert!(error(&with("{out=2}")).contains("`type` in item 1 of `layers` in [model] is missing"));
}

#[test]
fn participants_are_the_fraction_rounded_up() {
    let mut file = small();
    file.round.fraction = 0.3;
    assert_eq!([0, 1, 3, 4, 10].map(|n| file.quota().participants_of(n)), [1, 1, 1, 2, 3]);
}

#[test]
fn min_updates_is_a_majority_unless_given_and_at_most_all() {
    let mut file = small();
    assert_eq!([1, 2, 3, 4].map(|n| file.quota().min_updates_of(n)), [1, 2, 2, 3]);
    file.round.min_updates = Some(3);
    assert_eq!([1, 2, 3, 4].map(|n| file.quota().min_updates_of(n)), [1, 2, 3, 3]);
}

#[test]
fn a_file_over_the_bound_is_refused_unread() {
    assert!(error(&"#".repeat(crate::base::bounds::RUN_FILE_BYTES_MAX + 1)).contains("65537 bytes of text"));
}

#[test]
fn deep_nesting_is_an_error() {
    assert!(error(&format!("a = {}", "[".repeat(60_000))).contains("no TOML"));
}

fn numbers(range: std::ops::Range<f64>) -> impl Strategy<Value = f64> {
    range.prop_map(|x| x + 0.0)
}

fn layers() -> impl Strategy<Value = LayerSection> {
    let side = 1..=IMAGE_SIDE_MAX;
    prop_oneof![
        (1..=WIDTH_MAX, side.clone(), side.clone(), 0..=IMAGE_SIDE_MAX)
            .prop_map(|(out, kernel, stride, pad)| LayerSection::Conv { out, kernel, stride, pad }),
        (1..=WIDTH_MAX).prop_map(|groups| LayerSection::GroupNorm { groups }),
        Just(LayerSection::Relu),
        side.clone().prop_map(|size| LayerSection::MaxPool { size }),
        (1..=WIDTH_MAX, side.clone(), 1..=WIDTH_MAX).prop_map(|(out, stride, groups)| LayerSection::Residual {
            out,
            stride,
            groups
        }),
        Just(LayerSection::GlobalAvgPool),
        Just(LayerSection::Flatten),
        (1..=WIDTH_MAX).prop_map(|out| LayerSection::Linear { out }),
        numbers(0.0..1.0).prop_map(|rate| LayerSection::Dropout { rate }),
    ]
}

fn models() -> impl Strategy<Value = ModelSection> {
    prop_oneof![
        prop::sample::select(ARCHS.to_vec())
            .prop_map(|arch| ModelSection { arch: Some(arch.to_owned()), layers: Vec::new() }),
        prop::collection::vec(layers(), 1..20).prop_map(|layers| ModelSection { arch: None, layers }),
    ]
}

fn datasets() -> impl Strategy<Value = Dataset> {
    let image = (prop::sample::select(vec![1u32, 3]), 1..=IMAGE_SIDE_MAX, 1..=IMAGE_SIDE_MAX);
    let classes = prop::collection::btree_set("[^\\p{C}/\\\\.]{1,16}", 2..20);
    prop_oneof![
        (50..=SAMPLES_MAX as u32).prop_map(|samples| Dataset::Shapes { samples }),
        Just(Dataset::Cifar10),
        Just(Dataset::Mnist),
        (classes, image, numbers(0.001..1.0)).prop_map(|(classes, (c, h, w), holdout)| Dataset::Folder {
            classes: classes.into_iter().collect(),
            image: [c, h, w],
            holdout
        }),
    ]
}

fn partitions() -> impl Strategy<Value = Partition> {
    prop_oneof![
        Just(Partition::Iid),
        numbers(0.01..1e6).prop_map(Partition::Dirichlet),
        (1..=SHARDS_MAX).prop_map(Partition::Shards),
        (1..=1000u32).prop_map(Partition::Labels),
        numbers(0.0..10.0).prop_map(Partition::PowerLaw),
    ]
}

prop_compose! {
    fn trains()(
        epochs in 1..=EPOCHS_MAX, batch in 1..=SAMPLES_MAX as u32, lr in prop::num::f64::POSITIVE.prop_filter("finite", |x| x.is_finite() && *x > 0.0),
        lr_decay in numbers(1e-300..1.0), momentum in numbers(0.0..1.0), weight_decay in numbers(0.0..1e300),
        clip_norm in numbers(0.0..1e300), prox_mu in numbers(0.0..10.0), augment in any::<bool>(),
    ) -> TrainSection {
        TrainSection { epochs, batch, lr, lr_decay, momentum, weight_decay, clip_norm, prox_mu, augment }
    }
}

fn rules() -> impl Strategy<Value = Rule> {
    let rate = || numbers(1e-9..100.0);
    let share = || numbers(0.0..1.0);
    prop_oneof![
        Just(Rule::FedAvg),
        (rate(), share()).prop_map(|(lr, momentum)| Rule::FedAvgM { lr, momentum }),
        (rate(), share(), rate()).prop_map(|(lr, beta1, tau)| Rule::FedAdagrad { lr, beta1, tau }),
        (rate(), share(), share(), rate()).prop_map(|(lr, beta1, beta2, tau)| Rule::FedAdam { lr, beta1, beta2, tau }),
        (rate(), share(), share(), rate()).prop_map(|(lr, beta1, beta2, tau)| Rule::FedYogi { lr, beta1, beta2, tau }),
        rate().prop_map(|lr| Rule::Scaffold { lr }),
    ]
}

prop_compose! {
    fn run_files()(
        name in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}", rounds in 1..=ROUNDS_MAX, min_nodes in 1..=ROSTER_MAX as u32, seed in 0..=SEED_MAX,
        model in models(), dataset in datasets(), partition in partitions(), mut train in trains(), rule in rules(),
        fraction in numbers(1e-9..1.0), min_updates in prop::option::of(1..=ROSTER_MAX as u32),
        timeout_ms in TIMEOUT_MS_MIN..=TIMEOUT_MS_MAX, keep_updates in 0..=ROUNDS_MAX as u32,
    ) -> RunFile {
        if matches!(rule, Rule::Scaffold { .. }) {
            train.momentum = 0.0;
            train.lr = train.lr.max(1e-9);
            train.lr_decay = 1.0;
        }
        RunFile {
            run: RunSection { name, rounds, min_nodes, seed }, model, data: DataSection { dataset, partition }, train,
            round: RoundSection { fraction, min_updates, timeout_ms, keep_updates }, aggregate: AggregateSection { rule },
        }
    }
}

proptest! {
    #[test]
    fn parsing_the_canonical_form_gives_the_same_run_file(file in run_files()) {
        let canonical = file.canonical();
        prop_assert_eq!(RunFile::parse(&canonical, "canonical"), Ok(file));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
        let _ = RunFile::parse(&text, "any");
    }

    #[test]
    fn no_damage_to_a_run_file_makes_the_parser_panic(file in run_files(), at in any::<prop::sample::Index>(), with in "\\PC{0,3}") {
        let mut text: Vec<char> = file.canonical().chars().collect();
        let at = at.index(text.len());
        text.splice(at..=at, with.chars());
        let _ = RunFile::parse(&text.into_iter().collect::<String>(), "damaged");
    }
}
