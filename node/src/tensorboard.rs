//! TensorBoard's event files: the figures of a run's rounds as scalars that the `tensorboard` package draws.
//!
//! A file is a row of TFRecords with an `Event` of Protocol Buffers in each: the first names the format, the others hold
//! a round each. Source of the framing and the messages: github.com/tensorflow/tensorboard,
//! `tensorboard/summary/writer/record_writer.py`, `tensorboard/compat/proto/event.proto` and `summary.proto`.

use std::path::Path;
use std::time::{Duration, SystemTime};

use crc::{CRC_32_ISCSI, Crc};
use prost::Message;

use crate::report::Round;

/// What the first event of every file says.
const FILE_VERSION: &str = "brain.Event:2";

/// Sums are of CRC-32C, in RFC 3720's words those of iSCSI.
static CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// TFRecord adds it to a sum, so that sums of data that holds sums stay good ones.
const MASK_DELTA: u32 = 0xa282_ead8;

/// The name that an event file of the run or node `name` has to have, with the time of its rounds' end in seconds:
/// TensorBoard reads files of such names alone, those of a folder in the order of their names. `name` becomes part of it
/// as it is, and so can't have separators of paths.
pub(crate) fn file_name(end: SystemTime, name: &str) -> String {
    format!("events.out.tfevents.{:010}.{name}", since_epoch(end).as_secs())
}

/// Whether this is an event file of that name, whenever it was written.
pub(crate) fn is_event_file(path: &Path, name: &str) -> bool {
    let file =
        path.file_name().and_then(|file| file.to_str()).and_then(|file| file.strip_prefix("events.out.tfevents."));
    file.and_then(|rest| rest.split_once('.')).is_some_and(|(_, of)| of == name)
}

/// The bytes of an event file: an event for each of `rounds`, oldest first, with its number as the step. What is null has
/// no scalar. Values are rounded to 24 binary digits: scalars of TensorBoard are of 32 bits.
///
/// Rounds know how long they took, not when: the last is told as committed at `end`, each of the others before it by the
/// durations of those after it, where one that is not known counts as none.
pub(crate) fn events(rounds: &[Round], end: SystemTime) -> Vec<u8> {
    let took = |round: &Round| Duration::from_millis(round.duration_ms.unwrap_or(0));
    let end = since_epoch(end);
    let mut ahead = rounds.iter().map(took).fold(Duration::ZERO, Duration::saturating_add);
    let begun = Event {
        wall_time: end.saturating_sub(ahead).as_secs_f64(),
        file_version: Some(FILE_VERSION.to_owned()),
        ..Event::default()
    };
    let mut bytes = Vec::new();
    frame(&begun.encode_to_vec(), &mut bytes);
    for round in rounds {
        ahead = ahead.saturating_sub(took(round));
        let event = Event {
            wall_time: end.saturating_sub(ahead).as_secs_f64(),
            step: i64::try_from(round.round).unwrap_or(i64::MAX),
            summary: Some(Summary { value: scalars(round) }),
            ..Event::default()
        };
        frame(&event.encode_to_vec(), &mut bytes);
    }
    bytes
}

/// What is known of a round. TensorBoard groups by what stands before the slash.
fn scalars(round: &Round) -> Vec<Value> {
    let seconds = |ms: u64| ms as f64 / 1_000.0;
    let longest_training_ms = round.contributions.iter().map(|c| c.train_ms).max();
    let metrics = round.metrics.iter().map(|(name, value)| (format!("evaluation/{name}"), *value));
    let others = [
        ("train/loss", round.train_loss),
        ("time/round_s", round.duration_ms.map(seconds)),
        ("time/overhead_s", round.overhead_ms.map(seconds)),
        ("time/longest_training_s", longest_training_ms.map(seconds)),
        ("updates/count", Some(round.contributions.len() as f64)),
        ("bytes/sent", Some(round.bytes_sent as f64)),
        ("bytes/received", Some(round.bytes_received as f64)),
    ];
    let known = others.into_iter().filter_map(|(tag, value)| Some((tag.to_owned(), value?)));
    metrics.chain(known).map(|(tag, value)| Value { tag, simple_value: Some(value as f32) }).collect()
}

/// Nothing here is older than the clocks that count from 1970.
fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Appends a TFRecord: the length as a u64, its sum, the data, its sum; all numbers little-endian.
fn frame(data: &[u8], out: &mut Vec<u8>) {
    let length = (data.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked_crc32c(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked_crc32c(data).to_le_bytes());
}

fn masked_crc32c(data: &[u8]) -> u32 {
    CRC32C.checksum(data).rotate_right(15).wrapping_add(MASK_DELTA)
}

/// `tensorboard.Event`, as far as scalars need it. The optional fields are of a oneof there, which is the same in bytes.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// `tensorboard.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

/// `tensorboard.Summary.Value`.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    /// Of a oneof too: a 0 has to be written.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    /// A round of which all is known, and one of which the least is.
    fn rounds() -> Vec<Round> {
        let contribution = |train_ms| json!({ "node_id": "", "samples": 1, "update_hash": "", "train_ms": train_ms });
        let known = json!({
            "kind": "train", "round": 1, "attempt": 0, "model_hash": "", "train_loss": 0.5,
            "contributions": [contribution(250), contribution(1_250)], "metrics": { "accuracy": 0.75, "loss": 0.0 },
            "duration_ms": 1_500, "overhead_ms": 250, "bytes_sent": 1_024, "bytes_received": 4_096,
        });
        let empty = json!({
            "kind": "empty", "round": 3, "attempt": 0, "model_hash": "", "contributions": [], "duration_ms": 500,
            "bytes_sent": 0, "bytes_received": 0,
        });
        let unknown = json!({
            "kind": "empty", "round": 4, "attempt": 0, "model_hash": "", "contributions": [], "bytes_sent": 0,
            "bytes_received": 0,
        });
        serde_json::from_value(json!([known, empty, unknown])).expect("what is null may be left out")
    }

    fn at(seconds: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)
    }

    /// The events of a file, read by the lengths alone.
    fn read(mut bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some((length, rest)) = bytes.split_first_chunk() {
            let (data, rest) = rest[4..].split_at(u64::from_le_bytes(*length) as usize);
            events.push(Event::decode(data).expect("an event"));
            bytes = &rest[4..];
        }
        events
    }

    fn scalars_of(event: &Event) -> BTreeMap<&str, f32> {
        let values = &event.summary.as_ref().expect("a round").value;
        values.iter().map(|value| (value.tag.as_str(), value.simple_value.expect("a value"))).collect()
    }

    /// RFC 3720, section B.4: the CRC-32C of the bytes from 0 to 31 is 0x46dd794e. Masked by hand, as TFRecord's
    /// `masked_crc` does it: 0x46dd794e >> 15 | 0x46dd794e << 17 = 0xf29c8dba, and 0xa282ead8 more is 0x951f7892. That of
    /// the length is what tensorboard 2.21's `masked_crc32c` says of it.
    #[test]
    fn a_record_has_its_length_and_the_masked_sums_of_both() {
        let data: Vec<u8> = (0..32).collect();
        assert_eq!((CRC32C.checksum(&data), masked_crc32c(&data)), (0x46dd_794e, 0x951f_7892));
        let mut framed = vec![7];
        frame(&data, &mut framed);
        let expected = [&[7, 32, 0, 0, 0, 0, 0, 0, 0, 0x29, 0xed, 0xa9, 0x50], &data[..], &[0x92, 0x78, 0x1f, 0x95]];
        assert_eq!(framed, expected.concat());
    }

    #[test]
    fn a_file_begins_with_its_version_and_has_an_event_a_round() {
        let events = read(&events(&rounds(), at(10.0)));
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        assert!(events[0].summary.is_none() && events[1..].iter().all(|event| event.file_version.is_none()));
        assert_eq!(events.iter().map(|event| event.step).collect::<Vec<_>>(), [0, 1, 3, 4]);
    }

    #[test]
    fn every_figure_of_a_round_is_a_scalar_and_so_is_a_zero() {
        let expected = [
            ("bytes/received", 4_096.0),
            ("bytes/sent", 1_024.0),
            ("evaluation/accuracy", 0.75),
            ("evaluation/loss", 0.0),
            ("time/longest_training_s", 1.25),
            ("time/overhead_s", 0.25),
            ("time/round_s", 1.5),
            ("train/loss", 0.5),
            ("updates/count", 2.0),
        ];
        let events = read(&events(&rounds(), at(10.0)));
        assert_eq!(scalars_of(&events[1]), BTreeMap::from(expected));
    }

    #[test]
    fn what_is_null_has_no_scalar() {
        let events = read(&events(&rounds(), at(10.0)));
        let always = ["bytes/received", "bytes/sent", "updates/count"];
        assert!(scalars_of(&events[3]).into_keys().eq(always));
    }

    #[test]
    fn rounds_end_at_the_given_time_and_go_back_by_their_durations() {
        let times = |end| read(&events(&rounds(), at(end))).iter().map(|event| event.wall_time).collect::<Vec<_>>();
        assert_eq!(times(10.0), [8.0, 9.5, 10.0, 10.0]);
        assert_eq!(times(1.0), [0.0, 0.5, 1.0, 1.0], "nothing is before 1970");
    }

    #[test]
    fn a_run_without_rounds_is_a_file_without_scalars() {
        let events = read(&events(&[], at(10.0)));
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].wall_time, events[0].summary.as_ref()), (10.0, None));
    }

    #[test]
    fn a_file_is_named_so_that_tensorboard_finds_it_and_names_sort_by_time() {
        assert_eq!(file_name(at(1_700_000_000.5), "digits"), "events.out.tfevents.1700000000.digits");
        assert!(file_name(at(9.0), "digits") < file_name(at(10.0), "digits"));
    }
}
