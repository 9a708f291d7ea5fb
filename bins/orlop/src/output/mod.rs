//! How answers look: text for people, JSON for programs.

mod progress;

use std::io::{self, IsTerminal, Write};

use orlop_base::table;
use serde::Serialize;

use crate::cli::{Format, Global};
use crate::error::CliError;
use crate::terminal;

pub(crate) use self::progress::Progress;
pub(crate) use orlop_base::table::Row;

/// Where answers go.
pub(crate) struct Output {
    format: Format,
    stdout: Box<dyn Write + Send>,
    stderr: Box<dyn Write + Send>,
    /// The width of the terminal on stdout, in columns; none when it is no terminal.
    width: Option<usize>,
    /// The size of the terminal on stderr, where progress is drawn.
    progress_size: Option<(usize, usize)>,
    color: bool,
}

/// Something with named properties, shown one a line.
pub(crate) trait Card {
    fn properties(&self) -> Vec<(&'static str, String)>;
}

impl Output {
    /// The process's own streams.
    pub(crate) fn of_process(global: &Global) -> Self {
        let color = !global.no_color && io::stderr().is_terminal();
        let size = |is_terminal: bool, fd| is_terminal.then(|| terminal::size(fd)).flatten();
        Self {
            format: global.output,
            stdout: Box::new(io::stdout()),
            stderr: Box::new(io::stderr()),
            width: size(io::stdout().is_terminal(), rustix::stdio::stdout())
                .map(|(columns, _)| columns),
            progress_size: size(io::stderr().is_terminal(), rustix::stdio::stderr()),
            color,
        }
    }

    /// Streams of a test.
    #[cfg(test)]
    pub(crate) fn of_test(
        format: Format,
        stdout: Box<dyn Write + Send>,
        stderr: Box<dyn Write + Send>,
        width: Option<usize>,
    ) -> Self {
        Self {
            format,
            stdout,
            stderr,
            width,
            progress_size: None,
            color: false,
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Lines of a table, or a JSON array.
    pub(crate) fn rows<R: Row + Serialize>(&mut self, rows: &[R]) -> Result<(), CliError> {
        match self.format {
            Format::Json => self.json(&rows),
            Format::Text => {
                let text = table::render(rows, self.width);
                self.write(text.as_bytes())
            }
        }
    }

    /// One thing, a property a line, or a JSON object.
    pub(crate) fn card<C: Card + Serialize>(&mut self, card: &C) -> Result<(), CliError> {
        match self.format {
            Format::Json => self.json(card),
            Format::Text => {
                let text = table::render_properties(&card.properties());
                self.write(text.as_bytes())
            }
        }
    }

    /// One item of a stream: a line of text, or of JSON.
    pub(crate) fn item<T: Serialize>(
        &mut self,
        item: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), CliError> {
        let line = match self.format {
            Format::Json => serde_json::to_string(item).map_err(unserialisable)?,
            Format::Text => text(item),
        };
        self.text(&line)
    }

    /// The result of a command that makes or removes things: their names, or a JSON object.
    pub(crate) fn done<T: Serialize>(&mut self, result: &T, text: &str) -> Result<(), CliError> {
        match self.format {
            Format::Json => self.json(result),
            Format::Text => self.text(text),
        }
    }

    /// A JSON document, indented.
    pub(crate) fn json<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CliError> {
        let mut text = serde_json::to_string_pretty(value).map_err(unserialisable)?;
        text.push('\n');
        self.write(text.as_bytes())
    }

    /// Lines of text. Control characters in them are shown as such and steer no terminal.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), CliError> {
        self.write(table::harmless(text).as_bytes())?;
        self.write(b"\n")
    }

    /// Bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.stdout
            .write_all(bytes)
            .and_then(|()| self.stdout.flush())
            .map_err(CliError::Output)
    }

    /// Bytes of a container's standard error, as they are.
    pub(crate) fn write_error(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.stderr
            .write_all(bytes)
            .and_then(|()| self.stderr.flush())
            .map_err(CliError::Output)
    }

    /// A remark that is not part of the answer.
    pub(crate) fn note(&mut self, text: &str) -> Result<(), CliError> {
        let text = table::harmless(text);
        self.write_error(format!("{text}\n").as_bytes())
    }

    /// Progress of a transfer: drawn in place on a terminal, lines elsewhere, nothing with JSON.
    pub(crate) fn progress(&mut self, progress: &mut Progress) -> Result<(), CliError> {
        let text = match (self.format, self.progress_size) {
            (Format::Json, _) => return Ok(()),
            (Format::Text, Some((columns, rows))) => progress.redraw(columns, rows),
            (Format::Text, None) => progress.new_lines(),
        };
        self.write_error(text.as_bytes())
    }

    /// A failure, on stderr.
    pub(crate) fn failure(&mut self, error: &CliError) -> Result<(), CliError> {
        let report = error.report();
        if self.is_json() {
            let document = serde_json::json!({ "error": report });
            return self.note(&document.to_string());
        }
        let (red, plain) = if self.color {
            ("\x1b[31m", "\x1b[0m")
        } else {
            ("", "")
        };
        // Registries and runtimes have a say in messages.
        let message = table::harmless(&report.message);
        let mut text = format!("{red}orlop:{plain} {message}\n");
        if let Some(hint) = &report.hint {
            text.push_str(&format!("  try: {hint}\n"));
        }
        text.push_str(&format!("  see: {}, {}\n", report.id, report.page));
        self.write_error(text.as_bytes())
    }
}

fn unserialisable(error: serde_json::Error) -> CliError {
    CliError::Output(io::Error::other(error))
}
