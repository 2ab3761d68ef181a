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
            let mut rows = |path| self.rows(path, true, &mut notes);
            (rows(&train)?, rows(&test)?)
        } else {
            let rows = self.rows(path, true, &mut notes)?;
            rows.into_iter().partition(|row| !row.is_held_out(self.holdout))
        };
        Ok(DataSet { train: self.examples(&train)?, test: self.examples(&test)?, notes: notes.sentences(path, self) })
    }

    /// The rows of a file whose target need not be known, each with its line; and what is strange in them.
    ///
    /// # Errors
    /// The file can't be read or is no such table.
    pub fn read(&self, path: &Path) -> Result<(Examples, Vec<u64>, Vec<String>), DataError> {
        let mut notes = Notes::default();
        let rows = self.rows(path, false, &mut notes)?;
        let lines = rows.iter().map(|row| row.line).collect();
        Ok((self.examples(&rows)?, lines, notes.sentences(path, self)))
    }

    fn rows(&self, path: &Path, must_have_target: bool, notes: &mut Notes) -> Result<Vec<Row>, DataError> {
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
        let (width, mut rows) = (self.width(), Vec::new());
        while let Some((line, record)) = file.next()? {
            check_size([width, 4, 1], rows.len() + 1)?;
            let cell = |place: usize| record.get(place).unwrap_or_default();
            let wrong = |name: &str, expected: String, found: &str| DataError::Line {
                path: path.to_owned(),
                line,
                expected: format!("{expected} in column `{name}`"),
                found: format!("{found:?}"),
            };
            let target = match target {
                None => Target::Label(0),
                Some(place) if is_missing(cell(place), &self.target) => {
                    notes.untold += 1;
                    continue;
                }
                Some(place) => self.target.target(cell(place)).map_err(|e| wrong(&self.target.name, e, cell(place)))?,
            };
            let mut numbers = Vec::with_capacity(width);
            for (index, (column, &place)) in self.columns.iter().zip(&columns).enumerate() {
                let seen = column.see(cell(place), &mut numbers).map_err(|e| wrong(&column.name, e, cell(place)))?;
                notes.see(index, cell(place), seen);
            }
            let mut hash = blake3::Hasher::new();
            record.iter().for_each(|cell| {
                hash.update(cell.as_bytes()).update(&[0x1f]);
            });
            let mut first = [0; 4];
            first.copy_from_slice(&hash.finalize().as_bytes()[..4]);
            rows.push(Row { line, numbers, target, hash: u32::from_le_bytes(first) });
        }
        Ok(rows)
    }

    fn examples(&self, rows: &[Row]) -> Result<Examples, DataError> {
        let numbers: Vec<f32> = rows.iter().flat_map(|row| &row.numbers).copied().collect();
        let targets = match &self.target.kind {
            ColumnKind::Categories(categories) => {
                let label = |row: &Row| if let Target::Label(label) = row.target { label } else { 0 };
                Targets::Labels { labels: rows.iter().map(label).collect(), classes: categories.len() }
            }
            ColumnKind::Number { deviation, .. } => {
                let value = |row: &Row| if let Target::Number(value) = row.target { value } else { 0.0 };
                Targets::Numbers { values: rows.iter().map(value).collect(), unit: *deviation }
            }
        };
        Examples::rows(self.width(), numbers, targets)
    }
}

/// A row as a net sees it.
struct Row {
    /// Its line in the file, from 1.
    line: u64,
    numbers: Vec<f32>,
    target: Target,
    /// Of all its cells.
    hash: u32,
}

impl Row {
    fn is_held_out(&self, share: f64) -> bool {
        f64::from(self.hash) < share * 4_294_967_296.0
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
            ColumnKind::Categories(categories) => {
                let found = categories.iter().position(|category| category == cell);
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
                let off = (number(cell)? - mean) / deviation;
                numbers.push(off.clamp(-DEVIATIONS_MAX, DEVIATIONS_MAX) as f32);
                Ok(if off.abs() > DEVIATIONS_MAX { Seen::Far } else { Seen::AsItIs })
            }
        }
    }

    /// What is to be predicted where this is the target.
    ///
    /// # Errors
    /// What should be there.
    fn target(&self, cell: &str) -> Result<Target, String> {
        match &self.kind {
            ColumnKind::Number { mean, deviation } => Ok(Target::Number(((number(cell)? - mean) / deviation) as f32)),
            ColumnKind::Categories(categories) => {
                let label = categories.iter().position(|category| category == cell);
                let label = label.and_then(|label| u16::try_from(label).ok()).map(Target::Label);
                label.ok_or_else(|| format!("one of the run file's classes ({})", categories.join(", ")))
            }
        }
    }
}

fn is_missing(cell: &str, column: &Column) -> bool {
    !column.categories().iter().any(|category| category == cell) && is_blank(cell)
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
        let counts = |of: &BTreeMap<usize, usize>| -> String {
            of.iter().map(|(column, count)| format!("{count} in `{}`", name(column))).collect::<Vec<_>>().join(", ")
        };
        if self.untold > 0 {
            all.push(format!("{path}: passed over {} rows without `{}`", self.untold, table.target.name));
        }
        if !self.missing.is_empty() {
            all.push(format!(
                "{path}: missing cells ({}) count as the mean, or as none of the categories",
                counts(&self.missing)
            ));
        }
        if !self.far.is_empty() {
            let counts = counts(&self.far);
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
            expected: format!("a header with the run file's column `{name}`"),
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

/// What parts the cells: whichever of them the header has most of.
fn delimiter(bytes: &[u8]) -> u8 {
    let header = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let count = |delimiter: u8| header.iter().filter(|byte| **byte == delimiter).count();
    // Of several that are as frequent the last, which is the comma.
    [b'\t', b';', b','].into_iter().max_by_key(|delimiter| count(*delimiter)).unwrap_or(b',')
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
        ] {
            assert_eq!(pets().load(file(text).path()).expect("a table").train, expected, "{text:?}");
        }
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
    fn what_is_wrong_is_named_with_its_line_and_column() {
        let head = "kind,colour,weight\n";
        for (text, expected) in [
            (format!("{head}cat,grey,5\ncat,grey,\"5,5\"\n"), ":3: expected a number"),
            (format!("{head}cat,grey,inf\n"), "in column `weight`, found \"inf\""),
            (format!("{head}cow,grey,5\n"), ":2: expected one of the run file's classes (cat, dog) in column `kind`"),
            (format!("{head}cat,grey\n"), ":2: expected 3 cells, as the header has, found 2"),
            (format!("{head}\"cat,grey,5\ncat,grey,5\n"), ":2: expected 3 cells"),
            ("kind,colour\ncat,grey\n".to_owned(), ":1: expected a header with the run file's column `weight`"),
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
