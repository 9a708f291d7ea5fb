//! Records whose whole truth is their row.

use std::collections::BTreeMap;
use std::fmt::Display;

use orlop_types::Labels;
use orlop_types::filter::Filters;
use rusqlite::Row;
use serde::{Deserialize, Serialize};

use crate::{Error, View, node};

mod containers;
pub(crate) mod images;
pub(crate) mod leases;
mod namespaces;
mod sandboxes;
mod tasks;

pub use containers::{Container, Containers, Runtime};
pub(crate) use images::remove as remove_image;
pub use images::{Image, Images};
pub(crate) use leases::remove as remove_lease;
pub use leases::{Lease, LeaseResource, Leases};
pub use namespaces::{NamespaceRecord, Namespaces};
pub use sandboxes::{Sandbox, Sandboxes};
pub use tasks::{NewTask, Task, TaskState, TaskUpdate, Tasks};

/// Bytes of a type that only the client understands (`google.protobuf.Any`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypedBytes {
    /// Names the type of `value`.
    pub type_url: String,
    /// The encoded message.
    #[serde(with = "base16")]
    pub value: Vec<u8>,
}

/// Reads columns of one row, turning what this program never writes into an error that names the row.
pub(crate) struct Columns<'a, 'stmt> {
    pub(crate) row: &'a Row<'stmt>,
    pub(crate) table: &'static str,
    /// Column 0 of every query is the key.
    pub(crate) key: String,
}

impl<'a, 'stmt> Columns<'a, 'stmt> {
    pub(crate) fn new(table: &'static str, row: &'a Row<'stmt>) -> Result<Self, Error> {
        let key = row.get(0).map_err(Error::database("read a row"))?;
        Ok(Self { row, table, key })
    }

    pub(crate) fn value<T: rusqlite::types::FromSql>(&self, index: usize) -> Result<T, Error> {
        self.row
            .get(index)
            .map_err(|error| self.damaged(error.to_string()))
    }

    /// A column that holds text of a checked type.
    pub(crate) fn parsed<T>(&self, index: usize) -> Result<T, Error>
    where
        T: std::str::FromStr<Err: Display>,
    {
        let text = self
            .row
            .get_ref(index)
            .map_err(|error| self.damaged(error.to_string()))?;
        text.as_str()
            .map_err(|error| self.damaged(error.to_string()))?
            .parse()
            .map_err(|error: T::Err| self.damaged(error.to_string()))
    }

    pub(crate) fn json<T: for<'de> Deserialize<'de>>(&self, index: usize) -> Result<T, Error> {
        let text = self
            .row
            .get_ref(index)
            .map_err(|error| self.damaged(error.to_string()))?;
        let text = text
            .as_str()
            .map_err(|error| self.damaged(error.to_string()))?;
        serde_json::from_str(text).map_err(|error| self.damaged(error.to_string()))
    }

    /// A length or count; the database has only signed numbers.
    pub(crate) fn size(&self, index: usize) -> Result<u64, Error> {
        let value: i64 = self.value(index)?;
        u64::try_from(value).map_err(|error| self.damaged(error.to_string()))
    }

    pub(crate) fn time(&self, index: usize) -> Result<std::time::SystemTime, Error> {
        Ok(crate::time::from_nanos(self.value(index)?))
    }

    /// Typed bytes in two columns that are both there or both not.
    fn typed_bytes(&self, index: usize) -> Result<Option<TypedBytes>, Error> {
        let (type_url, value): (Option<String>, Option<Vec<u8>>) =
            (self.value(index)?, self.value(index + 1)?);
        Ok(type_url.map(|type_url| TypedBytes {
            type_url,
            value: value.unwrap_or_default(),
        }))
    }

    pub(crate) fn damaged(&self, reason: impl Into<String>) -> Error {
        Error::Corrupt {
            table: self.table,
            subject: self.key.clone(),
            reason: reason.into(),
        }
    }
}

/// The JSON of a map: its keys and values are text, so this cannot fail.
pub(crate) fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("a map of text to text or typed bytes is always JSON")
}

/// Parses a client's filters for a list of `kind`.
pub(crate) fn filters(kind: &'static str, filters: &[String]) -> Result<Filters, Error> {
    Filters::parse(filters).map_err(|source| Error::Filter { kind, source })
}

/// A size for the database, which has only signed numbers.
pub(crate) fn signed(operation: &'static str, subject: &str, size: u64) -> Result<i64, Error> {
    i64::try_from(size).map_err(|error| Error::invalid(operation, subject, error.to_string()))
}

impl View {
    /// Runs a query over all rows of this namespace. The query's first column is the key, its only parameter the
    /// namespace's id.
    pub(crate) fn each_row(
        &self,
        table: &'static str,
        sql: &str,
        mut row: impl FnMut(&Columns<'_, '_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let failed = Error::database("list records");
        self.db().read("list records", |connection| {
            let Some(namespace) = node::namespace_id(connection, self.namespace())? else {
                return Ok(());
            };
            let mut statement = connection.prepare_cached(sql).map_err(failed)?;
            let mut rows = statement.query([namespace]).map_err(failed)?;
            while let Some(found) = rows.next().map_err(failed)? {
                row(&Columns::new(table, found)?)?;
            }
            Ok(())
        })
    }
}

/// Labels of a record that may be empty text where a client gave none.
fn check_extensions<T>(
    operation: &'static str,
    subject: &str,
    extensions: &BTreeMap<String, T>,
) -> Result<(), Error> {
    if extensions.contains_key("") {
        return Err(Error::invalid(
            operation,
            subject,
            "an extension has no name",
        ));
    }
    Ok(())
}

/// Labels without those whose value is empty: an empty value means removal.
pub(crate) fn without_empty(labels: &Labels) -> Labels {
    let mut kept = labels.clone();
    for (key, value) in labels {
        if value.is_empty() {
            kept.remove(key);
        }
    }
    kept
}

mod base16 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let pairs = text.as_bytes().chunks(2);
        pairs
            .map(|pair| {
                let pair = std::str::from_utf8(pair).map_err(D::Error::custom)?;
                u8::from_str_radix(pair, 16).map_err(D::Error::custom)
            })
            .collect()
    }
}
