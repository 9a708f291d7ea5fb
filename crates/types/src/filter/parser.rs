//! The parser of one filter: a scanner that works on characters and a descent over its tokens.

use super::{FilterError, Selector, Test, compile};

/// Parses one filter into the selectors that must all hold; the empty filter has none.
pub(super) fn parse(input: &str) -> Result<Vec<Selector>, FilterError> {
    if input.is_empty() {
        return Ok(Vec::new());
    }
    let mut parser = Parser { input, position: 0 };
    let mut selectors = vec![parser.selector()?];
    loop {
        match parser.peek() {
            None => return Ok(selectors),
            Some(',') => {
                parser.bump();
                selectors.push(parser.selector()?);
            }
            Some(other) => return Err(parser.error(format!("unexpected {other:?}"))),
        }
    }
}

struct Parser<'a> {
    input: &'a str,
    position: usize,
}

impl Parser<'_> {
    fn selector(&mut self) -> Result<Selector, FilterError> {
        let path = self.path()?;
        if matches!(self.peek(), None | Some(',')) {
            let test = Test::Present;
            return Ok(Selector { path, test });
        }
        let test = self.comparison()?;
        Ok(Selector { path, test })
    }

    fn path(&mut self) -> Result<Vec<String>, FilterError> {
        let mut path = vec![self.field()?];
        while self.peek() == Some('.') {
            self.bump();
            path.push(self.field()?);
        }
        Ok(path)
    }

    fn field(&mut self) -> Result<String, FilterError> {
        self.skip_space();
        match self.peek() {
            Some('"') => self.quoted('"'),
            Some(character) if is_field(character) => Ok(self.take_while(is_field).to_owned()),
            // An opened quote of the other kinds is reported as such: it is the usual mistake with "/" in labels.
            Some('/' | '|') => Err(self.error("only double quotes may stand around a field")),
            Some(_) | None => Err(self.error("expected a field name or a quoted field")),
        }
    }

    fn comparison(&mut self) -> Result<Test, FilterError> {
        self.skip_space();
        let start = self.position;
        let operator = self.take_while(|c| matches!(c, '=' | '!' | '~')).to_owned();
        match operator.as_str() {
            "==" => Ok(Test::Equal(self.value(false)?)),
            "!=" => Ok(Test::NotEqual(self.value(false)?)),
            "~=" => self.pattern(),
            _ => {
                self.position = start;
                Err(self.error("expected one of \"==\", \"!=\", \"~=\""))
            }
        }
    }

    fn pattern(&mut self) -> Result<Test, FilterError> {
        self.skip_space();
        let start = self.position;
        let pattern = self.value(true)?;
        compile(&pattern).map(Test::Matches).map_err(|problem| {
            self.position = start;
            self.error(format!("not a usable regular expression: {problem}"))
        })
    }

    fn value(&mut self, bars_and_slashes_quote: bool) -> Result<String, FilterError> {
        self.skip_space();
        match self.peek() {
            Some('"') => self.quoted('"'),
            Some(quote @ ('/' | '|')) if bars_and_slashes_quote => self.quoted(quote),
            Some('/' | '|') => {
                Err(self.error("only after \"~=\" may a value stand between slashes or bars"))
            }
            Some(character)
                if is_value(character) && !matches!(character, '.' | '=' | '!' | '~') =>
            {
                Ok(self.take_while(is_value).to_owned())
            }
            Some(_) | None => Err(self.error("expected a value")),
        }
    }

    /// Reads a literal with Go's escapes up to the closing `quote`.
    fn quoted(&mut self, quote: char) -> Result<String, FilterError> {
        let start = self.position;
        let mut bytes = Vec::new();
        self.bump();
        let problem = loop {
            match self.bump() {
                None | Some('\n') => break "quoted text is not terminated",
                Some('\\') => match self.escape(quote) {
                    Some(Escaped::Byte(byte)) => bytes.push(byte),
                    Some(Escaped::Character(character)) => push(&mut bytes, character),
                    None => break "illegal escape sequence in quoted text",
                },
                Some(character) if character == quote => match String::from_utf8(bytes) {
                    Ok(text) => return Ok(text),
                    Err(_) => break "escapes in quoted text do not form UTF-8",
                },
                Some(character) => push(&mut bytes, character),
            }
        };
        self.position = start;
        Err(self.error(problem))
    }

    /// One escape after its backslash, by the rules of Go's interpreted string literals.
    fn escape(&mut self, quote: char) -> Option<Escaped> {
        let byte = match self.bump()? {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' => b'\\',
            'x' => u8::try_from(self.digits(16, 2)?).ok()?,
            'u' => return char::from_u32(self.digits(16, 4)?).map(Escaped::Character),
            'U' => return char::from_u32(self.digits(16, 8)?).map(Escaped::Character),
            first @ '0'..='7' => {
                let rest = self.digits(8, 2)?;
                u8::try_from(first.to_digit(8)? * 64 + rest).ok()?
            }
            character if character == quote => return Some(Escaped::Character(quote)),
            _ => return None,
        };
        Some(Escaped::Byte(byte))
    }

    fn digits(&mut self, radix: u32, count: usize) -> Option<u32> {
        let mut value = 0_u32;
        for _ in 0..count {
            let digit = self.bump()?.to_digit(radix)?;
            value = value.checked_mul(radix)?.checked_add(digit)?;
        }
        Some(value)
    }

    fn peek(&self) -> Option<char> {
        self.input[self.position..].chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.position += character.len_utf8();
        Some(character)
    }

    fn skip_space(&mut self) {
        self.take_while(char::is_whitespace);
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &str {
        let start = self.position;
        while self.peek().is_some_and(&accept) {
            self.bump();
        }
        &self.input[start..self.position]
    }

    fn error(&self, problem: impl Into<String>) -> FilterError {
        FilterError {
            input: self.input.to_owned(),
            position: self.position,
            problem: problem.into(),
        }
    }
}

enum Escaped {
    Byte(u8),
    Character(char),
}

fn push(bytes: &mut Vec<u8>, character: char) {
    bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}

const fn is_field(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

fn is_value(character: char) -> bool {
    character != ',' && !character.is_whitespace() && !character.is_control()
}
