//! Every file of a home damaged, cut, exchanged and missing, and a real node started on it: what is wrong is named, with how
//! to go on, or the node starts as before. It never panics, and it never trusts what it should not.

mod cluster;
mod disk;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cluster::Cluster;
use disk::Draw;

/// Three nodes train a tiny net for so many rounds.
fn run_file(name: &str, rounds: u64) -> String {
    format!(
        "[run]\nname = \"{name}\"\nrounds = {rounds}\nmin_nodes = 3\n\
         [model]\nlayers = [ {{ type = \"flatten\" }}, {{ type = \"linear\", out = 10 }} ]\n\
         [data]\ndataset = \"shapes\"\nsamples = 300\n[train]\nbatch = 20\nlr = 0.1\n[round]\ntimeout = \"1min\"\n"
    )
}

/// Starts the node of a home and has it stop at once: its exit code and what it says.
fn start(home: &Path) -> (Option<i32>, String) {
    let out = paceline(&["join", "--no-mdns", "--until-stdin-ends"], home);
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

fn paceline(arguments: &[&str], home: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paceline"));
    command.args(arguments).arg("--home").arg(home).env_remove("RUST_LOG").env("RUST_BACKTRACE", "0");
    command.stdin(Stdio::null()).output().expect("the program starts")
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).expect("room");
    for entry in std::fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("it can be read");
        let target = to.join(entry.file_name());
        match entry.path() {
            path if path.is_dir() => copy(&path, &target),
            // The room that is kept, and logs: of no matter here.
            path if path.ends_with("reserve") => {}
            path => drop(std::fs::copy(path, target).expect("room")),
        }
    }
}

/// Homes that were killed in the middle of a run, one of them also as it was earlier; and one of another run.
struct Homes {
    _cluster: Cluster,
    now: PathBuf,
    other: PathBuf,
    earlier: PathBuf,
    other_run: PathBuf,
    damaged: PathBuf,
}

impl Homes {
    fn new() -> Self {
        let mut cluster = Cluster::new(&run_file("whole", 500));
        let place = |name: &str| cluster.dir().join(name);
        let (earlier, other_run, damaged) = (place("earlier"), place("other-run"), place("damaged"));
        cluster.start_all(3);
        cluster.wait("round 3", |c| (c.round(0) >= 3).then_some(()));
        cluster.kill(0);
        copy(&cluster.nodes[0].home, &earlier);
        cluster.start(0, &[]);
        cluster.wait("four more", |c| (c.round(0) >= 7).then_some(()));
        (0..3).for_each(|node| cluster.kill(node));
        std::fs::create_dir_all(&other_run).expect("room");
        let file = cluster.dir().join("other.toml");
        std::fs::write(&file, run_file("another", 2)).expect("room");
        let file = file.to_str().expect("it is text");
        let out = paceline(&["join", file, "--no-mdns", "--until-stdin-ends"], &other_run);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let (now, other) = (cluster.nodes[0].home.clone(), cluster.nodes[1].home.clone());
        Self { _cluster: cluster, now, other, earlier, other_run, damaged }
    }

    /// Starts the home with a change made to it. Gives the exit code and what was said, after what holds of every start.
    fn with(&self, what: &str, change: impl FnOnce(&Path)) -> (Option<i32>, String) {
        copy(&self.now, &self.damaged);
        change(&self.damaged);
        let (code, said) = start(&self.damaged);
        assert!(matches!(code, Some(0 | 1 | 4)), "{what}: ended with {code:?}: {said}");
        assert!(!said.contains("panicked"), "{what}: {said}");
        if code == Some(0) {
            let out = paceline(&["verify"], &self.damaged);
            assert!(out.status.success(), "{what}: {}", String::from_utf8_lossy(&out.stdout));
        }
        (code, said)
    }

    /// With this change the node ends with this exit code, and says all of this.
    #[track_caller]
    fn fails(&self, what: &str, code: i32, says: &[&str], change: impl FnOnce(&Path)) {
        let (found, said) = self.with(what, change);
        assert_eq!(found, Some(code), "{what}: {said}");
        says.iter().for_each(|part| assert!(said.contains(part), "{what} should say `{part}`: {said}"));
    }

    /// With this change it starts as before.
    #[track_caller]
    fn starts(&self, what: &str, change: impl FnOnce(&Path)) -> String {
        let (code, said) = self.with(what, change);
        assert_eq!(code, Some(0), "{what}: {said}");
        said
    }

    /// With this change it starts as before, or ends and names the file.
    fn starts_or_names(&self, what: &str, file: &str, change: impl FnOnce(&Path)) {
        let (code, said) = self.with(what, change);
        assert!(code == Some(0) || said.contains(file), "{what}: {said}");
    }
}

fn flip(path: &Path, draw: &mut Draw) {
    let mut bytes = std::fs::read(path).expect("it is there");
    let bit = draw.below(bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
    std::fs::write(path, bytes).expect("room");
}

fn cut(path: &Path, len: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("it is there");
    file.set_len(len).expect("room");
}

fn exchange(home: &Path, name: &str, from: &Path) {
    std::fs::copy(from.join(name), home.join(name)).expect("room");
}

fn remove(home: &Path, name: &str) {
    std::fs::remove_file(home.join(name)).expect("it is there");
}

#[test]
fn a_home_with_one_file_damaged_cut_exchanged_or_missing_is_named_or_starts_as_before() {
    let homes = Homes::new();
    homes.starts("nothing changed", |_| {});

    // Who the node is.
    for len in [0, 16, 31] {
        homes.fails("a cut identity", 4, &["identity.key has", "32"], |home| cut(&home.join("identity.key"), len));
    }
    for seed in 0..4 {
        let words = ["identity.key", "another's, or damaged", "as another node"];
        homes.fails(&format!("an identity with a flipped bit, seed {seed}"), 4, &words, |home| {
            flip(&home.join("identity.key"), &mut Draw(seed));
        });
    }
    homes.fails("another's identity", 4, &["identity.key", "another's, or damaged"], |h| {
        exchange(h, "identity.key", &homes.other)
    });
    homes.fails("another's identity and options", 4, &["store.redb belongs to node", "identity.key"], |home| {
        exchange(home, "identity.key", &homes.other);
        exchange(home, "options.json", &homes.other);
    });
    homes.fails("no identity", 4, &["no identity.key"], |home| remove(home, "identity.key"));

    // What the run is.
    for len in [0, 20, 200] {
        homes.fails("a cut run file", 4, &["run.toml", "remove it"], |home| cut(&home.join("run.toml"), len));
    }
    for seed in 0..8 {
        homes.starts_or_names(&format!("a run file with a flipped bit, seed {seed}"), "run.toml", |home| {
            flip(&home.join("run.toml"), &mut Draw(seed));
        });
    }
    homes
        .fails("another run's file", 4, &["belongs to run", "run.toml"], |h| exchange(h, "run.toml", &homes.other_run));
    homes.fails("no run file", 4, &["no run.toml", "ticket"], |home| remove(home, "run.toml"));

    // How it was started.
    for len in [0, 40] {
        homes.fails("cut options", 4, &["options.json", "remove it"], |home| cut(&home.join("options.json"), len));
    }
    for seed in 0..8 {
        homes.starts_or_names(&format!("options with a flipped bit, seed {seed}"), "options.json", |home| {
            flip(&home.join("options.json"), &mut Draw(seed));
        });
    }
    homes.fails("another's options", 4, &["options.json is of node", "identity.key"], |h| {
        exchange(h, "options.json", &homes.other)
    });
    assert!(homes.starts("no options", |home| remove(home, "options.json")).contains("options.json is missing"));

    // What it promised.
    let store = |home: &Path| home.join("store.redb");
    let len = std::fs::metadata(store(&homes.now)).expect("it is there").len();
    for len in [0, 1, 319, 4096, len / 2, len - 1] {
        homes.starts_or_names(&format!("a store cut at {len}"), "store.redb", |home| cut(&store(home), len));
    }
    for seed in 0..12 {
        homes.starts_or_names(&format!("a store with a flipped bit, seed {seed}"), "store.redb", |home| {
            flip(&store(home), &mut Draw(seed));
        });
    }
    homes.fails("another's store", 4, &["store.redb belongs to node"], |h| exchange(h, "store.redb", &homes.other));
    homes.fails("another run's store", 4, &["store.redb belongs to run"], |h| {
        exchange(h, "store.redb", &homes.other_run)
    });
    homes.fails("an earlier store", 4, &["store.redb", "were confirmed", "as another node"], |home| {
        exchange(home, "store.redb", &homes.earlier);
    });
    homes.fails("no store", 4, &["store.redb is missing", "as another node"], |home| remove(home, "store.redb"));
    homes.fails("a folder for a store", 1, &["store.redb"], |home| {
        remove(home, "store.redb");
        std::fs::create_dir(store(home)).expect("room");
    });
    homes.fails("a cut mark", 4, &["store.mark is damaged"], |home| cut(&home.join("store.mark"), 0));
    homes.fails("no mark", 4, &["store.mark is missing"], |home| remove(home, "store.mark"));
    homes.fails("another's mark", 4, &["store.mark"], |h| exchange(h, "store.mark", &homes.other));
    homes.starts("an earlier mark", |home| exchange(home, "store.mark", &homes.earlier));
    for seed in 0..4 {
        homes.starts("a mark with a flipped bit", |home| flip(&home.join("store.mark"), &mut Draw(seed)));
    }
    // Both are of one earlier moment: that is a sound home, and only the others can tell.
    homes.starts("store and mark from earlier", |home| {
        exchange(home, "store.redb", &homes.earlier);
        exchange(home, "store.mark", &homes.earlier);
    });

    // What is of no consequence, or repaired.
    for name in ["peers.json", "http", "lock"] {
        homes.starts(&format!("a cut {name}"), |home| {
            std::fs::write(home.join(name), [0xff, 0, 7]).expect("room");
        });
    }
    let blobs = |home: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(home.join("blobs")).expect("it is there");
        entries.map(|entry| entry.expect("it can be read").path()).collect()
    };
    let said = homes.starts("damaged blobs", |home| blobs(home).iter().for_each(|p| flip(p, &mut Draw(1))));
    assert!(said.contains(".blob is damaged"), "{said}");
    homes.starts("cut blobs", |home| blobs(home).iter().for_each(|path| cut(path, 10)));
    homes.starts("exchanged blobs", |home| {
        let blobs: Vec<PathBuf> =
            blobs(home).into_iter().filter(|p| p.extension().is_some_and(|e| e == "blob")).collect();
        let bytes: Vec<Vec<u8>> = blobs.iter().map(|path| std::fs::read(path).expect("it is there")).collect();
        for (path, bytes) in blobs.iter().zip(bytes.iter().cycle().skip(1)) {
            std::fs::write(path, bytes).expect("room");
        }
    });
    homes.starts("no blobs", |home| std::fs::remove_dir_all(home.join("blobs")).expect("it is there"));
    homes.fails("a file for blobs", 1, &["blobs"], |home| {
        std::fs::remove_dir_all(home.join("blobs")).expect("it is there");
        std::fs::write(home.join("blobs"), "").expect("room");
    });
}

#[test]
fn damaged_blobs_of_a_running_network_s_member_are_repaired_by_the_others() {
    let mut cluster = Cluster::new(&run_file("repaired", 40));
    cluster.start_all(3);
    cluster.wait("round 3", |c| (c.round(2) >= 3).then_some(()));
    assert!(cluster.terminate(2), "{}", cluster.logs());
    let blobs = cluster.nodes[2].home.join("blobs");
    let mut damaged = 0;
    for (seed, entry) in std::fs::read_dir(blobs).expect("it is there").enumerate() {
        let path = entry.expect("it can be read").path();
        match path.extension().and_then(|e| e.to_str()) {
            Some("blob") if seed % 3 == 0 => cut(&path, 1_000),
            Some("blob") => flip(&path, &mut Draw(seed as u64)),
            _ => continue,
        }
        damaged += 1;
    }
    assert!(damaged > 0, "it had no blobs");
    cluster.start(2, &[]);
    cluster.wait("its return", |c| (c.round(2) >= 5).then_some(()));
    assert!(cluster.log(2).contains(".blob is damaged"), "{}", cluster.log(2));
    cluster.wait_for_end();
    let models: Vec<_> = (0..3).map(|i| cluster.rounds(i).last().map(|r| r["model_hash"].clone())).collect();
    assert!(models.iter().all(|m| m == &models[0]), "the nodes disagree: {models:?}");
    for node in 0..3 {
        let out = cluster.command(node, &["verify"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    }
}

#[test]
fn a_member_whose_store_is_damaged_says_how_to_go_on_and_comes_back_as_another_node() {
    let mut cluster = Cluster::new(&run_file("renewed", 60));
    cluster.start_all(3);
    cluster.wait("round 3", |c| (c.round(2) >= 3).then_some(()));
    cluster.kill(2);
    let (home, aside) = (cluster.nodes[2].home.clone(), cluster.dir().join("aside"));
    let store = home.join("store.redb");
    cut(&store, std::fs::metadata(&store).expect("it is there").len() / 2);
    let (code, said) = start(&home);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("store.redb") && said.contains("move the home away and join again"), "{said}");
    // As it was told.
    std::fs::rename(&home, aside).expect("room");
    std::fs::create_dir_all(&home).expect("room");
    cluster.start(2, &[]);
    cluster.wait_for_end();
    let models: Vec<_> = (0..3).map(|i| cluster.rounds(i).last().map(|r| r["model_hash"].clone())).collect();
    assert!(models.iter().all(|m| m == &models[0]), "the nodes disagree: {models:?}");
}
