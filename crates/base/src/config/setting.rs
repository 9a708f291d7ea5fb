//! The kinds of value a setting can have, each readable from TOML and from plain text.

use std::net::SocketAddr;
use std::path::PathBuf;

use orlop_types::Glob;

use toml::de::DeValue;

use crate::units::{ByteSize, TimeSpan};

/// A kind of value. The error is a sentence for the operator.
pub trait Setting: Sized {
    /// What the value must look like, for messages: "a size such as 32MiB".
    const EXPECTS: &'static str;

    /// Reads the value as given in an environment variable or flag.
    fn from_text(text: &str) -> Result<Self, String>;

    /// Reads the value from a file. Most are strings there.
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value.as_str() {
            Some(text) => Self::from_text(text),
            None => Err(wrong_type::<Self>(value)),
        }
    }

    /// The value as TOML.
    fn to_toml(&self) -> String;
}

/// A text as TOML.
#[must_use]
pub fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn wrong_type<S: Setting>(value: &DeValue<'_>) -> String {
    format!("must be {}, not {}", S::EXPECTS, value.type_str())
}

impl Setting for String {
    const EXPECTS: &'static str = "a string";

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn to_toml(&self) -> String {
        quoted(self)
    }
}

impl Setting for PathBuf {
    const EXPECTS: &'static str = "an absolute path";

    fn from_text(text: &str) -> Result<Self, String> {
        let path = Self::from(text);
        let has_parent_step = path
            .components()
            .any(|part| part == std::path::Component::ParentDir);
        if path.is_absolute() && !has_parent_step && !text.contains('\0') {
            Ok(path)
        } else {
            Err(format!("{text:?} must be {} without ..", Self::EXPECTS))
        }
    }

    fn to_toml(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl Setting for bool {
    const EXPECTS: &'static str = "true or false";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("{text:?} must be {}", Self::EXPECTS))
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| wrong_type::<Self>(value))
    }

    fn to_toml(&self) -> String {
        self.to_string()
    }
}

/// Whole numbers: the range is the type's.
macro_rules! whole_number {
    ($type:ty, $expects:literal) => {
        impl Setting for $type {
            const EXPECTS: &'static str = $expects;

            fn from_text(text: &str) -> Result<Self, String> {
                text.parse()
                    .map_err(|_| format!("{text:?} must be {}", Self::EXPECTS))
            }

            fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
                let integer = value
                    .as_integer()
                    .ok_or_else(|| wrong_type::<Self>(value))?;
                Self::from_str_radix(integer.as_str(), integer.radix())
                    .map_err(|_| format!("{integer} must be {}", Self::EXPECTS))
            }

            fn to_toml(&self) -> String {
                self.to_string()
            }
        }
    };
}

whole_number!(u32, "a whole number from 0 to 4294967295");
whole_number!(i32, "a whole number");

impl Setting for ByteSize {
    const EXPECTS: &'static str = "a size such as \"32MiB\"";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error| format!("{error}"))
    }

    fn to_toml(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for TimeSpan {
    const EXPECTS: &'static str = "a span of time such as \"30s\"";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error| format!("{error}"))
    }

    fn to_toml(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for SocketAddr {
    const EXPECTS: &'static str = "an address and a port such as \"10.96.0.1:443\"";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("{text:?} must be {}", Self::EXPECTS))
    }

    fn to_toml(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for Glob {
    const EXPECTS: &'static str = "a pattern such as \"vendor.com/*\"";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error| format!("{error}"))
    }

    fn to_toml(&self) -> String {
        quoted(&self.to_string())
    }
}

/// Keys and values of another program. As plain text it is an inline table.
impl Setting for toml::Table {
    const EXPECTS: &'static str = "a table";

    fn from_text(text: &str) -> Result<Self, String> {
        let document: Self = format!("value = {text}")
            .parse()
            .map_err(|_| format!("{text:?} must be {}", Self::EXPECTS))?;
        let value = document.into_iter().next();
        match value {
            Some((_, toml::Value::Table(table))) => Ok(table),
            Some(_) | None => Err(format!("{text:?} must be {}", Self::EXPECTS)),
        }
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let table = value.as_table().ok_or_else(|| wrong_type::<Self>(value))?;
        table
            .iter()
            .map(|(key, value)| Ok((key.get_ref().to_string(), plain(value.get_ref())?)))
            .collect()
    }

    fn to_toml(&self) -> String {
        toml::Value::Table(self.clone()).to_string()
    }
}

/// A value without its place in the file.
fn plain(value: &DeValue<'_>) -> Result<toml::Value, String> {
    use toml::Value;

    Ok(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            Value::Integer(parsed.map_err(|_| format!("{number} is out of range"))?)
        }
        DeValue::Float(number) => {
            let parsed = number.as_str().parse();
            Value::Float(parsed.map_err(|_| format!("{} is no number", number.as_str()))?)
        }
        DeValue::Boolean(flag) => Value::Boolean(*flag),
        DeValue::Datetime(moment) => Value::Datetime(*moment),
        DeValue::Array(list) => {
            let values = list.iter().map(|value| plain(value.get_ref()));
            Value::Array(values.collect::<Result<_, _>>()?)
        }
        DeValue::Table(_) => Value::Table(toml::Table::from_toml(value)?),
    })
}

/// As plain text the values stand between commas, and no text means no values.
impl<S: Setting> Setting for Vec<S> {
    const EXPECTS: &'static str = "an array";

    fn from_text(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(S::from_text)
            .collect()
    }

    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let array = value.as_array().ok_or_else(|| wrong_type::<Self>(value))?;
        array
            .iter()
            .map(|value| S::from_toml(value.get_ref()))
            .collect()
    }

    fn to_toml(&self) -> String {
        let parts: Vec<String> = self.iter().map(Setting::to_toml).collect();
        format!("[{}]", parts.join(", "))
    }
}
