//! The columns of a table: `target = { ... }` and `columns = [ ... ]` in `[data]`.

use paceline_model::data::{CATEGORIES_MAX, COLUMNS_MAX, Column, ColumnKind};
use paceline_protocol::runfile::{Entry, Key, Result, Schema, number, quoted};

/// Bytes of a column's name or of a category at most.
const WORD_BYTES_MAX: usize = 256;

/// The keys of a column.
#[derive(Debug, Clone, Default)]
struct Fields {
    name: String,
    mean: Option<f64>,
    deviation: Option<f64>,
    categories: Vec<String>,
}

const COLUMN: Schema<Fields> = Schema {
    name: "column",
    doc: "",
    keys: &[
        Key::required(
            "name",
            "\"age\"",
            "",
            |entry, fields| word(entry).map(|name| fields.name = name),
            |fields| Some(quoted(&fields.name)),
        ),
        Key::optional(
            "mean",
            "40.0",
            "",
            |entry, fields| {
                let mean = entry.number("a finite number", |_| true)?;
                fields.mean = Some(mean);
                Ok(())
            },
            |fields| fields.mean.map(number),
        ),
        Key::optional(
            "deviation",
            "12.5",
            "",
            |entry, fields| {
                let deviation = entry.number("a finite number above 0", |x| x > 0.0)?;
                fields.deviation = Some(deviation);
                Ok(())
            },
            |fields| fields.deviation.map(number),
        ),
        Key::optional("categories", "[\"f\", \"m\"]", "", read_categories, |fields| {
            let words: Vec<String> = fields.categories.iter().map(|word| quoted(word)).collect();
            (!words.is_empty()).then(|| format!("[{}]", words.join(", ")))
        }),
    ],
};

fn word(entry: &Entry) -> Result<String> {
    let expected = format!("a text of 1 to {WORD_BYTES_MAX} bytes without blanks around it");
    let fits = |text: &str| (1..=WORD_BYTES_MAX).contains(&text.len()) && text.trim() == text;
    entry.text_where(&expected, fits).map(str::to_owned)
}

fn read_categories(entry: &Entry, fields: &mut Fields) -> Result<()> {
    for item in entry.array(2..=CATEGORIES_MAX)? {
        let word = word(&item)?;
        if fields.categories.contains(&word) {
            return Err(item.conflict(format!("category {word:?} is listed twice: remove one")));
        }
        fields.categories.push(word);
    }
    Ok(())
}

/// Reads a column.
pub(super) fn read(entry: &Entry) -> Result<Column> {
    let mut fields = Fields::default();
    COLUMN.read_keys(&entry.table("name", COLUMN.examples())?, &mut fields)?;
    let Fields { name, mean, deviation, categories } = fields;
    let kind = match (mean, deviation, categories.is_empty()) {
        (Some(mean), Some(deviation), true) => ColumnKind::Number { mean, deviation },
        (None, None, false) => ColumnKind::Categories(categories),
        _ => {
            return Err(entry.conflict(format!(
                "column {name:?} needs `mean` and `deviation`, if it has numbers, or `categories`, if it has words"
            )));
        }
    };
    Ok(Column { name, kind })
}

/// Reads several, none of them twice.
pub(super) fn read_all(entry: &Entry, target: &Column) -> Result<Vec<Column>> {
    let mut columns: Vec<Column> = Vec::new();
    for item in entry.array(1..=COLUMNS_MAX)? {
        let column = read(&item)?;
        if column.name == target.name {
            let text = format!("column {:?} is the target, and would be predicted from itself: remove it", column.name);
            return Err(item.conflict(text));
        }
        if columns.iter().any(|other| other.name == column.name) {
            return Err(item.conflict(format!("column {:?} is listed twice: remove one", column.name)));
        }
        columns.push(column);
    }
    Ok(columns)
}

/// A column in canonical form.
pub fn column(column: &Column) -> String {
    let mut fields = Fields { name: column.name.clone(), ..Fields::default() };
    match &column.kind {
        ColumnKind::Number { mean, deviation } => {
            (fields.mean, fields.deviation) = (Some(*mean), Some(*deviation));
        }
        ColumnKind::Categories(categories) => fields.categories.clone_from(categories),
    }
    format!("{{ {} }}", COLUMN.inline(&fields))
}

/// Columns in canonical form, a line each.
pub fn columns(columns: &[Column]) -> String {
    let lines: String = columns.iter().map(|c| format!("    {},\n", column(c))).collect();
    format!("[\n{lines}]")
}
