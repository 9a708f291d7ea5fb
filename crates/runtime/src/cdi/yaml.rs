//! YAML as far as files of devices need it, as JSON values.
//!
//! What looks like a number stays a text, and the fields that are numbers read it: only they know. Aliases, depth and size
//! are bounded, so that no file makes more of itself than its length allows.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use serde_json::{Map, Value};

use super::FileError;

/// How deep lists and tables may be in each other; files of devices need six.
const DEPTH_MAX: usize = 32;

/// Values in one file, those that aliases repeat counted each time.
const VALUES_MAX: usize = 100_000;

/// Reads the one document of a text.
pub(super) fn parse(text: &str) -> Result<Value, FileError> {
    let mut reader = Reader {
        events: Parser::new_from_str(text),
        line: 1,
        anchors: BTreeMap::new(),
        values: 0,
    };
    let mut document = None;
    loop {
        match reader.next()? {
            Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
            Event::DocumentStart(_) if document.is_none() => {
                let first = reader.next()?;
                document = Some(reader.value(first, 0)?);
            }
            Event::DocumentStart(_) => return Err(reader.fault("a second document")),
            Event::StreamEnd => return Ok(document.unwrap_or(Value::Null)),
            Event::Alias(_)
            | Event::Scalar(..)
            | Event::SequenceStart(..)
            | Event::SequenceEnd
            | Event::MappingStart(..)
            | Event::MappingEnd => return Err(reader.fault("something outside the document")),
        }
    }
}

/// Gives the events of a text, one after the other.
struct Reader<Events> {
    events: Events,
    /// Where the latest event was.
    line: usize,
    /// What aliases stand for, and of how many values it consists.
    anchors: BTreeMap<usize, (Value, usize)>,
    values: usize,
}

impl<'a, Events> Reader<Events>
where
    Events: Iterator<Item = Result<(Event<'a>, Span), ScanError>>,
{
    fn next(&mut self) -> Result<Event<'a>, FileError> {
        match self.events.next() {
            Some(Ok((event, span))) => {
                self.line = span.start.line();
                Ok(event)
            }
            Some(Err(error)) => Err(FileError::Yaml {
                line: error.marker().line(),
                fault: error.info().to_owned(),
            }),
            None => Ok(Event::StreamEnd),
        }
    }

    fn fault(&self, fault: &str) -> FileError {
        FileError::Yaml {
            line: self.line,
            fault: fault.to_owned(),
        }
    }

    /// The value that begins with `event`.
    fn value(&mut self, event: Event<'a>, depth: usize) -> Result<Value, FileError> {
        let before = self.values;
        self.count(1)?;
        if depth > DEPTH_MAX {
            return Err(self.fault("it is nested too deeply"));
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                if tag.is_some_and(|tag| !tag.is_yaml_core_schema()) {
                    return Err(self.fault("a tag"));
                }
                (scalar(&text, style), anchor)
            }
            Event::SequenceStart(anchor, None) => (self.list(depth)?, anchor),
            Event::MappingStart(anchor, None) => (self.table(depth)?, anchor),
            Event::SequenceStart(..) | Event::MappingStart(..) => return Err(self.fault("a tag")),
            Event::Alias(anchor) => return self.alias(anchor),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => return Err(self.fault("a value is missing")),
        };
        if anchor > 0 {
            let count = self.values - before;
            self.anchors.insert(anchor, (value.clone(), count));
        }
        Ok(value)
    }

    fn list(&mut self, depth: usize) -> Result<Value, FileError> {
        let mut list = Vec::new();
        loop {
            let event = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Value::Array(list));
            }
            list.push(self.value(event, depth + 1)?);
        }
    }

    fn table(&mut self, depth: usize) -> Result<Value, FileError> {
        let mut table = Map::new();
        loop {
            let event = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Value::Object(table));
            }
            let Event::Scalar(key, ..) = event else {
                return Err(self.fault("a key that is not a word"));
            };
            let event = self.next()?;
            let value = self.value(event, depth + 1)?;
            if table.insert(key.into_owned(), value).is_some() {
                return Err(self.fault("a key that was there before"));
            }
        }
    }

    fn alias(&mut self, anchor: usize) -> Result<Value, FileError> {
        let known = self.anchors.get(&anchor).cloned();
        let (value, count) = known.ok_or_else(|| self.fault("an alias for nothing"))?;
        self.count(count)?;
        Ok(value)
    }

    fn count(&mut self, more: usize) -> Result<(), FileError> {
        self.values += more;
        if self.values > VALUES_MAX {
            return Err(self.fault("it holds too many values"));
        }
        Ok(())
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    let is_nothing =
        style == ScalarStyle::Plain && ["", "~", "null", "Null", "NULL"].contains(&text);
    if is_nothing {
        Value::Null
    } else {
        Value::String(text.to_owned())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_lists_words_and_aliases_become_json() {
        let text =
            "---\na: 0660\nb: [x, \"~\", ~]\nc: &one\n  - d: 'e f'\n    g: |\n      h\nf: *one\n";
        let expected = json!({"a": "0660", "b": ["x", "~", null], "c": [{"d": "e f", "g": "h\n"}],
            "f": [{"d": "e f", "g": "h\n"}]});
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(parse("").unwrap(), Value::Null);
    }

    #[test]
    fn what_is_no_such_file_is_told_with_its_line() {
        for (text, line, fault) in [
            ("a: b\na: c\n", 2, "there before"),
            ("a: !mine b\n", 1, "a tag"),
            ("a: b\n---\nc: d\n", 2, "second document"),
            ("? [a]\n: b\n", 1, "not a word"),
            ("a: *b\n", 1, "anchor"),
            ("a: [b\n", 2, ""),
        ] {
            let error = parse(text).unwrap_err();
            let FileError::Yaml {
                line: at,
                fault: told,
            } = &error
            else {
                panic!("{error}");
            };
            assert!(told.contains(fault), "{text:?}: {told}");
            assert_eq!(*at, line, "{text:?}: {told}");
        }
    }

    #[test]
    fn a_file_cannot_make_more_of_itself_than_its_length() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let row = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb += &format!("a{level}: &a{level} [{row}]\n");
        }
        assert!(parse(&bomb).unwrap_err().to_string().contains("too many"));
        let deep = "[".repeat(10_000);
        assert!(parse(&deep).is_err());
    }
}
