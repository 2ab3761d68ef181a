//! The text of a run file as typed values with a place: what every error of the reader is made of.

use std::fmt::Display;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Problem, RunFileError};
use crate::base::bounds::RUN_FILE_BYTES_MAX;

/// What reading gives.
pub type Result<T> = std::result::Result<T, RunFileError>;

/// Characters of a found name or value that an error repeats.
const SHOWN_CHARS_MAX: usize = 60;

/// How alike two names must be, by Jaro-Winkler, for one to be suggested for the other.
const ALIKE_MIN: f64 = 0.75;

/// A section and its keys, as hints know them.
#[derive(Debug, Clone)]
pub struct Known {
    /// The section's name.
    pub section: &'static str,
    /// The keys, each with a line to show as an example.
    pub keys: Vec<(&'static str, String)>,
}

impl Known {
    fn has(&self, key: &str) -> bool {
        self.keys.iter().any(|(name, _)| *name == key)
    }
}

/// A text that is TOML, and its name: makes errors out of byte offsets.
#[derive(Debug)]
pub struct Document<'a> {
    text: &'a str,
    origin: &'a str,
    root: Spanned<DeTable<'a>>,
    known: Vec<Known>,
}

impl<'a> Document<'a> {
    /// Reads a text as TOML. What is known of sections and keys is for hints.
    ///
    /// # Errors
    /// More than `RUN_FILE_BYTES_MAX` bytes, or no TOML.
    pub fn parse(text: &'a str, origin: &'a str, known: Vec<Known>) -> Result<Self> {
        let at = |offset, problem| error(text, origin, offset, problem);
        if text.len() > RUN_FILE_BYTES_MAX {
            return Err(at(0, too_long(text.len(), "of text")));
        }
        let root = DeTable::parse(text)
            .map_err(|e| at(e.span().map_or(0, |s| s.start), Problem::Syntax(e.message().trim().to_owned())))?;
        Ok(Self { text, origin, root, known })
    }

    /// Refuses sections other than these.
    pub(super) fn check_sections(&self, sections: &[&str]) -> Result<()> {
        let mut names = self.root.get_ref().keys();
        match names.find(|name| !sections.contains(&name.get_ref().as_ref())) {
            Some(name) => Err(self.error(name.span().start, self.unknown_section(name.get_ref(), sections))),
            None => Ok(()),
        }
    }

    pub(super) fn check_length(&self, len: usize, form: &'static str) -> Result<()> {
        if len <= RUN_FILE_BYTES_MAX { Ok(()) } else { Err(self.error(0, too_long(len, form))) }
    }

    /// A section with these keys, each with an example; it is empty where it was left out.
    ///
    /// # Errors
    /// What stands there is no table.
    pub(super) fn section(&self, name: &'static str, keys: Vec<(&'static str, String)>) -> Result<Section<'_>> {
        let mut section =
            Section { document: self, name: format!("[{name}]"), keys, table: None, offset: self.text.len() };
        if let Some((key, value)) = self.root.get_ref().iter().find(|(key, _)| key.get_ref() == name) {
            section.offset = key.span().start;
            let Some(table) = value.get_ref().as_table() else {
                let what = format!("`{name}`");
                let (found, example) = (shown(value.get_ref()), format!("[{name}]"));
                let problem = Problem::Value { what, found, expected: "a section".to_owned(), example };
                return Err(self.error(key.span().start, problem));
            };
            section.table = Some(table);
        }
        Ok(section)
    }

    /// A value of a section, if it is there. Its key is known.
    pub fn entry(&self, section: &'static str, key: &'static str) -> Option<Entry<'_>> {
        let known = self.known.iter().find(|known| known.section == section)?;
        self.section(section, known.keys.clone()).ok()?.get(key)
    }

    fn error(&self, offset: usize, problem: Problem) -> RunFileError {
        error(self.text, self.origin, offset, problem)
    }

    fn unknown_section(&self, name: &str, sections: &[&str]) -> Problem {
        let hint = match self.known.iter().find(|known| known.has(name)) {
            Some(known) => format!("put it under [{}]", known.section),
            None => suggestion(name, sections),
        };
        Problem::Unknown { what: "section", name: cut(name), place: String::new(), hint }
    }
}

fn error(text: &str, origin: &str, offset: usize, problem: Problem) -> RunFileError {
    let (line, column) = line_and_column(text, offset);
    RunFileError { origin: origin.to_owned(), line, column, problem: Box::new(problem) }
}

fn too_long(len: usize, form: &'static str) -> Problem {
    Problem::TooLong { len, max: RUN_FILE_BYTES_MAX, form }
}

/// Both from 1.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    // Offsets come from the parser; one inside a character, or past the end, falls back to the character's start.
    let before = (0..=offset.min(text.len())).rev().find_map(|at| text.get(..at)).unwrap_or("");
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// See `runfile::place`.
pub(super) fn place(text: &str, origin: &str, section: &str, key: &str, item: Option<usize>) -> String {
    let find = || -> Option<usize> {
        let root = DeTable::parse(text).ok()?;
        let (name, table) = root.get_ref().iter().find(|(name, _)| name.get_ref() == section)?;
        let entry = table.get_ref().as_table()?.iter().find(|(name, _)| name.get_ref() == key);
        let Some((name, value)) = entry else { return Some(name.span().start) };
        let item = item.and_then(|i| Some(value.get_ref().as_array()?.get(i)?.span().start));
        Some(item.unwrap_or(name.span().start))
    };
    let (line, column) = line_and_column(text, find().unwrap_or(text.len()));
    format!("{origin}:{line}:{column}")
}

/// A table whose keys are known.
#[derive(Debug)]
pub struct Section<'a> {
    document: &'a Document<'a>,
    /// As errors name it: "[train]".
    name: String,
    /// Each with a line to show as an example.
    keys: Vec<(&'static str, String)>,
    /// `None` for a section that was left out.
    table: Option<&'a DeTable<'a>>,
    offset: usize,
}

impl<'a> Section<'a> {
    /// The same table, now that it is known what it is.
    pub fn known_as(self, name: String, keys: Vec<(&'static str, String)>) -> Self {
        Self { name, keys, ..self }
    }

    /// Refuses keys that don't exist, with the nearest that does.
    ///
    /// # Errors
    /// The first one.
    pub fn check_keys(&self) -> Result<()> {
        for (name, _) in self.table.into_iter().flatten() {
            if !self.keys.iter().any(|(key, _)| key == name.get_ref()) {
                let problem = Problem::Unknown {
                    what: "key",
                    name: cut(name.get_ref()),
                    place: format!(" in {}", self.name),
                    hint: self.hint(name.get_ref()),
                };
                return Err(self.document.error(name.span().start, problem));
            }
        }
        Ok(())
    }

    fn hint(&self, name: &str) -> String {
        match self.document.known.iter().find(|known| known.has(name)) {
            Some(known) => format!("it belongs in [{}]", known.section),
            None => suggestion(name, &self.keys.iter().map(|(key, _)| *key).collect::<Vec<_>>()),
        }
    }

    /// The value of a key, if it is there.
    pub fn get(&self, key: &str) -> Option<Entry<'a>> {
        let (name, value) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        let what = format!("`{}` in {}", name.get_ref(), self.name);
        Some(Entry {
            document: self.document,
            what,
            example: self.example(key),
            value: value.get_ref(),
            offset: value.span().start,
        })
    }

    /// The error of a key that must be there.
    pub fn missing(&self, key: &str) -> RunFileError {
        let example = match (self.example(key), self.table) {
            (line, Some(_)) => line,
            (line, None) => format!("{}` and under it `{line}", self.name),
        };
        let what = format!("`{key}` in {}", self.name);
        self.document.error(self.offset, Problem::Missing { what, example })
    }

    fn example(&self, key: &str) -> String {
        self.keys.iter().find(|(name, _)| *name == key).map_or_else(String::new, |(_, line)| line.clone())
    }
}

/// A value and where it stands.
#[derive(Debug)]
pub struct Entry<'a> {
    document: &'a Document<'a>,
    /// As errors name it: "`lr` in [train]".
    what: String,
    example: String,
    value: &'a DeValue<'a>,
    offset: usize,
}

impl<'a> Entry<'a> {
    /// A whole number in a range.
    ///
    /// # Errors
    /// It is something else.
    pub fn integer(&self, range: RangeInclusive<u64>) -> Result<u64> {
        let wrong = || self.wrong(format!("a whole number from {} to {}", range.start(), range.end()));
        let integer = self.value.as_integer().ok_or_else(wrong)?;
        let value = u64::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| wrong())?;
        if range.contains(&value) { Ok(value) } else { Err(wrong()) }
    }

    /// A finite number for which `ok` holds, as `expected` says; whole numbers may leave the point out.
    ///
    /// # Errors
    /// It is something else.
    pub fn number(&self, expected: &str, ok: impl Fn(f64) -> bool) -> Result<f64> {
        let value = match self.value {
            DeValue::Float(float) => float.as_str().parse().ok(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().parse().ok(),
            _ => None,
        };
        // Adding 0 takes the sign from a negative zero.
        value.filter(|x: &f64| x.is_finite() && ok(*x)).map(|x| x + 0.0).ok_or_else(|| self.wrong(expected))
    }

    /// True or false.
    ///
    /// # Errors
    /// It is something else.
    pub fn boolean(&self) -> Result<bool> {
        self.value.as_bool().ok_or_else(|| self.wrong("true or false"))
    }

    /// A text for which `ok` holds, as `expected` says.
    ///
    /// # Errors
    /// It is something else.
    pub fn text_where(&self, expected: &str, ok: impl Fn(&str) -> bool) -> Result<&'a str> {
        self.value.as_str().filter(|text| ok(text)).ok_or_else(|| self.wrong(expected))
    }

    /// One of these texts.
    ///
    /// # Errors
    /// It is something else; the nearest one is suggested.
    pub fn one_of(&self, names: &[&'static str]) -> Result<&'static str> {
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

    /// The items of a list of so many.
    ///
    /// # Errors
    /// It is something else.
    pub fn array(&self, lengths: RangeInclusive<usize>) -> Result<Vec<Entry<'a>>> {
        let expected = || match lengths.start() == lengths.end() {
            true => format!("a list of {}", lengths.start()),
            false => format!("a list of {} to {}", lengths.start(), lengths.end()),
        };
        let array = self.value.as_array().filter(|a| lengths.contains(&a.len()));
        let item = |(i, value): (usize, &'a Spanned<DeValue<'a>>)| Entry {
            document: self.document,
            what: format!("item {} of {}", i + 1, self.what),
            example: self.example.clone(),
            value: value.get_ref(),
            offset: value.span().start,
        };
        Ok(array.ok_or_else(|| self.wrong(expected()))?.iter().enumerate().map(item).collect())
    }

    /// The inline table that the value is, such as `{ name = ... }`. Its keys are not checked yet.
    ///
    /// # Errors
    /// It is none.
    pub fn table(&self, name: &str, keys: Vec<(&'static str, String)>) -> Result<Section<'a>> {
        let table = self.value.as_table().ok_or_else(|| self.wrong(format!("a table {{ {name} = ... }}")))?;
        Ok(Section { document: self.document, name: self.what.clone(), keys, table: Some(table), offset: self.offset })
    }

    /// The value in canonical form, whatever it is: tables by their keys, numbers in their shortest form.
    ///
    /// # Errors
    /// A date, or a number that is not finite: they have no one form.
    pub fn verbatim(&self) -> Result<String> {
        canonical(self.value)
            .ok_or_else(|| self.wrong("texts, finite numbers, true and false, and lists and tables of these"))
    }

    /// Whether it is a text.
    pub fn is_text(&self) -> bool {
        self.value.is_str()
    }

    /// Whether it is a table.
    pub fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// The text that it is, if it is one.
    pub fn text(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    /// The error of a value that is not as it should be.
    pub fn wrong(&self, expected: impl Display) -> RunFileError {
        let (found, example) = (shown(self.value), self.example.clone());
        let problem = Problem::Value { what: self.what.clone(), found, expected: expected.to_string(), example };
        self.document.error(self.offset, problem)
    }

    /// The error of a value that excludes another, or needs one.
    pub fn conflict(&self, text: impl Into<String>) -> RunFileError {
        self.document.error(self.offset, Problem::Conflict(text.into()))
    }
}

fn suggestion(name: &str, known: &[&str]) -> String {
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

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

/// A basic TOML string.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The shortest text that reads back as the same number, always with a point or an exponent. Zero has no sign.
pub fn number(x: f64) -> String {
    format!("{:?}", x + 0.0)
}

/// Any value in its one form; `None` for one that has none.
fn canonical(value: &DeValue) -> Option<String> {
    Some(match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix()).ok()?.to_string(),
        DeValue::Float(float) => number(float.as_str().parse().ok().filter(|x: &f64| x.is_finite())?),
        DeValue::Boolean(yes) => yes.to_string(),
        DeValue::Datetime(_) => return None,
        DeValue::Array(items) => {
            let items = items.iter().map(|item| canonical(item.get_ref())).collect::<Option<Vec<_>>>()?;
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(table) => {
            let mut pairs = Vec::with_capacity(table.len());
            for (key, value) in table {
                pairs.push(format!("{} = {}", quoted(key.get_ref()), canonical(value.get_ref())?));
            }
            pairs.sort();
            format!("{{ {} }}", pairs.join(", "))
        }
    })
}
