//! The reference of every setting, made from the config types: doc comment = reference.

use std::fmt::Write as _;

use serde_json::Value;

use super::Config;

/// `docs/configuration.md`.
pub fn reference() -> String {
    let schema = serde_json::to_value(schemars::schema_for!(Config)).unwrap_or_default();
    let mut out = String::from(INTRODUCTION);
    let properties = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    for (name, property) in &properties {
        let (shape, repeated) = section(&schema, property);
        let title = if repeated { format!("[[{name}]]") } else { format!("[{name}]") };
        let _ = write!(out, "\n## `{title}`\n\n{}\n\n", describe(&schema, property));
        table(&mut out, &schema, &shape, "");
    }
    out
}

const INTRODUCTION: &str = "# Configuration

One TOML file, `bodycam.toml` (`--config`). Unknown settings are refused, and so is a setting that would do nothing.
Relative paths are relative to the file. Secrets are given by reference: `env:NAME` or `file:PATH`.
Every setting can be overridden by an environment variable, `BODYCAM__SECTION__SETTING=value` (the value is read as TOML
where it is TOML, else as text). `bodycam config check` reads everything,
and the secrets, certificates and rules that it refers to, and binds nothing.

This page is made from the types (`make docs`).
";

fn table(out: &mut String, schema: &Value, shape: &Value, prefix: &str) {
    let Some(properties) = shape.get("properties").and_then(Value::as_object) else { return };
    if prefix.is_empty() {
        out.push_str("| setting | type | default | meaning |\n|---|---|---|---|\n");
    }
    for (name, property) in properties {
        let target = resolve(schema, property);
        if target.get("properties").is_some() {
            table(out, schema, &target, &format!("{prefix}{name}."));
            continue;
        }
        let default = match property.get("default") {
            None | Some(Value::Null) => "none".to_owned(),
            Some(Value::String(text)) if text.is_empty() => "`\"\"`".to_owned(),
            Some(value) => format!("`{value}`"),
        };
        let meaning = describe(schema, property).replace('\n', " ").replace('|', "\\|");
        let _ =
            writeln!(out, "| `{prefix}{name}` | {} | {default} | {meaning} |", type_name(schema, property));
    }
}

fn describe(schema: &Value, property: &Value) -> String {
    let own = property.get("description").and_then(Value::as_str);
    let target = resolve(schema, property);
    own.or(target.get("description").and_then(Value::as_str)).unwrap_or_default().to_owned()
}

fn section(schema: &Value, property: &Value) -> (Value, bool) {
    match property.get("items") {
        Some(items) => (resolve(schema, items), true),
        None => (resolve(schema, property), false),
    }
}

/// Follows `$ref` and the non-null half of an `anyOf`.
fn resolve(schema: &Value, property: &Value) -> Value {
    if let Some(name) = property.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/$defs/"))
    {
        return schema.get("$defs").and_then(|d| d.get(name)).cloned().unwrap_or_default();
    }
    for list in ["anyOf", "allOf"] {
        if let Some(choices) = property.get(list).and_then(Value::as_array) {
            let choice = choices.iter().find(|c| c.get("type").and_then(Value::as_str) != Some("null"));
            return choice.map(|c| resolve(schema, c)).unwrap_or_default();
        }
    }
    property.clone()
}

fn type_name(schema: &Value, property: &Value) -> String {
    let target = resolve(schema, property);
    let choices =
        |values: &Vec<Value>| values.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(", ");
    if let Some(values) = target.get("enum").and_then(Value::as_array) {
        return choices(values);
    }
    if let Some(options) = target.get("oneOf").and_then(Value::as_array) {
        return options
            .iter()
            .filter_map(|o| o.get("const").or_else(|| o.get("enum").and_then(|e| e.get(0))))
            .map(|v| format!("`{v}`"))
            .collect::<Vec<_>>()
            .join(", ");
    }
    match target.get("type") {
        Some(Value::String(name)) if name == "array" => match target.get("items") {
            Some(items) => format!("list of {}", type_name(schema, items)),
            None => "list".to_owned(),
        },
        Some(Value::String(name)) => name.clone(),
        Some(Value::Array(names)) => {
            names.iter().filter_map(Value::as_str).filter(|n| *n != "null").collect::<Vec<_>>().join(" or ")
        }
        _ => "table".to_owned(),
    }
}
