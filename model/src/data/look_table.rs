//! What is in a table, before anybody has said: which columns are numbers and which words, how far they range, and what may
//! be left out.

use super::DataError;
use super::table::{Column, ColumnKind, File, is_blank, number};
use std::collections::BTreeMap;
use std::path::Path;

/// Words that a column may have to be taken for one of categories.
const WORDS_MAX: usize = 100;
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
    while let Some((_, record)) = file.next()? {
        let is_told = record.get(place).is_some_and(|cell| !is_blank(cell));
        rows += usize::from(is_told);
        for (found, cell) in found.iter_mut().zip(record).filter(|_| is_told) {
            found.see(cell);
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
        return Err(wrong("a table with columns to learn from", "none".to_owned()));
    }
    Ok(TableLook { rows, target: Column { name: name.clone(), kind: told }, counts, columns, notes })
}

/// What a column's cells are, so far.
#[derive(Debug, Default)]
struct Found {
    missing: usize,
    /// The words and how often each is there, of the first of them that are not the same, one more than may be categories.
    words: BTreeMap<String, usize>,
    /// Cells that are no number.
    others: usize,
    numbers: usize,
    /// Mean and sum of squared deviations (Welford 1962).
    mean: f64,
    squares: f64,
    last: f64,
    /// Whole numbers that are one more than the one before.
    counted_on: usize,
}

impl Found {
    fn see(&mut self, cell: &str) {
        if is_blank(cell) {
            self.missing += 1;
            return;
        }
        if self.words.len() <= WORDS_MAX || self.words.contains_key(cell) {
            *self.words.entry(cell.to_owned()).or_default() += 1;
        }
        let Ok(number) = number(cell) else {
            self.others += 1;
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
        ColumnKind::Number { mean: rounded(self.mean), deviation: rounded(self.deviation()) }
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
            () if self.others > 0 && self.words.len() > WORDS_MAX => {
                Err(format!("it has over {WORDS_MAX} different words"))
            }
            () if self.others > 0 => Ok(self.as_categories()),
            () if self.numbers > 2 && self.counted_on == self.numbers - 1 => Err("it counts the rows".to_owned()),
            () if rounded(self.deviation()) > 0.0 => Ok(self.as_number()),
            () => Err("its numbers are too large or too close together".to_owned()),
        }
    }

    fn as_target(&self) -> Result<ColumnKind, String> {
        let is_whole = || self.words.keys().all(|word| number(word).is_ok_and(|number| number.fract() == 0.0));
        match () {
            () if self.words.len() < 2 => Err("fewer than two different cells in it".to_owned()),
            () if self.others > 0 && self.words.len() > WORDS_MAX => {
                Err(format!("over {WORDS_MAX} different words, which are too many classes"))
            }
            () if self.others > 0 || (self.words.len() <= NUMBERED_CLASSES_MAX && is_whole()) => {
                Ok(self.as_categories())
            }
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
        for i in 0..120 {
            let (island, species) = (["Dream", "Biscoe"][i % 2], ["Gentoo", "Adelie", "Chinstrap"][i % 3]);
            let sex = if i % 10 == 0 { "NA" } else { "male" };
            text += &format!(
                "{i},bird {i},{island},{sex}{},{}.5,x,{species}\n",
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
            "`name` is left out: it has over 100",
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
