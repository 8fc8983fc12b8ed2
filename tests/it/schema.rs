//! A small JSON Schema validator: the keywords that `docs/report.schema.json` uses, and no others.
//!
//! A keyword it does not know is a failure, so that no rule of a schema goes unchecked.

use std::fs;
use std::path::Path;

use regex_lite::Regex;
use serde_json::{Value, json};

/// Everything in which `value` breaks the schema in `docs/NAME`.
pub(crate) fn violations(schema: &str, value: &Value) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(schema);
    let root: Value = serde_json::from_str(&fs::read_to_string(path).expect("the schema")).expect("JSON");
    let mut found = Vec::new();
    check(&root, &root, value, "$", &mut found);
    found
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let rules = schema.as_object().expect("a schema is an object");
    for (keyword, rule) in rules {
        let mut wrong = |what: String| found.push(format!("{at}: {what}"));
        match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "properties" => {}
            "type" => {
                let allowed: Vec<&str> = match rule {
                    Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
                    name => name.as_str().into_iter().collect(),
                };
                if !allowed.iter().any(|name| is_a(value, name)) {
                    wrong(format!("{value} is not {rule}"));
                }
            }
            "const" if value != rule => wrong(format!("{value} is not {rule}")),
            "enum" if !rule.as_array().expect("a list").contains(value) => wrong(format!("{value} is not in {rule}")),
            "minimum" if value.as_f64() < rule.as_f64() && value.is_number() => wrong(format!("{value} < {rule}")),
            "minItems" if value.is_array() && value.as_array().map(Vec::len) < size(rule) => {
                wrong(format!("fewer than {rule}"));
            }
            "maxItems" if (value.as_array().map(Vec::len)) > size(rule) => wrong(format!("more than {rule}")),
            "pattern" => {
                if let (Some(text), Some(pattern)) = (value.as_str(), rule.as_str())
                    && !Regex::new(pattern).expect(pattern).is_match(text)
                {
                    wrong(format!("{value} is not like {rule}"));
                }
            }
            "required" => {
                for name in rule.as_array().expect("a list").iter().filter_map(Value::as_str) {
                    if value.is_object() && value.get(name).is_none() {
                        wrong(format!("no {name}"));
                    }
                }
            }
            "additionalProperties" => {
                assert_eq!(rule, &json!(false), "only false is known");
                for name in value.as_object().into_iter().flat_map(|object| object.keys()) {
                    if schema["properties"].get(name).is_none() {
                        wrong(format!("{name} is unknown"));
                    }
                }
            }
            "oneOf" => {
                let fits = |schema: &&Value| {
                    let mut inner = Vec::new();
                    check(root, schema, value, at, &mut inner);
                    inner.is_empty()
                };
                let choices = rule.as_array().expect("a list");
                if choices.iter().filter(fits).count() != 1 {
                    wrong("not one of its forms".to_owned());
                    // Why not, as far as it can be told: by the last form, which is the one that is not null.
                    choices.iter().rev().take(1).for_each(|schema| check(root, schema, value, at, found));
                }
            }
            "const" | "enum" | "minimum" | "minItems" | "maxItems" | "items" | "$ref" => {}
            unknown => panic!("the schema has a keyword that is not checked: {unknown}"),
        }
    }
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = root.pointer(reference.trim_start_matches('#')).expect(reference);
        check(root, target, value, at, found);
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        for (index, value) in values.iter().enumerate() {
            check(root, items, value, &format!("{at}[{index}]"), found);
        }
    }
    if let (Some(properties), Some(values)) = (schema.get("properties"), value.as_object()) {
        for (name, value) in values {
            if let Some(schema) = properties.get(name) {
                check(root, schema, value, &format!("{at}.{name}"), found);
            }
        }
    }
}

fn is_a(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        unknown => panic!("the schema has a type that is not checked: {unknown}"),
    }
}

fn size(rule: &Value) -> Option<usize> {
    Some(rule.as_u64().expect("a size").try_into().expect("a small size"))
}
