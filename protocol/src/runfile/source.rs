//! The text of a run file as typed values with a place: what every error of the reader is made of.

use std::fmt::Display;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Problem, RunFileError};
use super::read::SECTIONS;
use crate::base::bounds::RUN_FILE_BYTES_MAX;

pub(super) type Result<T> = std::result::Result<T, RunFileError>;

/// Characters of a found name or value that an error repeats.
const SHOWN_CHARS_MAX: usize = 60;

/// How alike two names must be, by Jaro-Winkler, for one to be suggested for the other.
const ALIKE_MIN: f64 = 0.75;

/// A key and a line to show as an example.
pub(super) type Key = (&'static str, &'static str);

/// The text and its name: makes errors out of byte offsets.
#[derive(Clone, Copy)]
pub(super) struct File<'a> {
    pub(super) text: &'a str,
    pub(super) origin: &'a str,
}

impl File<'_> {
    pub(super) fn error(&self, offset: usize, problem: Problem) -> RunFileError {
        let (line, column) = self.line_and_column(offset);
        RunFileError { origin: self.origin.to_owned(), line, column, problem: Box::new(problem) }
    }

    /// `origin:line:column`
    pub(super) fn place(&self, offset: usize) -> String {
        let (line, column) = self.line_and_column(offset);
        format!("{}:{line}:{column}", self.origin)
    }

    /// Both from 1.
    fn line_and_column(&self, offset: usize) -> (usize, usize) {
        // Offsets come from the parser; one inside a character, or past the end, falls back to the character's start.
        let before = (0..=offset.min(self.text.len())).rev().find_map(|at| self.text.get(..at)).unwrap_or("");
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    pub(super) fn check_length(&self, len: usize, form: &'static str) -> Result<()> {
        match len <= RUN_FILE_BYTES_MAX {
            true => Ok(()),
            false => Err(self.error(0, Problem::TooLong { len, max: RUN_FILE_BYTES_MAX, form })),
        }
    }
}

/// A table whose keys are known.
pub(super) struct Section<'a> {
    file: File<'a>,
    /// As errors name it: "[train]".
    name: String,
    keys: &'static [Key],
    /// `None` for a section that was left out.
    table: Option<&'a DeTable<'a>>,
    offset: usize,
}

impl<'a> Section<'a> {
    pub(super) fn of_root(
        file: &File<'a>,
        root: &'a DeTable<'a>,
        name: &'static str,
        keys: &'static [Key],
    ) -> Result<Self> {
        let mut section =
            Section { file: *file, name: format!("[{name}]"), keys, table: None, offset: file.text.len() };
        if let Some((key, value)) = root.iter().find(|(key, _)| key.get_ref() == name) {
            section.offset = key.span().start;
            let Some(table) = value.get_ref().as_table() else {
                let what = format!("`{name}`");
                let (found, example) = (shown(value.get_ref()), format!("[{name}]"));
                let problem = Problem::Value { what, found, expected: "a section".to_owned(), example };
                return Err(file.error(key.span().start, problem));
            };
            section.table = Some(table);
            section.check_keys()?;
        }
        Ok(section)
    }

    /// The same table, now that it is known what it is.
    pub(super) fn known_as(self, name: String, keys: &'static [Key]) -> Self {
        Self { name, keys, ..self }
    }

    /// Refuses keys that don't exist, with the nearest that does.
    pub(super) fn check_keys(&self) -> Result<()> {
        for (name, _) in self.table.into_iter().flatten() {
            if !self.keys.iter().any(|(key, _)| key == name.get_ref()) {
                let problem = Problem::Unknown {
                    what: "key",
                    name: cut(name.get_ref()),
                    place: format!(" in {}", self.name),
                    hint: self.hint(name.get_ref()),
                };
                return Err(self.file.error(name.span().start, problem));
            }
        }
        Ok(())
    }

    fn hint(&self, name: &str) -> String {
        let elsewhere = SECTIONS.iter().find(|(_, keys)| keys.iter().any(|(key, _)| *key == name));
        if let Some((section, _)) = elsewhere {
            return format!("it belongs in [{section}]");
        }
        let known: Vec<&str> = self.keys.iter().map(|(key, _)| *key).collect();
        suggestion(name, &known)
    }

    pub(super) fn get(&self, key: &'static str) -> Option<Entry<'a>> {
        let (name, value) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        let example = self.keys.iter().find(|(k, _)| *k == key).map_or("", |(_, example)| example);
        let what = format!("`{}` in {}", name.get_ref(), self.name);
        Some(Entry { file: self.file, what, example, value: value.get_ref(), offset: value.span().start })
    }

    pub(super) fn required(&self, key: &'static str) -> Result<Entry<'a>> {
        self.get(key).ok_or_else(|| self.missing(key))
    }

    pub(super) fn missing(&self, key: &'static str) -> RunFileError {
        let line = self.keys.iter().find(|(k, _)| *k == key).map_or("", |(_, example)| example);
        let example = match (line, self.table) {
            ("", _) => format!("{key} = \"relu\""),
            (line, Some(_)) => line.to_owned(),
            (line, None) => format!("{}` and under it `{line}", self.name),
        };
        let what = format!("`{key}` in {}", self.name);
        self.file.error(self.offset, Problem::Missing { what, example })
    }

    pub(super) fn integer_or(&self, key: &'static str, range: RangeInclusive<u64>, default: u64) -> Result<u64> {
        self.get(key).map_or(Ok(default), |entry| entry.integer(range))
    }
}

/// A value and where it stands.
pub(super) struct Entry<'a> {
    file: File<'a>,
    /// As errors name it: "`lr` in [train]".
    what: String,
    example: &'static str,
    pub(super) value: &'a DeValue<'a>,
    offset: usize,
}

impl<'a> Entry<'a> {
    pub(super) fn integer(&self, range: RangeInclusive<u64>) -> Result<u64> {
        let wrong = || self.wrong(format!("a whole number from {} to {}", range.start(), range.end()));
        let integer = self.value.as_integer().ok_or_else(wrong)?;
        let value = u64::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| wrong())?;
        if range.contains(&value) { Ok(value) } else { Err(wrong()) }
    }

    /// A finite number for which `ok` holds; whole numbers may leave the point out.
    pub(super) fn number(&self, expected: &str, ok: impl Fn(f64) -> bool) -> Result<f64> {
        let value = match self.value {
            DeValue::Float(float) => float.as_str().parse().ok(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().parse().ok(),
            _ => None,
        };
        // Adding 0 takes the sign from a negative zero.
        value.filter(|x: &f64| x.is_finite() && ok(*x)).map(|x| x + 0.0).ok_or_else(|| self.wrong(expected))
    }

    pub(super) fn boolean(&self) -> Result<bool> {
        self.value.as_bool().ok_or_else(|| self.wrong("true or false"))
    }

    pub(super) fn text_where(&self, expected: &str, ok: impl Fn(&str) -> bool) -> Result<&'a str> {
        self.value.as_str().filter(|text| ok(text)).ok_or_else(|| self.wrong(expected))
    }

    pub(super) fn one_of(&self, names: &[&'static str]) -> Result<&'static str> {
        let list = || names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", ");
        let Some(text) = self.value.as_str() else { return Err(self.wrong(format!("one of {}", list()))) };
        if let Some(name) = names.iter().find(|name| **name == text) {
            return Ok(name);
        }
        let expected = match nearest(text, names) {
            Some(name) => format!("one of {} (did you mean {name:?}?)", list()),
            None => format!("one of {}", list()),
        };
        Err(self.wrong(expected))
    }

    pub(super) fn array(&self, lengths: RangeInclusive<usize>) -> Result<Vec<Entry<'a>>> {
        let expected = || match lengths.start() == lengths.end() {
            true => format!("a list of {}", lengths.start()),
            false => format!("a list of {} to {}", lengths.start(), lengths.end()),
        };
        let array = self.value.as_array().filter(|a| lengths.contains(&a.len()));
        let item = |(i, value): (usize, &'a Spanned<DeValue<'a>>)| Entry {
            file: self.file,
            what: format!("item {} of {}", i + 1, self.what),
            example: self.example,
            value: value.get_ref(),
            offset: value.span().start,
        };
        Ok(array.ok_or_else(|| self.wrong(expected()))?.iter().enumerate().map(item).collect())
    }

    /// The inline table that the value is. Its keys are not checked yet.
    pub(super) fn table(&self, name: &str, keys: &'static [Key]) -> Result<Section<'a>> {
        let table = self.value.as_table().ok_or_else(|| self.wrong(format!("a table {{ {name} = ... }}")))?;
        Ok(Section { file: self.file, name: self.what.clone(), keys, table: Some(table), offset: self.offset })
    }

    pub(super) fn wrong(&self, expected: impl Display) -> RunFileError {
        let (found, example) = (shown(self.value), self.example.to_owned());
        let problem = Problem::Value { what: self.what.clone(), found, expected: expected.to_string(), example };
        self.file.error(self.offset, problem)
    }

    pub(super) fn conflict(&self, text: impl Into<String>) -> RunFileError {
        self.file.error(self.offset, Problem::Conflict(text.into()))
    }
}

pub(super) fn suggestion(name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there is {}", known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")),
    }
}

fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let name = cut(name).to_lowercase();
    let scored = known.iter().map(|k| (strsim::jaro_winkler(&name, k), *k));
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(alike, _)| *alike >= ALIKE_MIN).map(|(_, near)| near)
}

/// A value as an error shows it.
fn shown(value: &DeValue) -> String {
    match value {
        DeValue::String(text) => format!("{:?}", cut(text)),
        DeValue::Integer(integer) => cut(&integer.to_string()),
        DeValue::Float(float) => cut(float.as_str()),
        DeValue::Boolean(yes) => yes.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(items) => format!("a list of {}", items.len()),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

pub(super) fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}
