//! Tries what is kept of a fuzz target: its corpus, and what once broke it. Each crate's tests take this file in, so that the
//! corpora are tried on the stable compiler whenever tests are run.
//!
//! `cargo test --workspace --lib seeds_of_the_fuzz_targets -- --ignored` writes what fuzzing begins with: real values.

use std::panic::catch_unwind;
use std::path::Path;

/// Calls the target with each file that is kept of it.
///
/// # Panics
/// One of them breaks it; says which.
pub(crate) fn replay(target: &str, try_out: fn(&[u8])) {
    let mut count = 0;
    for folder in ["corpus", "crashes"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(folder).join(target);
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let bytes = std::fs::read(entry.path()).expect("a file of the repository");
            count += 1;
            assert!(catch_unwind(|| try_out(&bytes)).is_ok(), "{} breaks the target {target}", entry.path().display());
        }
    }
    assert!(count > 0, "nothing is kept of the target {target}");
}

/// Puts seeds, each with its target, beside what is kept.
pub(crate) fn write(seeds: Vec<(&'static str, Vec<u8>)>) {
    for (number, (target, bytes)) in seeds.iter().enumerate() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        std::fs::create_dir_all(&folder).expect("a folder of the repository");
        std::fs::write(folder.join(format!("seed-{number:03}")), bytes).expect("there is room");
    }
}

/// The tests of a crate's targets, each of which is a function of that name: what is kept of them is tried, and on demand
/// `$seeds`, real values each with its target, are written.
macro_rules! tests {
    ($seeds:expr, $($target:ident),+) => {
        #[test]
        fn what_is_kept_of_the_fuzz_targets_is_no_trouble() {
            $(super::replay::replay(stringify!($target), $target);)+
        }

        #[test]
        #[ignore = "writes files: what fuzzing begins with"]
        fn seeds_of_the_fuzz_targets() {
            super::replay::write($seeds);
        }
    };
}
pub(crate) use tests;
