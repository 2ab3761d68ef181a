//! A table with a header: CSV, its cells parted by commas, semicolons or tabs. Each column that the run file names becomes
//! numbers, by what stands there, so that every node sees the same of the same cell.
//!
//! A missing number counts as the mean, a missing word as none of the categories; a row without what is to be predicted is
//! passed over. What is no number where one must be is an error with its line.

use super::files;
use super::{DataError, DataSet, Examples, Targets, check_size};
use csv::{ReaderBuilder, StringRecord, Trim};
use std::collections::BTreeMap;
use std::path::Path;

/// Columns of a table that are looked at, at most.
pub const COLUMNS_MAX: usize = 1000;
/// Categories of a column at most.
pub const CATEGORIES_MAX: usize = 1000;
/// Deviations from the mean at most; what is further off counts as that far, so that one wrong cell spoils no training.
pub const DEVIATIONS_MAX: f64 = 10.0;
/// What stands for a missing cell, in any case of letters.
pub(crate) const MISSING: [&str; 6] = ["", "na", "n/a", "nan", "null", "?"];
/// Words that are named in a note; of more their count is told.
const NAMED_MAX: usize = 5;

/// A column of a table, as the run file describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// What the header calls it.
    pub name: String,
    /// What is in it.
    pub kind: ColumnKind,
}

/// What is in a column.
#[derive(Debug, Clone, PartialEq)]
pub enum ColumnKind {
    /// Numbers, which a net sees in deviations from the mean.
    Number {
        /// The mean, finite.
        mean: f64,
        /// The deviation, finite and above 0.
        deviation: f64,
    },
    /// Words, each of which a net sees as a number that is 1 where the cell holds it and 0 elsewhere.
    Categories(Vec<String>),
}

impl Column {
    /// Numbers that a net sees of it.
    pub fn width(&self) -> usize {
        match &self.kind {
            ColumnKind::Number { .. } => 1,
            ColumnKind::Categories(categories) => categories.len(),
        }
    }

    /// Its categories; none of numbers.
    pub fn categories(&self) -> &[String] {
        match &self.kind {
            ColumnKind::Number { .. } => &[],
            ColumnKind::Categories(categories) => categories,
        }
    }
}

/// A table that is to be learnt.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// The column to predict: a class where it has categories, else a number.
    pub target: Column,
    /// The columns that it is predicted from.
    pub columns: Vec<Column>,
    /// The share of rows that is held out for testing where there are no files `train.csv` and `test.csv`.
    pub holdout: f64,
}

impl Table {
    /// Numbers that a net sees of a row.
    pub fn width(&self) -> usize {
        self.columns.iter().map(Column::width).sum()
    }

    /// Loads a file, or a folder with `train.csv` and `test.csv`. Of a file `holdout` of the rows are kept for testing, chosen
    /// by a hash of their cells, so that a new row moves no other.
    pub(super) fn load(&self, path: &Path) -> Result<DataSet, DataError> {
        let mut notes = Notes::default();
        let (train, test) = if path.is_dir() {
            let [train, test] = ["train.csv", "test.csv"].map(|name| path.join(name));
            if let Some(missing) = [&train, &test].into_iter().find(|file| !file.is_file()) {
                return Err(DataError::Missing {
                    path: path.to_owned(),
                    missing: missing.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                    fix: "give the file of the table, or a folder with train.csv and test.csv".to_owned(),
                });
            }
            let mut examples = |path| self.rows(path, true, &mut notes)?.examples(self);
            (examples(&train)?, examples(&test)?)
        } else {
            let rows = self.rows(path, true, &mut notes)?;
            let is_held_out = |index: &u32| f64::from(rows.hashes[*index as usize]) < self.holdout * 4_294_967_296.0;
            let (test, train): (Vec<u32>, Vec<u32>) = (0..rows.hashes.len() as u32).partition(is_held_out);
            let all = rows.examples(self)?;
            (all.select(&train), all.select(&test))
        };
        Ok(DataSet { train, test, notes: notes.sentences(path, self) })
    }

    /// The rows of a file whose target need not be known, each with its line; and what is strange in them.
    ///
    /// # Errors
    /// The file can't be read or is no such table.
    pub fn read(&self, path: &Path) -> Result<(Examples, Vec<u64>, Vec<String>), DataError> {
        let mut notes = Notes::default();
        let mut rows = self.rows(path, false, &mut notes)?;
        let lines = std::mem::take(&mut rows.lines);
        Ok((rows.examples(self)?, lines, notes.sentences(path, self)))
    }

    fn rows(&self, path: &Path, must_have_target: bool, notes: &mut Notes) -> Result<Rows, DataError> {
        let mut file = File::open(path)?;
        let columns =
            self.columns.iter().map(|column| file.place(&column.name)).collect::<Result<Vec<_>, DataError>>()?;
        let target = match must_have_target {
            true => Some(file.place(&self.target.name)?),
            false => None,
        };
        let is_used = |place: &usize| columns.contains(place) || Some(*place) == target;
        let unused = (0..file.header.len()).filter(|place| !is_used(place) && must_have_target);
        notes.unused.extend(unused.map(|place| file.header[place].clone()));
        let (width, mut rows) = (self.width(), Rows::default());
        while let Some((line, record)) = file.next()? {
            check_size([width, 4, 1], rows.lines.len() + 1)?;
            let cell = |place: usize| record.get(place).unwrap_or_default();
            let wrong = |name: &str, expected: String, found: &str| DataError::Line {
                path: path.to_owned(),
                line,
                expected: format!("{expected} in column `{name}`"),
                found: format!("{found:?}"),
            };
            let to_predict = match target {
                None => Target::Label(0),
                Some(place) if is_missing(cell(place), &self.target) => {
                    notes.untold += 1;
                    continue;
                }
                Some(place) => {
                    let (name, found) = (&self.target.name, cell(place));
                    let (target, seen) = self.target.target(found).map_err(|expected| wrong(name, expected, found))?;
                    notes.far_targets += usize::from(seen == Seen::Far);
                    target
                }
            };
            for (index, (column, &place)) in self.columns.iter().zip(&columns).enumerate() {
                let (name, found) = (&column.name, cell(place));
                let seen = column.see(found, &mut rows.numbers).map_err(|expected| wrong(name, expected, found))?;
                notes.see(index, found, seen);
            }
            // Of what the run file names alone, in its order: another column beside them, or another order, moves no row.
            let mut hash = blake3::Hasher::new();
            for &place in target.iter().chain(&columns) {
                hash.update(cell(place).as_bytes()).update(&[0x1f]);
            }
            let mut first = [0; 4];
            first.copy_from_slice(&hash.finalize().as_bytes()[..4]);
            rows.hashes.push(u32::from_le_bytes(first));
            rows.lines.push(line);
            rows.targets.push(to_predict);
        }
        Ok(rows)
    }
}

/// Rows as a net sees them.
#[derive(Debug, Default)]
struct Rows {
    /// Where each begins in the file, from 1.
    lines: Vec<u64>,
    /// Those of all rows, one after the other.
    numbers: Vec<f32>,
    targets: Vec<Target>,
    /// Of each row's cells.
    hashes: Vec<u32>,
}

impl Rows {
    fn examples(self, table: &Table) -> Result<Examples, DataError> {
        let targets = match &table.target.kind {
            ColumnKind::Categories(categories) => {
                let label = |target: &Target| if let Target::Label(label) = target { *label } else { 0 };
                Targets::Labels { labels: self.targets.iter().map(label).collect(), classes: categories.len() }
            }
            ColumnKind::Number { deviation, .. } => {
                let value = |target: &Target| if let Target::Number(value) = target { *value } else { 0.0 };
                Targets::Numbers { values: self.targets.iter().map(value).collect(), unit: *deviation }
            }
        };
        Examples::rows(table.width(), self.numbers, targets)
    }
}

/// What is to be predicted of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Target {
    Label(u16),
    /// In deviations from the mean.
    Number(f32),
}

/// What a cell was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    AsItIs,
    Missing,
    /// A word that is none of the categories.
    Unknown,
    /// Too far from the mean.
    Far,
}

impl Column {
    /// Adds what a net sees of a cell.
    ///
    /// # Errors
    /// What should be there.
    fn see(&self, cell: &str, numbers: &mut Vec<f32>) -> Result<Seen, String> {
        match &self.kind {
            ColumnKind::Categories(_) => {
                let (found, categories) = (self.category(cell), self.categories());
                numbers.extend((0..categories.len()).map(|i| if found == Some(i) { 1.0 } else { 0.0 }));
                Ok(match found {
                    Some(_) => Seen::AsItIs,
                    None if is_missing(cell, self) => Seen::Missing,
                    None => Seen::Unknown,
                })
            }
            ColumnKind::Number { .. } if is_missing(cell, self) => {
                numbers.push(0.0);
                Ok(Seen::Missing)
            }
            ColumnKind::Number { mean, deviation } => {
                let (off, seen) = off(cell, *mean, *deviation)?;
                numbers.push(off);
                Ok(seen)
            }
        }
    }

    /// What is to be predicted where this is the target.
    ///
    /// # Errors
    /// What should be there.
    fn target(&self, cell: &str) -> Result<(Target, Seen), String> {
        match &self.kind {
            ColumnKind::Number { mean, deviation } => {
                let (off, seen) = off(cell, *mean, *deviation)?;
                Ok((Target::Number(off), seen))
            }
            ColumnKind::Categories(categories) => {
                let label = self.category(cell).and_then(|label| u16::try_from(label).ok());
                let label = label.map(|label| (Target::Label(label), Seen::AsItIs));
                label.ok_or_else(|| format!("one of the run file's classes ({})", categories.join(", ")))
            }
        }
    }

    /// Which of its categories a cell holds. What are numbers both is the same by its value: one program writes 1, another
    /// 1.0.
    fn category(&self, cell: &str) -> Option<usize> {
        let same = |category: &String| category == cell || number(category).ok().is_some_and(|n| number(cell) == Ok(n));
        self.categories()
            .iter()
            .position(|category| category == cell)
            .or_else(|| self.categories().iter().position(same))
    }
}

/// A number in deviations from its mean.
fn off(cell: &str, mean: f64, deviation: f64) -> Result<(f32, Seen), String> {
    let off = (number(cell)? - mean) / deviation;
    let seen = if off.abs() > DEVIATIONS_MAX { Seen::Far } else { Seen::AsItIs };
    Ok((off.clamp(-DEVIATIONS_MAX, DEVIATIONS_MAX) as f32, seen))
}

fn is_missing(cell: &str, column: &Column) -> bool {
    is_blank(cell) && !column.categories().iter().any(|category| category == cell)
}

/// Whether a cell says that there is nothing.
pub(super) fn is_blank(cell: &str) -> bool {
    MISSING.iter().any(|missing| cell.eq_ignore_ascii_case(missing))
}

/// A number as it stands in a cell.
pub(super) fn number(cell: &str) -> Result<f64, String> {
    let found = cell.parse::<f64>().ok().filter(|number| number.is_finite());
    found.ok_or_else(|| "a number, with a point where it has decimals,".to_owned())
}

/// What is strange in a table.
#[derive(Debug, Default)]
struct Notes {
    unused: Vec<String>,
    /// Rows without a target.
    untold: usize,
    /// Rows whose target is too far from its mean.
    far_targets: usize,
    /// By column.
    missing: BTreeMap<usize, usize>,
    far: BTreeMap<usize, usize>,
    /// By column and word; no more words than can be named, and one.
    unknown: BTreeMap<(usize, String), usize>,
    unnamed: usize,
}

impl Notes {
    fn see(&mut self, column: usize, cell: &str, seen: Seen) {
        match seen {
            Seen::AsItIs => {}
            Seen::Missing => *self.missing.entry(column).or_default() += 1,
            Seen::Far => *self.far.entry(column).or_default() += 1,
            Seen::Unknown => {
                let word = (column, cell.to_owned());
                if self.unknown.len() < NAMED_MAX || self.unknown.contains_key(&word) {
                    *self.unknown.entry(word).or_default() += 1;
                } else {
                    self.unnamed += 1;
                }
            }
        }
    }

    fn sentences(mut self, path: &Path, table: &Table) -> Vec<String> {
        let (path, mut all) = (path.display(), Vec::new());
        let name = |column: &usize| table.columns.get(*column).map(|column| column.name.as_str()).unwrap_or_default();
        let counts = |of: &BTreeMap<usize, usize>| -> Vec<String> {
            of.iter().map(|(column, count)| format!("{count} in `{}`", name(column))).collect()
        };
        if self.untold > 0 {
            all.push(format!("{path}: passed over {} rows without `{}`", self.untold, table.target.name));
        }
        if !self.missing.is_empty() {
            all.push(format!(
                "{path}: missing cells ({}) count as the mean, or as none of the categories",
                counts(&self.missing).join(", ")
            ));
        }
        if !self.far.is_empty() || self.far_targets > 0 {
            let target = (self.far_targets > 0).then(|| format!("{} in `{}`", self.far_targets, table.target.name));
            let counts = counts(&self.far).into_iter().chain(target).collect::<Vec<_>>().join(", ");
            all.push(format!(
                "{path}: numbers over {DEVIATIONS_MAX} deviations from the mean ({counts}) count as that far"
            ));
        }
        if !self.unknown.is_empty() {
            let words = self.unknown.iter().map(|((c, word), n)| format!("{n} {word:?} in `{}`", name(c)));
            let more = if self.unnamed > 0 { format!(", and {} more", self.unnamed) } else { String::new() };
            let words = words.collect::<Vec<_>>().join(", ");
            all.push(format!(
                "{path}: words that are none of the run file's categories count as missing: {words}{more}"
            ));
        }
        self.unused.sort();
        self.unused.dedup();
        if !self.unused.is_empty() {
            all.push(format!("{path}: the run file has no use for the columns {}", self.unused.join(", ")));
        }
        all
    }
}

/// A table that is read row by row.
pub(super) struct File<'a> {
    path: &'a Path,
    pub(super) header: Vec<String>,
    reader: csv::Reader<std::io::Cursor<Vec<u8>>>,
    record: StringRecord,
    /// Bytes whose lines were counted, and the line that they end in, from 1.
    counted: (usize, u64),
}

impl<'a> File<'a> {
    /// Opens a file, gzipped or not, and reads its header.
    pub(super) fn open(path: &'a Path) -> Result<Self, DataError> {
        let bytes = files::read(path)?;
        let delimiter = delimiter(&bytes);
        let mut reader = ReaderBuilder::new()
            .delimiter(delimiter)
            .flexible(true)
            .trim(Trim::All)
            .from_reader(std::io::Cursor::new(bytes));
        let header = reader.headers().map_err(|error| unreadable(path, &error))?;
        let header: Vec<String> = header.iter().map(str::to_owned).collect();
        let twice = header.iter().enumerate().find(|(i, name)| !name.is_empty() && header[..*i].contains(name));
        let wrong = |found: String| DataError::Line {
            path: path.to_owned(),
            line: 1,
            expected: "a header: the name of each column, once".to_owned(),
            found,
        };
        if let Some((_, name)) = twice {
            return Err(wrong(format!("{name:?} twice")));
        }
        if header.iter().all(String::is_empty) || header.len() > COLUMNS_MAX {
            return Err(wrong(format!("{} of them, from 1 to {COLUMNS_MAX} are possible", header.len())));
        }
        Ok(Self { path, header, reader, record: StringRecord::new(), counted: (0, 1) })
    }

    /// Where a column is.
    pub(super) fn place(&self, name: &str) -> Result<usize, DataError> {
        self.header.iter().position(|found| found == name && !name.is_empty()).ok_or_else(|| DataError::Line {
            path: self.path.to_owned(),
            line: 1,
            expected: format!("a header with the column `{name}`"),
            found: self.header.join(", "),
        })
    }

    /// The line that the last record begins in. Its position is where the one before ended: blank lines may follow there.
    fn line(&mut self) -> u64 {
        let bytes = self.reader.get_ref().get_ref();
        let (from, line) = self.counted;
        let start = self.record.position().map_or(from, |position| position.byte() as usize);
        let blank = bytes.iter().skip(start).take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let between = bytes.get(from..start + blank).unwrap_or_default();
        let line = line + between.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.counted = (start + blank, line);
        line
    }

    /// The next row and its line, from 1.
    pub(super) fn next(&mut self) -> Result<Option<(u64, &StringRecord)>, DataError> {
        if !self.reader.read_record(&mut self.record).map_err(|error| unreadable(self.path, &error))? {
            return Ok(None);
        }
        let line = self.line();
        if self.record.len() != self.header.len() {
            return Err(DataError::Line {
                path: self.path.to_owned(),
                line,
                expected: format!("{} cells, as the header has", self.header.len()),
                found: format!("{}: is a quote left open, or a cell with a comma not quoted?", self.record.len()),
            });
        }
        Ok(Some((line, &self.record)))
    }
}

/// What parts the cells: whichever of them the header has most of, outside of its quotes.
fn delimiter(bytes: &[u8]) -> u8 {
    let mut counts = [(b'\t', 0), (b';', 0), (b',', 0)];
    let mut is_quoted = false;
    let start = bytes.iter().skip_while(|byte| matches!(byte, b'\r' | b'\n'));
    for byte in start {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b'\r' | b'\n' if !is_quoted => break,
            _ if is_quoted => {}
            byte => counts.iter_mut().filter(|(delimiter, _)| delimiter == byte).for_each(|(_, count)| *count += 1),
        }
    }
    // Of several that are as frequent the last, which is the comma.
    counts.into_iter().max_by_key(|(_, count)| *count).map_or(b',', |(delimiter, _)| delimiter)
}

fn unreadable(path: &Path, error: &csv::Error) -> DataError {
    let (line, found) = match error.kind() {
        csv::ErrorKind::Utf8 { pos, .. } => {
            (pos.as_ref().map_or(1, csv::Position::line), "other bytes: save it as UTF-8".to_owned())
        }
        _ => (error.position().map_or(1, csv::Position::line), error.to_string()),
    };
    DataError::Line { path: path.to_owned(), line, expected: "a row of text in UTF-8".to_owned(), found }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::data::Input;

    pub(crate) fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("room");
        file
    }

    fn number_column(name: &str, mean: f64, deviation: f64) -> Column {
        Column { name: name.to_owned(), kind: ColumnKind::Number { mean, deviation } }
    }

    fn categories(name: &str, all: &[&str]) -> Column {
        Column {
            name: name.to_owned(),
            kind: ColumnKind::Categories(all.iter().map(|word| (*word).to_owned()).collect()),
        }
    }

    fn pets() -> Table {
        Table {
            target: categories("kind", &["cat", "dog"]),
            columns: vec![number_column("weight", 5.0, 2.0), categories("colour", &["black", "grey"])],
            holdout: 0.0,
        }
    }

    fn row(examples: &Examples, index: usize) -> Vec<f32> {
        match examples.input(index) {
            Input::Numbers(numbers) => numbers.to_vec(),
            Input::Pixels(_) => panic!("a table has no pixels"),
        }
    }

    fn error(text: &str) -> String {
        pets().load(file(text).path()).expect_err("it must be refused").to_string()
    }

    #[test]
    fn cells_become_numbers_as_the_run_file_says() {
        let text = "kind,colour,weight\ncat,grey,7\ndog,black,4.0\n";
        let data = pets().load(file(text).path()).expect("a table");
        assert_eq!((data.train.shape(), data.train.classes(), data.test.len()), ([3, 1, 1], 2, 0));
        assert_eq!(data.train.labels(), [0, 1]);
        assert_eq!([row(&data.train, 0), row(&data.train, 1)], [[1.0, 0.0, 1.0], [-0.5, 1.0, 0.0]]);
        assert!(data.notes.is_empty(), "{:?}", data.notes);
    }

    #[test]
    fn quotes_byte_order_marks_semicolons_and_tabs_are_read() {
        let expected = pets().load(file("kind,colour,weight\ncat,grey,7\n").path()).expect("a table").train;
        for text in [
            "\u{feff}\"kind\",\"colour\",\"weight\"\r\n\"cat\", grey ,7\r\n",
            "kind;colour;weight\ncat;grey;7\n",
            "kind\tcolour\tweight\ncat\tgrey\t7",
            "\n\n\"kind\";colour;weight\ncat;grey;7\n",
        ] {
            assert_eq!(pets().load(file(text).path()).expect("a table").train, expected, "{text:?}");
        }
        let commas = Table { columns: vec![number_column("a, b, c", 0.0, 1.0)], ..pets() };
        let text = "\"a, b, c\";kind\n1;cat\n";
        assert_eq!(row(&commas.load(file(text).path()).expect("a table").train, 0), [1.0]);
        let quoted = Table { target: categories("kind", &["a, \"b\"\nc", "d"]), ..pets() };
        let text = "kind,colour,weight\n\"a, \"\"b\"\"\nc\",grey,7\n";
        assert_eq!(quoted.load(file(text).path()).expect("a table").train.labels(), [0]);
    }

    #[test]
    fn missing_cells_unknown_words_and_far_numbers_are_told_and_count_as_little() {
        let text = "id,kind,colour,weight\n1,cat,,NA\n2,dog,pink,1e9\n3,?,grey,5\n";
        let data = pets().load(file(text).path()).expect("a table");
        assert_eq!([row(&data.train, 0), row(&data.train, 1)], [[0.0; 3], [10.0, 0.0, 0.0]]);
        let told = data.notes.join("\n");
        for expected in [
            "passed over 1 rows without `kind`",
            "1 in `weight`, 1 in `colour`",
            "1 \"pink\" in `colour`",
            "no use for the columns id",
            "over 10 deviations",
        ] {
            assert!(told.contains(expected), "{expected}: {told}");
        }
    }

    #[test]
    fn a_number_is_told_in_deviations_from_its_mean() {
        let table = Table { target: number_column("age", 4.0, 2.0), ..pets() };
        let data = table.load(file("age,colour,weight\n7,grey,5\n").path()).expect("a table");
        assert_eq!((data.train.numbers(), data.train.classes()), (Some((&[1.5f32][..], 2.0)), 1));
    }

    #[test]
    fn a_target_far_off_is_told_and_counts_as_ten_deviations() {
        let table = Table { target: number_column("age", 4.0, 2.0), ..pets() };
        let data = table.load(file("age,colour,weight\n1e300,grey,5\n").path()).expect("a table");
        assert_eq!(data.train.numbers(), Some((&[10.0f32][..], 2.0)));
        assert!(data.notes[0].contains("over 10 deviations from the mean (1 in `age`)"), "{:?}", data.notes);
    }

    #[test]
    fn numbers_that_name_a_class_are_the_same_however_they_are_written() {
        let table = Table { target: categories("kind", &["0", "1"]), ..pets() };
        let data = table.load(file("kind,colour,weight\n1.0,grey,5\n0,grey,5\n+1,grey,5\n").path()).expect("a table");
        assert_eq!(data.train.labels(), [1, 0, 1]);
    }

    #[test]
    fn columns_that_nobody_uses_move_no_row_to_the_other_set() {
        let table = Table { holdout: 0.5, ..pets() };
        let rows = |head: &str, more: fn(usize) -> String| {
            let line = |i: usize| format!("{}cat,grey,{i}\n", more(i));
            let text = format!("{head}kind,colour,weight\n{}", (0..40).map(line).collect::<String>());
            table.load(file(&text).path()).expect("a table").test
        };
        assert_eq!(rows("", |_| String::new()), rows("note,", |i| format!("seen {i},")));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_column() {
        let head = "kind,colour,weight\n";
        for (text, expected) in [
            (format!("{head}cat,grey,5\ncat,grey,\"5,5\"\n"), ":3: expected a number"),
            (format!("{head}cat,grey,inf\n"), "in column `weight`, found \"inf\""),
            (format!("{head}cow,grey,5\n"), ":2: expected one of the run file's classes (cat, dog) in column `kind`"),
            (format!("{head}cat,grey\n"), ":2: expected 3 cells, as the header has, found 2"),
            (format!("{head}\"cat,grey,5\ncat,grey,5\n"), ":2: expected 3 cells"),
            ("kind,colour\ncat,grey\n".to_owned(), ":1: expected a header with the column `weight`"),
            ("kind,kind,weight\n".to_owned(), "\"kind\" twice"),
            (String::new(), "expected a header"),
        ] {
            let error = error(&text);
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), b"kind,colour,weight\ncat,gr\xe4y,5\n").expect("room");
        let error = pets().load(file.path()).expect_err("it is no text").to_string();
        assert!(error.contains(":2: expected a row of text in UTF-8"), "{error}");
    }

    #[test]
    fn the_held_out_rows_stay_when_others_come() {
        let table = Table { holdout: 0.3, ..pets() };
        let line = |i: usize| format!("cat,grey,{}\n", i as f64 / 10.0);
        let text = |count| format!("kind,colour,weight\n{}", (0..count).map(line).collect::<String>());
        let held = |count| {
            let data = table.load(file(&text(count)).path()).expect("a table");
            (0..data.test.len()).map(|i| row(&data.test, i)).collect::<Vec<_>>()
        };
        let (before, after) = (held(50), held(80));
        assert!((5..=25).contains(&before.len()), "{}", before.len());
        assert!(before.iter().all(|row| after.contains(row)));
    }

    #[test]
    fn a_folder_has_a_table_to_train_on_and_one_to_test_with() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("room");
        write("train.csv", "kind,colour,weight\ncat,grey,7\ndog,black,4\n");
        let error = pets().load(folder.path()).expect_err("one is missing").to_string();
        assert!(error.contains("test.csv is missing"), "{error}");
        write("test.csv", "colour,weight,kind\ngrey,3,dog\n");
        let data = pets().load(folder.path()).expect("two tables");
        assert_eq!((data.train.len(), data.test.labels()), (2, &[1][..]));
    }

    #[test]
    fn rows_are_read_without_what_is_to_be_predicted() {
        let file = file("weight,colour\n7,grey\n\n3,black\n");
        let (examples, lines, notes) = pets().read(file.path()).expect("a table");
        assert_eq!((examples.len(), lines, notes.len()), (2, vec![2, 4], 0));
    }
}
