//! What is in a table, before anybody has said: which columns are numbers and which words, how far they range, and what may
//! be left out.

use super::DataError;
use super::table::{Column, ColumnKind, File, is_blank, number};
use std::collections::BTreeMap;
use std::path::Path;

/// Words that a column may have to be taken for one of categories.
const WORDS_MAX: usize = 100;
/// Bytes of a word that may be a category, as the run file has them.
const WORD_BYTES_MAX: usize = 256;
/// Whole numbers that a column may have, where they are what is predicted, to be taken for classes.
const NUMBERED_CLASSES_MAX: usize = 10;

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct TableLook {
    /// Rows that have a target.
    pub rows: usize,
    /// What is to be predicted.
    pub target: Column,
    /// How many rows each of its categories has, where it has any.
    pub counts: Vec<usize>,
    /// What it may be predicted from.
    pub columns: Vec<Column>,
    /// What is strange, in sentences.
    pub notes: Vec<String>,
}

/// Looks at a table. `target` is the column to predict: the last one where nobody says.
///
/// # Errors
/// It can't be read, has no such column, or nothing is left to predict it from.
pub fn look_at_table(path: &Path, target: Option<&str>) -> Result<TableLook, DataError> {
    let mut file = File::open(path)?;
    let header = file.header.clone();
    let place = match target {
        Some(name) => file.place(name)?,
        // Of those that have a name at all, by which the run file could call it; a header has one.
        None => header.iter().rposition(|name| !name.is_empty()).unwrap_or(0),
    };
    let mut found: Vec<Found> = header.iter().map(|_| Found::default()).collect();
    let mut rows = 0;
    while let Some((line, record)) = file.next()? {
        let is_told = record.get(place).is_some_and(|cell| !is_blank(cell));
        rows += usize::from(is_told);
        for (found, cell) in found.iter_mut().zip(record).filter(|_| is_told) {
            found.see(cell, line);
        }
    }
    let wrong = |expected: &str, found: String| DataError::Unexpected {
        path: path.to_owned(),
        key: None,
        expected: expected.to_owned(),
        found,
    };
    let name = &header[place];
    let mut notes = Vec::new();
    if target.is_none() {
        notes
            .push(format!("the column to predict is taken to be the last one, `{name}`: another with --target COLUMN"));
    }
    let told = found[place].as_target().map_err(|found| wrong(&format!("a column `{name}` to learn"), found))?;
    let counts = found[place].counts(&told);
    let most = counts.iter().max().copied().unwrap_or(0);
    if counts.iter().any(|count| most >= 10 * count) {
        notes.push(format!(
            "one class has {most} rows, and another less than a tenth of it: the net will favour the larger"
        ));
    }
    let (mut columns, mut missing) = (Vec::new(), Vec::new());
    for (index, (name, found)) in header.iter().zip(&found).enumerate().filter(|(index, _)| *index != place) {
        match found.as_column(name) {
            Ok(kind) => columns.push(Column { name: name.clone(), kind }),
            Err(why) => notes.push(match name.as_str() {
                "" => format!("column {} is left out: {why}", index + 1),
                name => format!("`{name}` is left out: {why}"),
            }),
        }
        missing.extend((found.missing > 0 && found.missing < rows).then(|| format!("{} of `{name}`", found.missing)));
    }
    if !missing.is_empty() {
        let missing = missing.join(", ");
        notes.push(format!("missing cells ({missing}) count as the mean, or as none of the categories"));
    }
    if columns.is_empty() {
        let why: String = notes.iter().map(|note| format!("; {note}")).collect();
        return Err(wrong("a table with columns to learn from", format!("none{why}")));
    }
    Ok(TableLook { rows, target: Column { name: name.clone(), kind: told }, counts, columns, notes })
}

/// What a column's cells are, so far.
#[derive(Debug, Default)]
struct Found {
    missing: usize,
    /// The words and how often each is there, of the first of them that are not the same, one more than may be categories.
    words: BTreeMap<String, usize>,
    /// Cells that are no number, and the first of them with its line.
    others: usize,
    first_other: Option<(u64, String)>,
    /// Those of them that would be one with a point in place of a comma.
    with_commas: usize,
    /// The longest word's bytes.
    longest: usize,
    numbers: usize,
    /// Mean and sum of squared deviations (Welford 1962).
    mean: f64,
    squares: f64,
    last: f64,
    /// Whole numbers that are one more than the one before.
    counted_on: usize,
}

impl Found {
    fn see(&mut self, cell: &str, line: u64) {
        if is_blank(cell) {
            self.missing += 1;
            return;
        }
        let as_number = number(cell);
        // 1 and 1.0 are one class.
        let word = as_number.as_ref().map_or_else(|_| cell.to_owned(), f64::to_string);
        self.longest = self.longest.max(word.len());
        if self.words.len() <= WORDS_MAX || self.words.contains_key(&word) {
            *self.words.entry(word).or_default() += 1;
        }
        let Ok(number) = as_number else {
            self.others += 1;
            self.with_commas += usize::from(number(&cell.replace(',', ".")).is_ok());
            self.first_other.get_or_insert_with(|| (line, cell.to_owned()));
            return;
        };
        self.numbers += 1;
        let off = number - self.mean;
        self.mean += off / self.numbers as f64;
        self.squares += off * (number - self.mean);
        self.counted_on += usize::from(self.numbers > 1 && number.fract() == 0.0 && number == self.last + 1.0);
        self.last = number;
    }

    fn deviation(&self) -> f64 {
        (self.squares / self.numbers.max(1) as f64).sqrt()
    }

    fn as_number(&self) -> ColumnKind {
        let deviation = rounded(self.deviation());
        ColumnKind::Number { mean: rounded_beside(self.mean, deviation), deviation }
    }

    /// Why the words are no categories, if they are none.
    fn is_no_category(&self) -> Option<String> {
        let stray = || {
            let (line, word) = self.first_other.as_ref()?;
            Some(format!("{} of its cells are no numbers, as {word:?} in line {line}", self.others))
        };
        let cells = self.numbers + self.others;
        match () {
            () if self.with_commas > 0 && self.with_commas == self.others => {
                Some("its numbers have decimal commas: write points".to_owned())
            }
            () if self.numbers >= 9 * self.others => stray(),
            () if self.words.len() > WORDS_MAX => Some(format!("it has over {WORDS_MAX} different words")),
            // They would stand in the run file, and every node would learn the rows by heart.
            () if self.words.len() > 2 && 2 * self.words.len() > cells => {
                Some("nearly each row has another word, as names have".to_owned())
            }
            () if self.longest > WORD_BYTES_MAX => Some(format!("it has words of over {WORD_BYTES_MAX} bytes")),
            () => None,
        }
    }

    /// All words, numbers in their order.
    fn as_categories(&self) -> ColumnKind {
        let mut words: Vec<String> = self.words.keys().cloned().collect();
        if self.others == 0 {
            words.sort_by(|a, b| number(a).unwrap_or(0.0).total_cmp(&number(b).unwrap_or(0.0)));
        }
        ColumnKind::Categories(words)
    }

    /// As a column that tells something, or why it does not.
    fn as_column(&self, name: &str) -> Result<ColumnKind, String> {
        match () {
            () if name.is_empty() => Err("it has no name".to_owned()),
            () if self.words.is_empty() => Err("it is empty".to_owned()),
            () if self.words.len() == 1 => Err("all its cells are the same".to_owned()),
            () if self.others > 0 => self.is_no_category().map_or_else(|| Ok(self.as_categories()), Err),
            () if self.numbers > 2 && self.counted_on == self.numbers - 1 => Err("it counts the rows".to_owned()),
            () if rounded(self.deviation()) > 0.0 => Ok(self.as_number()),
            () => Err("its numbers are too large or too close together".to_owned()),
        }
    }

    fn as_target(&self) -> Result<ColumnKind, String> {
        let is_whole = || self.words.keys().all(|word| number(word).is_ok_and(|number| number.fract() == 0.0));
        match () {
            () if self.words.len() < 2 => Err("fewer than two different cells in it".to_owned()),
            () if self.others > 0 => match self.is_no_category() {
                Some(why) => Err(format!("one of which {why}")),
                None => Ok(self.as_categories()),
            },
            () if self.words.len() <= NUMBERED_CLASSES_MAX && is_whole() => Ok(self.as_categories()),
            () if rounded(self.deviation()) > 0.0 => Ok(self.as_number()),
            () => Err("numbers that are too large or too close together".to_owned()),
        }
    }

    fn counts(&self, kind: &ColumnKind) -> Vec<usize> {
        match kind {
            ColumnKind::Number { .. } => Vec::new(),
            ColumnKind::Categories(words) => words.iter().filter_map(|word| self.words.get(word).copied()).collect(),
        }
    }
}

/// A mean, to a thousandth of the deviation at most: of large numbers that lie close together, six digits are too few.
fn rounded_beside(mean: f64, deviation: f64) -> f64 {
    let decimals = 3.0 - deviation.log10().floor();
    match decimals {
        0.0..=300.0 => format!("{mean:.*}", decimals as usize).parse().unwrap_or(mean),
        _ => mean.round(),
    }
}

/// To six digits, which are enough to see a number by, and short to read; 0 of what is no number.
fn rounded(value: f64) -> f64 {
    if value.is_finite() { format!("{value:.5e}").parse().unwrap_or(0.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::table::tests::file;

    #[test]
    fn a_table_tells_what_its_columns_are() {
        let mut text = "row,name,island,sex,mass,same,species\n".to_owned();
        let bird = |i: usize| if i.is_multiple_of(2) { format!("bird {i}") } else { "bird".to_owned() };
        for i in 0..120 {
            let (island, species) = (["Dream", "Biscoe"][i % 2], ["Gentoo", "Adelie", "Chinstrap"][i % 3]);
            let sex = if i % 10 == 0 { "NA" } else { "male" };
            text += &format!(
                "{i},{},{island},{sex}{},{}.5,x,{species}\n",
                bird(i),
                if i % 4 == 1 { "f" } else { "" },
                3000 + i
            );
        }
        text += "120,bird 120,Dream,male,1,x,\n";
        let look = look_at_table(file(&text).path(), None).expect("a table");
        assert_eq!(
            (look.rows, look.target.categories()),
            (120, &["Adelie", "Chinstrap", "Gentoo"].map(str::to_owned)[..])
        );
        assert_eq!(look.counts, [40, 40, 40]);
        let names: Vec<&str> = look.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["island", "sex", "mass"]);
        assert_eq!(look.columns[2].kind, ColumnKind::Number { mean: 3060.0, deviation: 34.6398 });
        let told = look.notes.join("\n");
        for expected in [
            "the last one, `species`",
            "`row` is left out: it counts the rows",
            "`name` is left out: nearly each row has another word",
            "`same` is left out: all its cells",
            "of `sex`",
        ] {
            assert!(told.contains(expected), "{expected}: {told}");
        }
    }

    #[test]
    fn a_few_whole_numbers_are_classes_and_many_are_a_number() {
        let text = |of: fn(usize) -> usize| {
            format!("x,y\n{}", (0..60).map(|i| format!("{}.5,{}\n", i * i, of(i))).collect::<String>())
        };
        let look = |text: &str| look_at_table(file(text).path(), Some("y")).expect("a table").target;
        assert_eq!(look(&text(|i| i % 3)).categories(), ["0", "1", "2"]);
        assert!(matches!(look(&text(|i| i * 7 % 60)).kind, ColumnKind::Number { .. }));
    }

    #[test]
    fn stray_words_and_decimal_commas_are_told_as_such() {
        let rows = |of: fn(usize) -> String| (0..40).map(|i| format!("{};{}\n", of(i), i % 2)).collect::<String>();
        let look = |rows: &str| look_at_table(file(&format!("x;y\n{rows}")).path(), None);
        let error = look(&rows(|i| format!("{i},5"))).expect_err("no column is left").to_string();
        assert!(error.contains("`x` is left out: its numbers have decimal commas"), "{error}");
        let error = look(&rows(|i| if i == 7 { "unknown".to_owned() } else { (i * i).to_string() }));
        let error = error.expect_err("no column is left").to_string();
        assert!(error.contains("1 of its cells are no numbers, as \"unknown\" in line 9"), "{error}");
        let target =
            |of: fn(usize) -> &'static str| (0..40).map(|i| format!("{};{}\n", i * i, of(i))).collect::<String>();
        let look = look(&target(|i| ["0", "0.0", "1"][i % 3])).expect("a table");
        assert_eq!(look.target.categories(), ["0", "1"]);
    }

    #[test]
    fn a_mean_is_as_exact_as_its_deviation_asks() {
        assert_eq!(rounded_beside(1_700_012_495.123, 86.6), 1_700_012_495.12);
        assert_eq!((rounded_beside(0.012_345_678, 0.002), rounded_beside(152.133_48, 77.0)), (0.012_346, 152.13));
        assert_eq!(rounded_beside(123_456_789.0, 1e6), 123_456_789.0);
    }

    #[test]
    fn a_table_with_nothing_to_learn_is_told_why() {
        let error = |text: &str, target| look_at_table(file(text).path(), target).expect_err("nothing").to_string();
        assert!(error("a,b\n1,2\n3,4\n", Some("c")).contains("column `c`"));
        assert!(error("a,b\n1,2\n3,2\n", None).contains("fewer than two different cells"));
        assert!(error("a,b\n1,2\n1,3\n", None).contains("columns to learn from, found none"));
        assert!(error("a,,\n1,2,x\n3,4,y\n", None).contains("columns to learn from, found none"));
        assert!(error("a,,\n1,2,x\n3,4,y\n", Some("")).contains("column ``"));
        assert!(error("a\n1\n2\n", None).contains("columns to learn from, found none"));
    }
}
