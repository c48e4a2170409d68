//! `vljepa settings`: what every setting is and where that comes from, and a file of all of them to begin with.

use serde_json::json;

use super::print_line;
use crate::settings::{Bounds, Effective, Setting, Settings, Value};

#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Print one JSON object a setting.
    #[arg(long)]
    json: bool,
    /// Print a commented settings file of all defaults instead.
    #[arg(long, conflicts_with = "json")]
    example: bool,
}

impl Show {
    pub(super) fn run(self, effective: &Effective) -> anyhow::Result<i32> {
        match self {
            Self { example: true, .. } => print!("{}", example()),
            Self { json: true, .. } => effective.list().for_each(|(setting, origin)| {
                let (unit, bounds) = (setting.unit(), setting.bounds.to_string());
                print_line(&json!({
                    "setting": setting.key(), "value": json_value(&setting.value), "unit": unit, "bounds": bounds,
                    "variable": setting.variable, "origin": origin.to_string(), "about": setting.about,
                }));
            }),
            _ => table(effective).iter().for_each(|line| println!("{line}")),
        }
        for (name, like) in Effective::misspelt() {
            eprintln!("warning: {name} is no setting, did you mean {like}?");
        }
        Ok(0)
    }
}

fn json_value(value: &Value) -> serde_json::Value {
    match value {
        Value::Number(number) => json!(number),
        Value::Switch(on) => json!(on),
        value if value.is_none() => json!(null),
        value => json!(value.to_string()),
    }
}

fn table(effective: &Effective) -> Vec<String> {
    let head = ["setting", "value", "unit", "from", "must be"].map(str::to_owned);
    let row = |(setting, origin): (Setting, &_)| {
        let value = if setting.value.is_none() { "-".into() } else { setting.value.to_string() };
        [setting.key(), value, setting.unit().into(), format!("{origin}"), setting.bounds.to_string()]
    };
    let rows: Vec<[String; 5]> = std::iter::once(head).chain(effective.list().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let [a, b, c, d] = [0, 1, 2, 3].map(width);
    let line = |[key, value, unit, origin, bounds]: &[String; 5]| {
        format!("{key:a$}  {value:>b$} {unit:c$}  {origin:d$}  {bounds}")
    };
    rows.iter().map(line).collect()
}

/// A settings file that changes nothing: every setting with its default.
fn example() -> String {
    let mut text = String::from(
        "# Settings of vljepa: every one with its default. Flags go before the environment, the environment before\n\
         # this file; `vljepa settings` shows what is in effect and where it comes from.\n",
    );
    let mut table = "";
    for setting in Settings::default().list() {
        if setting.concern != table {
            table = setting.concern;
            text += &format!("\n# {}\n[{table}]\n", setting.concern_about);
        }
        let must_be = match &setting.bounds {
            Bounds::Number(bounds) => format!("{} to {}", bounds.start(), bounds.end()),
            bounds => bounds.to_string(),
        };
        let value = match &setting.value {
            // TOML's basic strings escape as JSON's do.
            Value::Text(text) => json!(text).to_string(),
            value => value.to_string(),
        };
        text += &format!("# {} ({must_be}; {})\n{} = {value}\n", setting.about, setting.variable, setting.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Sources;
    use std::path::Path;

    #[test]
    fn the_example_names_every_setting_and_changes_none() {
        let text = example();
        let file = Some((Path::new("example.toml"), &*text));
        let read = Effective::of(&Sources { file, environment: &|_| Ok(None), flags: &[] }).expect("it can be read");
        assert_eq!(read.settings, Settings::default());
        assert!(read.list().all(|(_, origin)| origin.to_string() == "file example.toml"), "{text}");
    }

    #[test]
    fn every_line_of_the_table_tells_value_unit_origin_and_bounds() {
        let flags = [crate::settings::Flag::set("queue.cost_max=77").expect("a pair")];
        let read = Effective::of(&Sources { file: None, environment: &|_| Ok(None), flags: &flags }).expect("allowed");
        let lines = table(&read);
        assert_eq!(lines.len(), 1 + Settings::default().list().len());
        let line = lines.iter().find(|line| line.starts_with("queue.cost_max")).expect("a line");
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            words[1..],
            "77 tokens flag --set queue.cost_max a whole number from 1 to 4294967296".split(' ').collect::<Vec<_>>()
        );
    }
}
