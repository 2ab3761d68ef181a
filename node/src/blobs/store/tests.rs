use super::*;
use paceline_protocol::bounds::CHUNK_BYTES;

const CHUNK: usize = CHUNK_BYTES as usize;

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn fresh() -> (tempfile::TempDir, BlobStore) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = reopen(&dir);
    (dir, store)
}

/// What a start after kill -9 finds: the files as they are.
fn reopen(dir: &tempfile::TempDir) -> BlobStore {
    BlobStore::open(dir.path()).expect("it opens")
}

fn chunk_of(data: &[u8], i: usize) -> &[u8] {
    &data[i * CHUNK..data.len().min((i + 1) * CHUNK)]
}

/// Begins a blob and writes these chunks of it.
fn part(store: &BlobStore, data: &[u8], chunks: &[u32]) -> Hash {
    let manifest = Manifest::of(data);
    let id = manifest.blob().id;
    store.begin(manifest).expect("begins");
    for i in chunks {
        assert!(store.write_chunk(id, *i, chunk_of(data, *i as usize)).expect("writes"));
    }
    id
}

fn file(dir: &tempfile::TempDir, id: Hash, extension: &str) -> PathBuf {
    dir.path().join(format!("{id}.{extension}"))
}

#[test]
fn what_was_put_is_there_after_a_restart() {
    let (dir, store) = fresh();
    let data = bytes(700_000);
    let blob = store.put(&data).expect("room on the disk");
    assert_eq!(reopen(&dir).read(blob.id).expect("it is whole"), data);
}

#[test]
fn an_empty_blob_is_whole_like_any_other() {
    let (dir, store) = fresh();
    let blob = store.put(&[]).expect("room on the disk");
    assert_eq!(reopen(&dir).read(blob.id).expect("it is whole"), [0u8; 0]);
    let (_dir, other) = fresh();
    let id = part(&other, &[], &[]);
    other.seal(id, true).expect("nothing is missing");
    assert_eq!(other.read(blob.id).expect("it is whole"), [0u8; 0]);
}

#[test]
fn a_part_resumes_with_the_chunks_that_were_whole() {
    let (dir, store) = fresh();
    let data = bytes(3 * CHUNK + 5);
    let id = part(&store, &data, &[1]);
    drop(store);
    let again = reopen(&dir);
    assert!(!again.is_whole(id));
    assert_eq!(again.begin(Manifest::of(&data)).expect("resumes"), [0, 2, 3]);
    for i in [0, 2, 3] {
        assert!(again.write_chunk(id, i as u32, chunk_of(&data, i)).expect("writes"));
    }
    again.seal(id, true).expect("all chunks are here");
    assert_eq!(again.read(id).expect("it is whole"), data);
}

#[test]
fn a_part_cut_anywhere_resumes_with_the_chunks_before_the_cut() {
    let data = bytes(3 * CHUNK + 5);
    for (len, missing) in [
        (0, vec![0, 1, 2, 3]),
        (CHUNK - 1, vec![0, 1, 2, 3]),
        (CHUNK, vec![1, 2, 3]),
        (3 * CHUNK, vec![3]),
        (3 * CHUNK + 4, vec![3]),
        (3 * CHUNK + 5, vec![]),
    ] {
        let (dir, store) = fresh();
        let id = part(&store, &data, &[0, 1, 2, 3]);
        drop(store);
        let file = OpenOptions::new().write(true).open(file(&dir, id, PART)).expect("it is there");
        file.set_len(len as u64).expect("cuts");
        assert_eq!(reopen(&dir).begin(Manifest::of(&data)).expect("resumes"), missing, "cut at {len}");
    }
}

#[test]
fn a_part_longer_than_its_blob_is_cut_to_it() {
    let (dir, store) = fresh();
    let data = bytes(CHUNK + 5);
    let id = part(&store, &data, &[0]);
    drop(store);
    OpenOptions::new().append(true).open(file(&dir, id, PART)).and_then(|mut f| f.write_all(b"more")).expect("writes");
    let again = reopen(&dir);
    assert_eq!(again.begin(Manifest::of(&data)).expect("resumes"), [1]);
    assert!(again.write_chunk(id, 1, chunk_of(&data, 1)).expect("writes"));
    again.seal(id, true).expect("all chunks are here");
    assert_eq!(again.read(id).expect("it is whole"), data);
}

#[test]
fn a_manifest_cut_garbled_or_emptied_makes_a_part_of_its_blob() {
    let data = bytes(2 * CHUNK);
    let damages: [fn(&mut Vec<u8>); 3] = [|b| b.truncate(20), |b| b[10] ^= 1, Vec::clear];
    for (i, damage) in damages.into_iter().enumerate() {
        let (dir, store) = fresh();
        let blob = store.put(&data).expect("room on the disk");
        let path = file(&dir, blob.id, MANIFEST);
        let mut bytes = fs::read(&path).expect("reads");
        damage(&mut bytes);
        fs::write(&path, bytes).expect("writes");
        let again = reopen(&dir);
        assert!(!again.is_whole(blob.id), "damage {i}");
        assert_eq!(again.begin(Manifest::of(&data)).expect("resumes"), [0u32; 0], "damage {i}: its chunks are right");
        again.seal(blob.id, true).expect("nothing is missing");
        assert_eq!(reopen(&dir).read(blob.id).expect("it is whole"), data, "damage {i}");
    }
}

#[test]
fn a_blob_whose_bytes_never_reached_the_disk_does_not_count_after_a_restart() {
    let (dir, store) = fresh();
    let data = bytes(3 * CHUNK);
    let blob = store.put(&data).expect("room on the disk");
    // Some file systems leave zeros of the right length after a power loss.
    let mut lost = data.clone();
    lost[CHUNK..2 * CHUNK].fill(0);
    fs::write(file(&dir, blob.id, WHOLE), lost).expect("writes");
    let again = reopen(&dir);
    assert!(!again.is_whole(blob.id));
    assert_eq!(again.begin(Manifest::of(&data)).expect("resumes"), [1]);
}

#[test]
fn a_spooled_blob_is_a_part_again_after_a_restart() {
    let (dir, store) = fresh();
    let data = bytes(CHUNK + 1);
    let id = part(&store, &data, &[0, 1]);
    store.seal(id, false).expect("all chunks are here");
    assert_eq!(store.read(id).expect("it is whole"), data);
    assert_eq!(store.chunk(id, 1).as_deref(), Some(chunk_of(&data, 1)));
    let again = reopen(&dir);
    assert!(!again.is_whole(id), "nobody synced it");
    assert_eq!(again.begin(Manifest::of(&data)).expect("resumes"), [0u32; 0]);
}

#[test]
fn a_spooled_blob_that_is_sealed_or_put_survives_a_restart() {
    for seals in [true, false] {
        let (dir, store) = fresh();
        let data = bytes(CHUNK + 1);
        let id = part(&store, &data, &[0, 1]);
        store.seal(id, false).expect("all chunks are here");
        if seals {
            store.seal(id, true).expect("it is whole");
        } else {
            store.put(&data).expect("room on the disk");
        }
        assert_eq!(store.read(id).expect("it is whole"), data);
        assert_eq!(reopen(&dir).read(id).expect("it is whole"), data);
        assert!(!file(&dir, id, PART).exists());
    }
}

#[test]
fn what_was_being_written_when_the_node_was_killed_is_swept() {
    let (dir, store) = fresh();
    let blob = store.put(&bytes(10)).expect("room on the disk");
    let unfinished = dir.path().join(format!("{}.blob.3.{}", blob.id, files::UNFINISHED));
    fs::write(&unfinished, b"half").expect("writes");
    fs::write(dir.path().join("notes.txt"), b"somebody's").expect("writes");
    let again = reopen(&dir);
    assert!(!unfinished.exists());
    assert!(dir.path().join("notes.txt").exists(), "it is no blob, and left alone");
    assert_eq!(again.whole(), [blob.id]);
}

#[test]
fn a_chunk_that_fails_its_hash_changes_nothing() {
    let (_dir, store) = fresh();
    let data = bytes(1_000);
    let id = part(&store, &data, &[]);
    for wrong in [bytes(999), bytes(1_001), vec![0; 1_000], vec![]] {
        assert!(!store.write_chunk(id, 0, &wrong).expect("no disk error"));
    }
    assert!(!store.write_chunk(id, 1, &data).expect("no disk error"), "there is no chunk 1");
    assert!(!store.write_chunk(id, u32::MAX, &data).expect("no disk error"));
    assert!(store.seal(id, true).is_err());
}

#[test]
fn a_damaged_blob_is_refused_and_only_its_damaged_chunk_is_missing() {
    let (dir, store) = fresh();
    let data = bytes(3 * CHUNK);
    let blob = store.put(&data).expect("room on the disk");
    let mut damaged = data.clone();
    damaged[CHUNK + 500] ^= 1;
    fs::write(file(&dir, blob.id, WHOLE), damaged).expect("writes");
    assert!(matches!(store.read(blob.id), Err(BlobError::Damaged(_))));
    assert!(!store.is_whole(blob.id));
    assert_eq!(store.begin(Manifest::of(&data)).expect("resumes"), [1]);
}

#[test]
fn a_damaged_chunk_is_not_served() {
    let (dir, store) = fresh();
    let data = bytes(2 * CHUNK);
    let blob = store.put(&data).expect("room on the disk");
    let mut damaged = data.clone();
    damaged[0] ^= 1;
    fs::write(file(&dir, blob.id, WHOLE), damaged).expect("writes");
    assert_eq!(store.chunk(blob.id, 0), None);
    assert!(!store.is_whole(blob.id));
}

#[test]
fn putting_a_blob_that_is_damaged_on_disk_repairs_it() {
    let (dir, store) = fresh();
    let data = bytes(CHUNK + 1);
    let blob = store.put(&data).expect("room on the disk");
    fs::write(file(&dir, blob.id, WHOLE), b"short").expect("writes");
    store.put(&data).expect("room on the disk");
    assert_eq!(reopen(&dir).read(blob.id).expect("it is whole"), data);
}

#[test]
fn a_blob_that_is_put_while_it_is_fetched_is_whole_for_the_fetch() {
    let (dir, store) = fresh();
    let data = bytes(2 * CHUNK);
    let id = part(&store, &data, &[0]);
    store.put(&data).expect("room on the disk");
    assert!(store.write_chunk(id, 1, chunk_of(&data, 1)).expect("it is right"));
    store.seal(id, true).expect("it is whole");
    assert_eq!(reopen(&dir).read(id).expect("it is whole"), data);
}

#[test]
fn one_blob_from_many_sides_at_once_is_whole_in_the_end() {
    let (dir, store) = fresh();
    let data = bytes(8 * CHUNK + 7);
    let manifest = Manifest::of(&data);
    let id = manifest.blob().id;
    let (store, data, manifest) = (&store, &data, &manifest);
    std::thread::scope(|scope| {
        for side in 0..4 {
            scope.spawn(move || {
                if side == 0 {
                    store.put(data).expect("room on the disk");
                }
                for i in store.begin(manifest.clone()).expect("begins") {
                    assert!(store.write_chunk(id, i, chunk_of(data, i as usize)).expect("writes"));
                }
                store.seal(id, side == 1).expect("this side wrote all that was missing");
            });
        }
    });
    assert_eq!(&store.read(id).expect("it is whole"), data);
    assert_eq!(&reopen(&dir).read(id).expect("it is whole"), data);
}

#[test]
fn what_is_pinned_survives_a_clean_up() {
    let (_dir, store) = fresh();
    let (one, two) = (store.put(&bytes(10)).expect("room"), store.put(&bytes(20)).expect("room"));
    store.retain(&BTreeSet::from([one.id, two.id]));
    store.pin(one.id);
    store.retain(&BTreeSet::new());
    assert!(store.is_whole(one.id) && !store.is_whole(two.id));
    store.unpin(one.id);
    store.retain(&BTreeSet::new());
    assert!(!store.is_whole(one.id));
}

#[test]
fn what_was_just_put_survives_one_clean_up_that_does_not_know_it() {
    let (_dir, store) = fresh();
    let blob = store.put(&bytes(10)).expect("room");
    store.retain(&BTreeSet::new());
    assert!(store.is_whole(blob.id));
    store.retain(&BTreeSet::new());
    assert!(!store.is_whole(blob.id));
}

#[test]
fn a_part_of_an_earlier_life_can_be_resumed_after_the_first_clean_up_and_is_gone_after_the_second() {
    let (dir, store) = fresh();
    let data = bytes(2 * CHUNK);
    let id = part(&store, &data, &[1]);
    drop(store);
    let again = reopen(&dir);
    again.retain(&BTreeSet::new());
    assert_eq!(again.manifest(id).map(|m| m.blob().id), Some(id), "nobody need be asked for it");
    assert_eq!(again.begin(Manifest::of(&data)).expect("resumes"), [0]);
    again.retain(&BTreeSet::new());
    assert_eq!(fs::read_dir(dir.path()).expect("reads").count(), 0, "nothing is left behind");
    assert_eq!(again.begin(Manifest::of(&data)).expect("begins anew"), [0, 1]);
}

#[test]
fn a_folder_that_is_no_folder_is_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("blobs");
    fs::write(&path, b"a file").expect("writes");
    let error = BlobStore::open(&path).expect_err("a file is in the way");
    assert!(error.to_string().contains(path.to_str().expect("it is text")), "{error}");
}

/// A file system with so much room, where the system lets one be mounted.
#[cfg(target_os = "linux")]
struct SmallDisk(tempfile::TempDir);

#[cfg(target_os = "linux")]
impl SmallDisk {
    fn mount(bytes: usize) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(dir.path());
        let mounted = mount.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success());
        mounted.then_some(Self(dir))
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_what_was_whole_stays_whole() {
    let Some(disk) = SmallDisk::mount(4 * CHUNK) else { return eprintln!("skipped: tmpfs can't be mounted here") };
    let store = BlobStore::open(disk.0.path()).expect("an empty disk");
    let small = store.put(&bytes(CHUNK)).expect("there is room for it");
    let large = bytes(6 * CHUNK);
    assert!(matches!(store.put(&large), Err(BlobError::Disk { .. })));
    let manifest = Manifest::of(&large);
    let id = manifest.blob().id;
    store.begin(manifest.clone()).expect("a part takes no room yet");
    let fits = |i: &u32| store.write_chunk(id, *i, chunk_of(&large, *i as usize)).is_ok();
    let taken = (0..6).take_while(fits).count();
    assert!((1..6).contains(&taken), "{taken} of 6 chunks fit beside the other blob");
    let again = BlobStore::open(disk.0.path()).expect("it opens");
    assert_eq!(again.whole(), [small.id]);
    let missing = again.begin(manifest).expect("resumes");
    assert_eq!(missing.len(), 6 - taken, "what was taken counts");
}
