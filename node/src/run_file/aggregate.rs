//! `[aggregate]`: what the mean of the updates does to the model.

use paceline_model::Rule;
use paceline_protocol::runfile::{Key, Schema, number, quoted};

use super::range::{RATE, SHARE};

/// A parameter that some rules have.
macro_rules! parameter {
    ($name:literal, $example:literal, $of:ident, $range:ident) => {
        Key::<Rule>::optional(
            $name,
            $example,
            "",
            |entry, rule| {
                let name = rule.name();
                let Some(value) = rule.$of() else {
                    let text = format!("`{}` in [aggregate] has no meaning for `rule = \"{name}\"`: remove it", $name);
                    return Err(entry.conflict(text));
                };
                $range.read(entry).map(|read| *value = read)
            },
            |rule| {
                let mut rule = *rule;
                rule.$of().map(|value| number(*value))
            },
        )
        .not_in_template()
    };
}
pub(super) const AGGREGATE: Schema<Rule> = Schema {
    name: "aggregate",
    doc: "",
    keys: &[
        Key::<Rule>::with_default(
            "rule",
            "\"fedavg\"",
            "what the mean of the updates does to the model; the others have these keys and defaults:",
            |entry, rule| {
                let name = entry.one_of(&Rule::NAMES)?;
                *rule = Rule::named(name).unwrap_or_default();
                Ok(())
            },
            |rule| Some(quoted(rule.name())),
        )
        .listing(rules),
        parameter!("lr", "0.1", lr_mut, RATE),
        parameter!("momentum", "0.9", momentum_mut, SHARE),
        parameter!("beta1", "0.9", beta1_mut, SHARE),
        parameter!("beta2", "0.99", beta2_mut, SHARE),
        parameter!("tau", "0.001", tau_mut, RATE),
    ],
};

fn rules() -> String {
    let rules = Rule::NAMES.into_iter().filter_map(Rule::named).filter(|rule| *rule != Rule::default());
    let line = |rule: Rule| {
        let keys = AGGREGATE.inline(&rule);
        let (_, parameters) = keys.split_once(", ").unwrap_or_default();
        format!("  {:<14}{parameters}", format!("\"{}\":", rule.name()))
    };
    rules.map(line).collect::<Vec<_>>().join("\n")
}
