//! A table from its file to predictions of its rows, by the program alone.

use std::path::Path;
use std::process::{Command, Output};

fn paceline(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_paceline")).args(arguments).current_dir(dir).output().expect("the program starts")
}

/// What a command prints, a value a line.
fn json(dir: &Path, arguments: &[&str]) -> Vec<serde_json::Value> {
    let out = paceline(dir, &[arguments, &["--format", "json"]].concat());
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).expect("JSON is text");
    text.lines().map(|line| serde_json::from_str(line).expect("one value a line")).collect()
}

/// Rows whose kind and price follow from the other columns.
fn write_table(path: &Path) {
    let mut text = "id,width,colour,kind,price\n".to_owned();
    for i in 0..300u32 {
        let width = f64::from(i * 37 % 100) / 10.0;
        let colour = ["red", "\"blue, or so\"", "NA"][i as usize % 3];
        let kind = if width + f64::from(u8::from(i % 3 == 0)) > 5.5 { "large" } else { "small" };
        text += &format!("{i},{width},{colour},{kind},{}\n", 100.0 + 30.0 * width);
    }
    std::fs::write(path, text).expect("room");
}

#[test]
fn a_table_becomes_a_run_whose_model_predicts_its_classes() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.path();
    write_table(&dir.join("things.csv"));
    let made = &json(dir, &["init", "--from", "things.csv", "--target", "kind"])[0];
    let found = made["found"].to_string();
    assert!(found.contains("large 142, small 158") && found.contains("`id` is left out"), "{found}");
    let checked = &json(dir, &["check", "run.toml", "--data", "things.csv", "--threads", "1"])[0];
    assert_eq!((checked["noun"].as_str(), checked["parameters"].as_u64()), (Some("rows"), Some(2_466)), "{checked}");
    let demo = ["demo", "--quiet", "--nodes", "3", "--run", "run.toml", "--data", "things.csv", "--keep", "homes"];
    assert!(paceline(dir, &demo).status.success());
    let home = ["--home", "homes/node-1"];
    let measured = &json(dir, &[&["model", "eval", "--data", "things.csv"], &home[..]].concat())[0];
    assert!(measured["accuracy"].as_f64().is_some_and(|share| share > 0.85), "{measured}");
    assert!(measured["mean_error"].is_null() && measured["classes"][1]["name"] == "small", "{measured}");
    // Rows that nobody has named, in another order of columns.
    std::fs::write(dir.join("new.csv"), "colour,price,width\nred,385,9.5\n,115,0.5\n").expect("room");
    let told = json(dir, &[&["model", "predict", "new.csv"], &home[..]].concat());
    let answers: Vec<_> = told.iter().map(|row| (row["line"].as_u64(), row["label"].as_str())).collect();
    assert_eq!(answers, [(Some(2), Some("large")), (Some(3), Some("small"))]);
}

#[test]
fn a_number_is_learnt_in_its_own_unit() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.path();
    write_table(&dir.join("things.csv"));
    json(dir, &["init", "--from", "things.csv"]);
    let rounds = json(dir, &["simulate", "run.toml", "--data", "things.csv", "--out", "out", "--until", "10"]);
    let last = rounds.last().expect("a round");
    let error = last["metrics"]["mean_error"].as_f64().expect("it was measured");
    assert!(last["metrics"]["rmse"].as_f64().is_some_and(|rmse| rmse >= error), "{last}");
    assert!(error <= 10.0 && last["accuracy"].is_null(), "prices go from 100 to 397: {last}");
    assert!(dir.join("out/mean_error-rounds.svg").is_file());
    let refused = paceline(dir, &["simulate", "run.toml", "--data", "things.csv", "--until", "many"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no number, which mean_error is"));
}
