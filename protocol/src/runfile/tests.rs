use proptest::prelude::*;

use super::*;

/// A run in which nothing is learnt; what the learner's sections are like is tested where they are.
type Bare = RunFile<()>;

const SMALL: &str = "[run]\nname = \"a\"\nrounds = 5\n";

fn small() -> Bare {
    Bare::parse(SMALL, "a.toml").expect("the smallest run file parses")
}

fn error(text: &str) -> String {
    Bare::parse(text, "a.toml").expect_err("the text is wrong").to_string()
}

#[test]
fn left_out_keys_have_the_defaults_of_the_design() {
    let file = small();
    assert_eq!((file.run.min_nodes, file.run.seed), (3, 1));
    assert_eq!(file.round, RoundSection { fraction: 1.0, min_updates: None, timeout_ms: 600_000, keep_updates: 2 });
}

#[test]
fn comments_and_order_do_not_change_the_run() {
    let other = "# mine\nround = { fraction = 1 }\n[run]\nrounds=0x5 # few\nname=\"a\"\n";
    let other = Bare::parse(other, "b.toml").expect("another spelling of the same");
    assert_eq!(other.run_id(), small().run_id());
}

#[test]
fn any_value_changes_the_run() {
    let mut other = small();
    other.round.keep_updates = 3;
    assert_ne!(other.run_id(), small().run_id());
}

#[test]
fn the_template_parses_and_shows_the_defaults() {
    let template = Bare::template(&[]);
    let parsed = Bare::parse(&template, "template").expect("the template parses");
    let shown = template.replace("\n# ", "\n").replacen("# A", "#A", 1).replacen("Lines", "#Lines", 1);
    assert!(shown.contains("\nkeep_updates = 2"), "{shown}");
    assert_eq!(Bare::parse(&shown, "template"), Ok(parsed));
}

#[test]
fn a_template_has_the_values_that_it_is_given() {
    let template = Bare::template(&[("run", "seed", "7".to_owned()), ("round", "timeout", "\"1h\"".to_owned())]);
    let parsed = Bare::parse(&template, "template").expect("the template parses");
    assert_eq!((parsed.run.seed, parsed.round.timeout_ms, parsed.run.min_nodes), (7, 3_600_000, 3));
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_right_one() {
    let text = format!("{SMALL}[round]\nfractoin = 1\n");
    assert_eq!(error(&text), "a.toml:5:1: unknown key `fractoin` in [round]: did you mean `fraction`?");
}

#[test]
fn an_unknown_section_is_refused_with_the_nearest_right_one() {
    assert_eq!(error(&format!("{SMALL}[rond]\n")), "a.toml:4:2: unknown section `rond`: did you mean `round`?");
}

#[test]
fn a_key_in_the_wrong_section_is_told_where_it_belongs() {
    assert_eq!(
        error(&format!("{SMALL}timeout = 1\n")),
        "a.toml:4:1: unknown key `timeout` in [run]: it belongs in [round]"
    );
    assert_eq!(error("seed = 1\n"), "a.toml:1:1: unknown section `seed`: put it under [run]");
}

#[test]
fn a_missing_key_is_shown_with_a_line_that_would_do() {
    let text = SMALL.replace("rounds = 5\n", "");
    assert_eq!(error(&text), "a.toml:1:2: `rounds` in [run] is missing: add `rounds = 10`");
    assert_eq!(error(""), "a.toml:1:1: `name` in [run] is missing: add `[run]` and under it `name = \"shapes\"`");
}

#[test]
fn values_out_of_range_name_place_value_range_and_an_example() {
    let cases = [
        ("fraction = 1.5", "a.toml:5:12: `fraction` in [round] is 1.5: expected a number above 0"),
        ("fraction = inf", "a.toml:5:12: `fraction` in [round] is inf: expected a number above 0"),
        ("timeout = \"soon\"", "a.toml:5:11: `timeout` in [round] is \"soon\": expected a duration"),
        ("timeout = \"1ms\"", "a.toml:5:11: `timeout` in [round] is \"1ms\": expected a duration"),
        ("min_updates = \"most\"", "a.toml:5:15: `min_updates` in [round] is \"most\": expected one of \"majority\""),
        ("min_updates = 0", "a.toml:5:15: `min_updates` in [round] is 0: expected a whole number from 1 to 4096"),
    ];
    for (line, expected) in cases {
        let found = error(&format!("{SMALL}[round]\n{line}\n"));
        assert!(found.starts_with(expected), "{found}\nexpected {expected}");
    }
}

#[test]
fn a_key_or_an_item_of_a_list_has_a_place() {
    let text = format!("{SMALL}[other]\nlist = [\n  1,\n  2]");
    let place = |section, key, item| place(&text, "a.toml", section, key, item);
    assert_eq!(place("other", "list", None), "a.toml:5:1");
    assert_eq!(place("other", "list", Some(1)), "a.toml:7:3");
    assert_eq!(place("run", "seed", None), "a.toml:1:2");
    assert_eq!(place("train", "batch", None), "a.toml:7:5");
}

#[test]
fn a_name_that_would_leave_its_directory_is_refused() {
    for name in ["../a", "", ".a", "a/b", "é", &"a".repeat(65)] {
        let text = SMALL.replace("\"a\"", &format!("{name:?}"));
        assert!(Bare::parse(&text, "a.toml").is_err(), "{name}");
    }
}

#[test]
fn durations_have_units() {
    let cases = [("90s", 90_000), ("10min", 600_000), ("1h", 3_600_000), ("1500ms", 1_500), ("2 d", 172_800_000)];
    for (text, ms) in cases {
        let file = Bare::parse(&format!("{SMALL}[round]\ntimeout = \"{text}\"\n"), "a.toml");
        assert_eq!(file.expect("a duration").round.timeout_ms, ms, "{text}");
    }
}

#[test]
fn a_value_taken_verbatim_has_one_form() {
    let form = |text: &str| {
        let text = format!("[run]\nname = {text}");
        let document = Document::parse(&text, "a.toml", vec![RUN.known()]).expect("it is TOML");
        document.entry("run", "name").expect("it is there").verbatim()
    };
    let expected = "{ \"a b\" = [1, 2.0, \"x\\u000Ay\\\"\"], \"c\" = { \"d\" = true } }";
    assert_eq!(form("{ c.d = true, 'a b' = [0x1, 2e0, \"x\\ny\\\"\"] }"), Ok(expected.to_owned()));
    assert_eq!(form(expected), Ok(expected.to_owned()));
    assert!(form("1979-05-27").is_err() && form("nan").is_err());
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
    assert!(error(&"#".repeat(RUN_FILE_BYTES_MAX + 1)).contains("65537 bytes of text"));
}

#[test]
fn deep_nesting_is_an_error() {
    assert!(error(&format!("a = {}", "[".repeat(60_000))).contains("no TOML"));
}

#[test]
fn a_published_run_file_is_taken_by_its_hash_alone() {
    let published = small().published();
    let text = format!("{}\n[model]\nof = \"whatever\"\n", published.text);
    let run = Hash::of(text.as_bytes());
    let checked = Published::check(run, text.as_bytes()).expect("its hash is right");
    assert_eq!((checked.run, checked.name.as_str()), (run, "a"));
    assert!(Published::check(published.run, text.as_bytes()).is_err());
    assert!(Published::check(Hash::of(b"no run"), b"no run").is_err());
}

prop_compose! {
    fn run_files()(
        name in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}", rounds in 1..=ROUNDS_MAX, min_nodes in 1..=ROSTER_MAX as u32,
        seed in 0..=SEED_MAX, fraction in 1e-9..1.0f64, min_updates in prop::option::of(1..=ROSTER_MAX as u32),
        timeout_ms in duration::MS_MIN..=duration::MS_MAX, keep_updates in 0..=ROUNDS_MAX as u32,
    ) -> Bare {
        let round = RoundSection { fraction, min_updates, timeout_ms, keep_updates };
        RunFile { run: RunSection { name, rounds, min_nodes, seed }, round, learning: () }
    }
}

proptest! {
    #[test]
    fn parsing_the_canonical_form_gives_the_same_run_file(file in run_files()) {
        let canonical = file.canonical();
        prop_assert_eq!(Bare::parse(&canonical, "canonical"), Ok(file));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
        let _ = Bare::parse(&text, "any");
    }

    #[test]
    fn no_damage_to_a_run_file_makes_the_parser_panic(file in run_files(), at in any::<prop::sample::Index>(), with in "\\PC{0,3}") {
        let mut text: Vec<char> = file.canonical().chars().collect();
        let at = at.index(text.len());
        text.splice(at..=at, with.chars());
        let _ = Bare::parse(&text.into_iter().collect::<String>(), "damaged");
    }
}
