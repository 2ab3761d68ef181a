//! The layers of `layers = [ ... ]` in `[model]`.

use paceline_model::Layer;
use paceline_model::data::IMAGE_SIDE_MAX;
use paceline_model::spec::WIDTH_MAX;
use paceline_protocol::runfile::{Entry, Key, Result, Schema, number};

/// The keys that layers have, all together.
#[derive(Debug, Clone, Copy, Default)]
struct Fields {
    out: usize,
    kernel: usize,
    stride: usize,
    pad: Option<usize>,
    groups: usize,
    size: usize,
    rate: f64,
}

/// A type of layer.
struct LayerType {
    schema: Schema<Fields>,
    /// What to know of it, for a commented file.
    doc: &'static str,
    layer: fn(&Fields) -> Layer,
    /// The fields of a layer, if it is of this type.
    fields: fn(&Layer) -> Option<Fields>,
}

const OUT: Key<Fields> = Key::required(
    "out",
    "32",
    "",
    |entry, fields| size(entry, 1, WIDTH_MAX).map(|out| fields.out = out),
    |fields| Some(fields.out.to_string()),
);

const KERNEL: Key<Fields> = Key::required(
    "kernel",
    "3",
    "",
    |entry, fields| size(entry, 1, IMAGE_SIDE_MAX).map(|kernel| fields.kernel = kernel),
    |fields| Some(fields.kernel.to_string()),
);

const STRIDE: Key<Fields> = Key::with_default(
    "stride",
    "1",
    "",
    |entry, fields| size(entry, 1, IMAGE_SIDE_MAX).map(|stride| fields.stride = stride),
    |fields| Some(fields.stride.to_string()),
);

/// Half the kernel by default, which keeps an image's size.
const PAD: Key<Fields> = Key::optional(
    "pad",
    "1",
    "",
    |entry, fields| size(entry, 0, IMAGE_SIDE_MAX).map(|pad| fields.pad = Some(pad)),
    |fields| fields.pad.map(|pad| pad.to_string()),
);

const GROUPS: Key<Fields> = Key::required(
    "groups",
    "8",
    "",
    |entry, fields| size(entry, 1, WIDTH_MAX).map(|groups| fields.groups = groups),
    |fields| Some(fields.groups.to_string()),
);

const SIZE: Key<Fields> = Key::required(
    "size",
    "2",
    "",
    |entry, fields| size(entry, 1, IMAGE_SIDE_MAX).map(|size| fields.size = size),
    |fields| Some(fields.size.to_string()),
);

const RATE: Key<Fields> = Key::required(
    "rate",
    "0.5",
    "",
    |entry, fields| {
        let rate = entry.number("a number from 0 to below 1", |x| (0.0..1.0).contains(&x))?;
        fields.rate = rate;
        Ok(())
    },
    |fields| Some(number(fields.rate)),
);

fn size(entry: &Entry, least: usize, most: usize) -> Result<usize> {
    entry.integer(least as u64..=most as u64).map(|size| size as usize)
}

const TYPES: [LayerType; 9] = [
    LayerType {
        schema: Schema { name: "conv", doc: "", keys: &[OUT, KERNEL, STRIDE, PAD] },
        doc: "stride = 1, pad = half the kernel",
        layer: |&Fields { out, kernel, stride, pad, .. }| Layer::Conv {
            out,
            kernel,
            stride,
            pad: pad.unwrap_or(kernel / 2),
        },
        fields: |layer| match *layer {
            Layer::Conv { out, kernel, stride, pad } => {
                Some(Fields { out, kernel, stride, pad: Some(pad), ..Fields::default() })
            }
            _ => None,
        },
    },
    LayerType {
        schema: Schema { name: "group_norm", doc: "", keys: &[GROUPS] },
        doc: "divide the channels",
        layer: |fields| Layer::GroupNorm { groups: fields.groups },
        fields: |layer| match *layer {
            Layer::GroupNorm { groups } => Some(Fields { groups, ..Fields::default() }),
            _ => None,
        },
    },
    LayerType {
        schema: Schema { name: "relu", doc: "", keys: &[] },
        doc: "",
        layer: |_| Layer::Relu,
        fields: |layer| matches!(layer, Layer::Relu).then(Fields::default),
    },
    LayerType {
        schema: Schema { name: "max_pool", doc: "", keys: &[SIZE] },
        doc: "windows that don't overlap",
        layer: |fields| Layer::MaxPool { size: fields.size },
        fields: |layer| match *layer {
            Layer::MaxPool { size } => Some(Fields { size, ..Fields::default() }),
            _ => None,
        },
    },
    LayerType {
        schema: Schema { name: "residual", doc: "", keys: &[OUT, STRIDE, GROUPS] },
        doc: "two convolutions of 3x3 with norms, and a way past them; stride = 1",
        layer: |&Fields { out, stride, groups, .. }| Layer::Residual { out, stride, groups },
        fields: |layer| match *layer {
            Layer::Residual { out, stride, groups } => Some(Fields { out, stride, groups, ..Fields::default() }),
            _ => None,
        },
    },
    LayerType {
        schema: Schema { name: "global_avg_pool", doc: "", keys: &[] },
        doc: "the mean of each channel; or \"flatten\", which keeps every value",
        layer: |_| Layer::GlobalAvgPool,
        fields: |layer| matches!(layer, Layer::GlobalAvgPool).then(Fields::default),
    },
    LayerType {
        schema: Schema { name: "flatten", doc: "", keys: &[] },
        doc: "",
        layer: |_| Layer::Flatten,
        fields: |layer| matches!(layer, Layer::Flatten).then(Fields::default),
    },
    LayerType {
        schema: Schema { name: "dropout", doc: "", keys: &[RATE] },
        doc: "",
        layer: |fields| Layer::Dropout { rate: fields.rate },
        fields: |layer| match *layer {
            Layer::Dropout { rate } => Some(Fields { rate, ..Fields::default() }),
            _ => None,
        },
    },
    LayerType {
        schema: Schema { name: "linear", doc: "", keys: &[OUT] },
        doc: "the last layer: one output for each class",
        layer: |fields| Layer::Linear { out: fields.out },
        fields: |layer| match *layer {
            Layer::Linear { out } => Some(Fields { out, ..Fields::default() }),
            _ => None,
        },
    },
];

/// The keys of all types, and `type`.
fn all_keys() -> Vec<(&'static str, String)> {
    let mut keys = vec![("type", "type = \"relu\"".to_owned())];
    for key in TYPES.iter().flat_map(|layer| layer.schema.examples()) {
        if !keys.iter().any(|(name, _)| *name == key.0) {
            keys.push(key);
        }
    }
    keys
}

/// Reads a layer.
pub(super) fn read(item: &Entry) -> Result<Layer> {
    let any = item.table("type", all_keys())?;
    let names = TYPES.map(|layer| layer.schema.name);
    let name = any.get("type").ok_or_else(|| any.missing("type"))?.one_of(&names)?;
    // `one_of` gave one of the names.
    let Some(found) = TYPES.iter().find(|layer| layer.schema.name == name) else { return Err(any.missing("type")) };
    let mut keys = vec![("type", format!("type = \"{name}\""))];
    keys.extend(found.schema.examples());
    let mut fields = Fields::default();
    found.schema.read_keys(&any.known_as(format!("a `{name}` layer"), keys), &mut fields)?;
    Ok((found.layer)(&fields))
}

/// A layer in canonical form.
pub(super) fn canonical(layer: &Layer) -> String {
    let written = TYPES.iter().find_map(|kind| {
        let fields = (kind.fields)(layer)?;
        let keys = kind.schema.inline(&fields);
        let comma = if keys.is_empty() { "" } else { ", " };
        Some(format!("{{ type = \"{}\"{comma}{keys} }}", kind.schema.name))
    });
    // Every layer is of a type, as the tests show.
    written.unwrap_or_default()
}

/// A list of all layers, for a commented file.
pub(super) fn listing() -> String {
    let line = |kind: &LayerType| {
        let needed = kind.schema.examples().into_iter().filter(|(key, _)| !["stride", "pad"].contains(key));
        let keys: String = needed.map(|(_, example)| format!(", {example}")).collect();
        let layer = format!("    {{ type = \"{}\"{keys} }},", kind.schema.name);
        let comment = if kind.doc.is_empty() { String::new() } else { format!("# {}", kind.doc) };
        format!("{layer:<52} {comment}").trim_end().to_owned()
    };
    format!(
        "or, instead of `arch`, layer by layer:\nlayers = [\n{}\n]",
        TYPES.iter().map(line).collect::<Vec<_>>().join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_is_of_one_type() {
        for kind in &TYPES {
            let layer = (kind.layer)(&Fields { kernel: 3, ..Fields::default() });
            let types: Vec<&str> =
                TYPES.iter().filter(|t| (t.fields)(&layer).is_some()).map(|t| t.schema.name).collect();
            assert_eq!(types, [kind.schema.name]);
        }
    }
}
