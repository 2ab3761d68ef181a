//! The Python module beside a model: the net as a `torch.nn.Module`, and what it sees of images or rows.

use std::fmt::Write;

use crate::data::table::MISSING;
use crate::data::{Column, ColumnKind, DEVIATIONS_MAX, Preprocess, Table};
use crate::spec::{Layer, NetSpec, Shape, SpecError, residual_convs};

/// What a net of a Python module sees.
#[derive(Debug, Clone, Copy)]
pub enum Sees<'a> {
    /// Images.
    Images(Preprocess),
    /// Rows of a table.
    Rows(&'a Table),
}

/// A Python module with the net as a `torch.nn.Module`, what it sees of images or rows, and its classes. It needs torch and
/// safetensors, and nothing of Paceline. `about` is its first paragraph, `file` the name of the tensors' file beside it.
///
/// # Errors
/// The net is impossible.
pub fn module(
    spec: &NetSpec,
    sees: Sees<'_>,
    classes: &[String],
    about: &str,
    file: &str,
) -> Result<String, SpecError> {
    let mut net = Module::default();
    for (layer, shape) in spec.layers.iter().zip(spec.shapes()?) {
        net.add(layer, shape);
    }
    let [channels, height, width] = spec.input;
    let sides = [("<height>", height.to_string()), ("<width>", width.to_string())];
    let (call, see) = match sees {
        Sees::Images(preprocess) => {
            let own = if preprocess == Preprocess::Plain { SEE_PLAIN.to_owned() } else { filled(SEE_CROPPED, &sides) };
            (CALL_IMAGES, format!("{SEE_IMAGES}{own}"))
        }
        Sees::Rows(table) => {
            let columns: String = table.columns.iter().map(|column| format!("    {},\n", in_python(column))).collect();
            let missing: Vec<String> = MISSING.iter().map(|word| quoted(word)).collect();
            let places = [
                ("<columns>", columns),
                ("<missing>", missing.join(", ")),
                ("<deviations>", format!("{DEVIATIONS_MAX:?}")),
            ];
            (CALL_ROWS, filled(SEE_ROWS, &places))
        }
    };
    let answer = match sees {
        Sees::Rows(Table { target: Column { kind: ColumnKind::Number { mean, deviation }, .. }, .. }) => {
            format!("[{mean:?} + {deviation:?} * told for told in outputs.flatten().tolist()]")
        }
        Sees::Rows(_) | Sees::Images(_) => "[CLASSES[i] for i in outputs.argmax(1).tolist()]".to_owned(),
    };
    let classes: Vec<String> = classes.iter().map(|class| format!("    {},\n", quoted(class))).collect();
    // Names are the run file's, which may be another's: they stay within their quotes.
    let plain = |text: &str| text.replace('\\', "/").replace('"', "'");
    let stem = plain(file.split_once('.').map_or(file, |(stem, _)| stem));
    // What is no name in Python is one with underscores, and is imported by its own.
    let name: String = stem.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
    let is_name = name == stem && !name.starts_with(|c: char| c.is_ascii_digit());
    let import = match is_name {
        true => format!("import {name}"),
        false => format!("import importlib\n    model = importlib.import_module(\"{stem}\")"),
    };
    let (about, name) = (plain(about), if is_name { name } else { "model".to_owned() });
    let places = [
        ("<about>", about),
        ("<classes>", classes.concat()),
        ("<layers>", net.layers),
        ("<steps>", net.steps),
        ("<input>", format!("{channels}x{height}x{width}")),
        ("<call>", call.to_owned()),
        ("<preprocess>", see),
        ("<answer>", answer),
        ("<file>", quoted(file)),
        ("<import>", import),
        ("<name>", name),
    ];
    Ok(filled(TEMPLATE, &places))
}

/// A text with its places filled in. What is filled in is not looked at again.
fn filled(mut template: &str, places: &[(&str, String)]) -> String {
    let mut text = String::new();
    let next = |rest: &str| {
        let found = places.iter().filter_map(|(place, with)| Some((rest.find(place)?, place.len(), with)));
        found.min_by_key(|(at, ..)| *at)
    };
    while let Some((at, len, with)) = next(template) {
        text.push_str(&template[..at]);
        text.push_str(with);
        template = &template[at + len..];
    }
    text + template
}

/// As a Python string: JSON's escapes are Python's, too.
fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

/// The lines of `__init__` and of `forward`; layers with parameters are counted as [`NetSpec::parameters`] counts them.
#[derive(Default)]
struct Module {
    layers: String,
    steps: String,
    convs: usize,
    norms: usize,
    linears: usize,
}

impl Module {
    fn add(&mut self, layer: &Layer, shape: Shape) {
        match (layer, shape) {
            (&Layer::Conv { out, kernel, stride, pad }, Shape::Image { channels, .. }) => {
                let conv = self.conv([channels, out], kernel, stride, pad);
                self.step(&format!("x = self.{conv}(x)"));
            }
            (&Layer::GroupNorm { groups }, Shape::Image { channels, .. }) => {
                let norm = self.norm(groups, channels);
                self.step(&format!("x = self.{norm}(x)"));
            }
            (Layer::Relu, _) => self.step("x = functional.relu(x)"),
            (Layer::MaxPool { size }, _) => self.step(&format!("x = functional.max_pool2d(x, {size})")),
            (&Layer::Residual { out, stride, groups }, Shape::Image { channels, .. }) => {
                let convs = residual_convs(channels, out, stride);
                let names: Vec<[String; 2]> = convs
                    .iter()
                    .enumerate()
                    .map(|(i, (kernel, inputs))| {
                        // The second keeps the size that the first one leaves.
                        let stride = if i == 1 { 1 } else { stride };
                        [self.conv([*inputs, out], *kernel, stride, kernel / 2), self.norm(groups, out)]
                    })
                    .collect();
                let through = |[conv, norm]: &[String; 2], x: &str| format!("self.{norm}(self.{conv}({x}))");
                self.step(&format!("y = functional.relu({})", through(&names[0], "x")));
                let shortcut = names.get(2).map_or("x".to_owned(), |names| through(names, "x"));
                self.step(&format!("x = functional.relu({} + {shortcut})", through(&names[1], "y")));
            }
            (Layer::GlobalAvgPool, _) => self.step("x = x.mean((2, 3))"),
            (Layer::Flatten, _) => self.step("x = x.flatten(1)"),
            (&Layer::Linear { out }, shape) => {
                self.linears += 1;
                let name = format!("linear{}", self.linears);
                let _ = writeln!(self.layers, "        self.{name} = nn.Linear({}, {out})", shape.len());
                let flat = if matches!(shape, Shape::Image { .. }) { "x.flatten(1)" } else { "x" };
                self.step(&format!("x = self.{name}({flat})"));
            }
            (Layer::Dropout { rate }, _) => {
                self.step(&format!("x = functional.dropout(x, {rate}, self.training)"));
            }
            // Such a net is impossible, which its shapes have told.
            (Layer::Conv { .. } | Layer::GroupNorm { .. } | Layer::Residual { .. }, Shape::Row(_)) => {}
        }
    }

    fn conv(&mut self, [inputs, out]: [usize; 2], kernel: usize, stride: usize, pad: usize) -> String {
        self.convs += 1;
        let name = format!("conv{}", self.convs);
        let _ = writeln!(
            self.layers,
            "        self.{name} = nn.Conv2d({inputs}, {out}, {kernel}, stride={stride}, padding={pad})"
        );
        name
    }

    fn norm(&mut self, groups: usize, channels: usize) -> String {
        self.norms += 1;
        let name = format!("norm{}", self.norms);
        let _ = writeln!(self.layers, "        self.{name} = nn.GroupNorm({groups}, {channels})");
        name
    }

    fn step(&mut self, line: &str) {
        let _ = writeln!(self.steps, "        {line}");
    }
}

/// A column as the module has it: its name, and the mean and deviation or the categories.
fn in_python(column: &Column) -> String {
    let name = quoted(&column.name);
    match &column.kind {
        ColumnKind::Number { mean, deviation } => format!("({name}, {mean:?}, {deviation:?})"),
        ColumnKind::Categories(categories) => {
            let words: Vec<String> = categories.iter().map(|word| quoted(word)).collect();
            format!("({name}, [{}])", words.join(", "))
        }
    }
}

const CALL_IMAGES: &str = "images: uint8, [n, channels, height, width]";

const CALL_ROWS: &str = "rows: dicts from a column's name to its cell, as csv.DictReader gives them";

const SEE_IMAGES: &str = "def preprocess(images):
    \"\"\"What the net sees of images: a tensor of uint8, [n, channels, height, width].\"\"\"
";

const SEE_ROWS: &str = r#"# A column's name, and its mean and deviation or its categories.
COLUMNS = [
<columns>]
MISSING = {<missing>}


def preprocess(rows):
    """What the net sees of rows: dicts from a column's name to what stands in its cell."""
    seen = [[n for name, *kind in COLUMNS for n in _seen(name, row, *kind)] for row in map(_stripped, rows)]
    return torch.tensor(seen)[:, :, None, None]


def _stripped(row):
    return {str(name).lstrip("\ufeff").strip(): str(cell).strip() for name, cell in row.items()}


def _number(cell):
    is_one = re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", cell) and math.isfinite(float(cell))
    return float(cell) if is_one else None


def _seen(name, row, *kind):
    cell = row[name]
    if len(kind) == 1:
        same = [cell == word for word in kind[0]]
        if not any(same) and _number(cell) is not None:
            same = [_number(cell) == _number(word) for word in kind[0]]
            same = [is_one and not any(same[:i]) for i, is_one in enumerate(same)]
        return [float(is_one) for is_one in same]
    mean, deviation = kind
    if cell.lower() in MISSING:
        return [0.0]
    if _number(cell) is None:
        raise ValueError(f"column {name}: {cell!r} is no number")
    return [max(-<deviations>, min(<deviations>, (_number(cell) - mean) / deviation))]
"#;

const SEE_PLAIN: &str = "    return images.float() / 127.5 - 1
";

const SEE_CROPPED: &str = "    top, left = (images.shape[2] - <height>) // 2, (images.shape[3] - <width>) // 2
    x = images[:, :, top : top + <height>, left : left + <width>].float()
    count = x[0].numel()
    x = x - x.mean((1, 2, 3), keepdim=True)
    deviation = x.square().mean((1, 2, 3), keepdim=True).sqrt()
    return x / deviation.clamp(min=count**-0.5)
";

const TEMPLATE: &str = r#""""<about>

Needs torch and safetensors. In a program:

    <import>
    net = <name>.load()
    <name>.predict(net, ...)  # <call>
"""

import math
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

CLASSES = [
<classes>]


class Net(nn.Module):
    """From what `preprocess` gives, <input> each, to one number a class, of which the largest is the answer."""

    def __init__(self):
        super().__init__()
<layers>
    def forward(self, x):
<steps>        return x


<preprocess>


def load(path=Path(__file__).with_name(<file>)):
    """The net with its weights, ready to predict."""
    net = Net()
    net.load_state_dict(load_file(path))
    return net.eval()


def predict(net, examples):
    """What the net says of each of them. <call>"""
    with torch.no_grad():
        outputs = net(preprocess(examples))
    return <answer>
"#;
