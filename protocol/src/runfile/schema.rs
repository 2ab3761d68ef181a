//! Sections of a run file by their keys. All that is known of a key stands in its [`Key`].

use std::fmt::Write;

use super::Given;
use super::error::RunFileError;
use super::source::{Document, Entry, Known, Result, Section};

/// Where comments begin in a commented file, if the value leaves room.
const COMMENT_COLUMN: usize = 25;

/// A section: its keys in the order in which they are read and written.
pub struct Schema<T: 'static> {
    /// Its name, without brackets.
    pub name: &'static str,
    /// What it is for, as lines of a comment under its header; may be empty.
    pub doc: &'static str,
    /// Its keys.
    pub keys: &'static [Key<T>],
}

/// A key of a section that becomes a `T`.
pub struct Key<T> {
    name: &'static str,
    /// A value that would do, as TOML.
    example: &'static str,
    left_out: LeftOut,
    doc: &'static str,
    /// More about it, for comments below it.
    listing: Option<fn() -> String>,
    /// Whether it goes with the keys before it.
    goes: fn(&T) -> bool,
    in_template: InTemplate,
    read: fn(&Entry, &mut T) -> Result<()>,
    write: fn(&T) -> Option<String>,
}

/// What a key that was left out means, where it goes with those before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LeftOut {
    /// An error.
    Missing,
    /// Its example.
    Default,
    /// Whatever the value was before.
    Fine,
}

/// How a commented file shows a key that it is given no value for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InTemplate {
    /// With its example.
    Set,
    /// Its example as a comment.
    Comment,
    /// Not at all.
    Nothing,
}

impl<T> Key<T> {
    /// A key that must be there. `read` puts an entry into the value, `write` gives what the canonical form has: `None`
    /// where the key has no place in it.
    pub const fn required(
        name: &'static str,
        example: &'static str,
        doc: &'static str,
        read: fn(&Entry, &mut T) -> Result<()>,
        write: fn(&T) -> Option<String>,
    ) -> Self {
        let (left_out, in_template) = (LeftOut::Missing, InTemplate::Set);
        Self { name, example, left_out, doc, listing: None, goes: |_| true, in_template, read, write }
    }

    /// A key that has a default, which is its example.
    pub const fn with_default(
        name: &'static str,
        default: &'static str,
        doc: &'static str,
        read: fn(&Entry, &mut T) -> Result<()>,
        write: fn(&T) -> Option<String>,
    ) -> Self {
        let (left_out, in_template) = (LeftOut::Default, InTemplate::Comment);
        Self { left_out, in_template, ..Self::required(name, default, doc, read, write) }
    }

    /// A key that may be left out: the keys before it say what it is then.
    pub const fn optional(
        name: &'static str,
        example: &'static str,
        doc: &'static str,
        read: fn(&Entry, &mut T) -> Result<()>,
        write: fn(&T) -> Option<String>,
    ) -> Self {
        let (left_out, in_template) = (LeftOut::Fine, InTemplate::Comment);
        Self { left_out, in_template, ..Self::required(name, example, doc, read, write) }
    }

    /// A key that has a meaning with some values of the keys before it alone: with others it may be left out. `read` refuses
    /// it there.
    pub const fn when(mut self, goes: fn(&T) -> bool) -> Self {
        self.goes = goes;
        self.in_template = InTemplate::Comment;
        self
    }

    /// A commented file begins with its example.
    pub const fn in_template(mut self) -> Self {
        self.in_template = InTemplate::Set;
        self
    }

    /// A commented file has no line of its own for it.
    pub const fn not_in_template(mut self) -> Self {
        self.in_template = InTemplate::Nothing;
        self
    }

    /// With lines that are shown below it in a commented file.
    pub const fn listing(mut self, lines: fn() -> String) -> Self {
        self.listing = Some(lines);
        self
    }

    /// As lines of a commented file.
    fn template(&self, given: Option<&str>) -> String {
        let shown = if given.is_some() { InTemplate::Set } else { self.in_template };
        let mark = if shown == InTemplate::Set { "" } else { "# " };
        let line = format!("{mark}{} = {}", self.name, given.unwrap_or(self.example));
        let mut out = match (shown, self.doc) {
            (InTemplate::Nothing, _) => String::new(),
            (_, "") => format!("{line}\n"),
            (_, doc) => format!("{line:<width$}# {doc}\n", width = (COMMENT_COLUMN - 1).max(line.chars().count()) + 1),
        };
        for line in self.listing.map(|lines| lines()).unwrap_or_default().lines() {
            let _ = writeln!(out, "# {line}");
        }
        out
    }
}

impl<T> Schema<T> {
    /// The section with the names of its keys and an example of each, for hints.
    pub fn known(&self) -> Known {
        Known { section: self.name, keys: self.examples() }
    }

    /// The error of a key that must be there, as things are.
    pub fn missing(&self, document: &Document, key: &str) -> RunFileError {
        match document.section(self.name, self.examples()) {
            Ok(section) => section.missing(key),
            Err(error) => error,
        }
    }

    /// The names of the keys, each with a line that would do.
    pub fn examples(&self) -> Vec<(&'static str, String)> {
        self.keys.iter().map(|key| (key.name, format!("{} = {}", key.name, key.example))).collect()
    }

    /// Reads the section of a document, from a default value on.
    ///
    /// # Errors
    /// The first thing that is wrong in it.
    pub fn read(&self, document: &Document) -> Result<T>
    where
        T: Default,
    {
        let section = document.section(self.name, self.examples())?;
        let mut value = T::default();
        self.read_keys(&section, &mut value)?;
        Ok(value)
    }

    /// Reads the keys of a table.
    ///
    /// # Errors
    /// The first thing that is wrong in it.
    pub fn read_keys(&self, section: &Section, value: &mut T) -> Result<()> {
        section.check_keys()?;
        for key in self.keys {
            match (section.get(key.name), key.left_out) {
                (Some(entry), _) => (key.read)(&entry, value)?,
                (None, _) if !(key.goes)(value) => {}
                (None, LeftOut::Missing) => return Err(section.missing(key.name)),
                (None, LeftOut::Default) => {
                    let text = format!("[section]\n{} = {}\n", key.name, key.example);
                    let defaults = Document::parse(&text, "the default", Vec::new())?;
                    let section = defaults.section("section", self.examples())?;
                    section.get(key.name).map_or(Ok(()), |entry| (key.read)(&entry, value))?;
                }
                (None, LeftOut::Fine) => {}
            }
        }
        Ok(())
    }

    /// The lines of a value in canonical form.
    pub fn canonical(&self, value: &T) -> String {
        self.written(value).map(|line| format!("{line}\n")).collect()
    }

    /// The same as an inline table, without braces.
    pub fn inline(&self, value: &T) -> String {
        self.written(value).collect::<Vec<_>>().join(", ")
    }

    fn written(&self, value: &T) -> impl Iterator<Item = String> {
        self.keys.iter().filter_map(|key| Some(format!("{} = {}", key.name, (key.write)(value)?)))
    }

    /// The section of a commented file.
    pub fn template(&self, given: &Given) -> String {
        let value = |key: &str| given.iter().find(|(s, k, _)| *s == self.name && *k == key).map(|(.., v)| v.as_str());
        let mut out = format!("[{}]\n", self.name);
        self.doc.lines().for_each(|line| out.extend(["# ", line, "\n"]));
        self.keys.iter().for_each(|key| out.push_str(&key.template(value(key.name))));
        out
    }
}
