//! How a line becomes a key and a value.

use crate::{Plan, failure::Failure};
use mailring::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use serde_json::{Map, Value};
use std::fmt;

/// The form of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// One JSON object a line.
    Ndjson,
    /// Columns with a tab between them, no quoting.
    Tsv,
}

/// Which part of a line is the key, and which the value. Columns count from 0 here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recipe {
    Ndjson { key: String, value: Option<String> },
    Tsv { key: usize, value: Option<usize> },
}

/// The flags that ask for it.
impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ndjson { key, value } => {
                write!(f, "--format ndjson --key {key}")?;
                value
                    .iter()
                    .try_for_each(|field| write!(f, " --value {field}"))
            }
            Self::Tsv { key, value } => {
                write!(f, "--format tsv --key {}", key + 1)?;
                value
                    .iter()
                    .try_for_each(|column| write!(f, " --value {}", column + 1))
            }
        }
    }
}

/// A key and its value.
pub(crate) type Record = (Vec<u8>, Vec<u8>);

impl Recipe {
    pub(crate) fn of(plan: &Plan) -> Result<Self, Failure> {
        let ending = plan.source.as_ref().and_then(|path| path.extension());
        let by_ending = match ending.and_then(|ending| ending.to_str()) {
            Some("tsv") => Some(Format::Tsv),
            Some("ndjson" | "jsonl") => Some(Format::Ndjson),
            _ => None,
        };
        match plan.format.or(by_ending) {
            None => Err(Failure::wrong_use(
                "the ending does not tell the format; give --format ndjson or --format tsv",
            )),
            Some(Format::Ndjson) => Ok(Self::Ndjson {
                key: plan.key.clone().ok_or_else(|| {
                    Failure::wrong_use(
                        "--key FIELD is needed: which field of an object is its key?",
                    )
                })?,
                value: plan.value.clone(),
            }),
            Some(Format::Tsv) => {
                let column = |text: &String| match text.parse::<usize>() {
                    Ok(number) if number > 0 => Ok(number - 1),
                    _ => Err(Failure::wrong_use(format!(
                        "{text:?} is not the number of a column; columns count from 1"
                    ))),
                };
                Ok(Self::Tsv {
                    key: plan.key.as_ref().map_or(Ok(0), column)?,
                    value: plan.value.as_ref().map(column).transpose()?,
                })
            }
        }
    }

    /// The record of a line, or what is wrong with the line.
    pub(crate) fn record(&self, line: &[u8]) -> Result<Record, String> {
        let (key, value) = match self {
            Self::Ndjson { key, value } => of_json(line, key, value.as_deref())?,
            Self::Tsv { key, value } => of_tsv(line, *key, *value)?,
        };
        match (key.len(), value.len()) {
            (0, _) => Err("the key is empty".into()),
            (len, _) if len > MAX_KEY_BYTES => Err(format!(
                "the key has {len} bytes, the limit is {MAX_KEY_BYTES}"
            )),
            (_, len) if len > MAX_VALUE_BYTES => Err(format!(
                "the value has {len} bytes, the limit is {MAX_VALUE_BYTES}"
            )),
            _ => Ok((key, value)),
        }
    }
}

fn of_json(line: &[u8], key: &str, value: Option<&str>) -> Result<Record, String> {
    let mut object: Map<String, Value> =
        serde_json::from_slice(line).map_err(|error| format!("not a JSON object: {error}"))?;
    let mut field = |name: &str| {
        object
            .remove(name)
            .ok_or_else(|| format!("no field {name:?}"))
    };
    let key = match field(key)? {
        Value::String(text) => text.into_bytes(),
        Value::Number(number) if !number.is_f64() => number.to_string().into_bytes(),
        other => {
            let other = serde_json::to_string(&other).unwrap_or_default();
            let shown: String = other.chars().take(40).collect();
            return Err(format!(
                "the key {key:?} is {shown}, it must be a string or a whole number of 64 bits"
            ));
        }
    };
    let value = match value.map(field).transpose()? {
        None => line.to_vec(),
        Some(Value::String(text)) => text.into_bytes(),
        Some(other) => other.to_string().into_bytes(),
    };
    Ok((key, value))
}

fn of_tsv(line: &[u8], key: usize, value: Option<usize>) -> Result<Record, String> {
    let columns: Vec<&[u8]> = line.split(|byte| *byte == b'\t').collect();
    let column = |number: usize| {
        columns.get(number).copied().ok_or_else(|| {
            let (there, wanted) = (columns.len(), number + 1);
            format!("no column {wanted}, the line has {there}")
        })
    };
    let rest = || {
        let others = columns.iter().enumerate().filter(|(at, _)| *at != key);
        others
            .map(|(_, column)| *column)
            .collect::<Vec<_>>()
            .join(&b'\t')
    };
    let value = value.map(column).transpose()?;
    Ok((
        column(key)?.to_vec(),
        value.map_or_else(rest, <[u8]>::to_vec),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> Result<Record, String> {
        Ok((key.into(), value.into()))
    }

    #[test]
    fn a_tsv_value_is_the_other_columns_or_the_one_asked_for() {
        let rest = Recipe::Tsv {
            key: 1,
            value: None,
        };
        assert_eq!(rest.record(b"a\tb\tc"), pair("b", "a\tc"));
        assert_eq!(
            rest.record(b"a").unwrap_err(),
            "no column 2, the line has 1"
        );
        assert_eq!(rest.record(b"a\t\tc").unwrap_err(), "the key is empty");
        let one = Recipe::Tsv {
            key: 0,
            value: Some(2),
        };
        assert_eq!(one.record(b"a\tb\tc"), pair("a", "c"));
    }

    #[test]
    fn a_json_key_is_a_string_or_a_whole_number() {
        let recipe = Recipe::Ndjson {
            key: "id".into(),
            value: Some("v".into()),
        };
        assert_eq!(recipe.record(br#"{"id":"a","v":"b"}"#), pair("a", "b"));
        assert_eq!(recipe.record(br#"{"id":7,"v":[1,2]}"#), pair("7", "[1,2]"));
        for bad in [
            r#"{"id":1.5,"v":0}"#,
            r#"{"id":null,"v":0}"#,
            r#"{"id":18446744073709551616,"v":0}"#,
            r#"{"v":0}"#,
            r#"{"id":"a"}"#,
            r#"{"id":"","v":0}"#,
            r#"["id"]"#,
            r#"{"id":"a","v":0"#,
            "\u{1}",
        ] {
            assert!(recipe.record(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(recipe.record(b"\xff").is_err());
        assert!(recipe.record("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn keys_and_values_over_the_limits_are_bad_lines() {
        let recipe = Recipe::Tsv {
            key: 0,
            value: None,
        };
        let long_key = "k".repeat(MAX_KEY_BYTES + 1);
        assert!(recipe.record(long_key.as_bytes()).is_err());
        assert!(recipe.record(&long_key.as_bytes()[1..]).is_ok());
        let long_value = format!("k\t{}", "v".repeat(MAX_VALUE_BYTES + 1));
        assert!(recipe.record(long_value.as_bytes()).is_err());
    }
}
