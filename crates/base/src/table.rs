//! Tables for people, without lines: columns two blanks apart, shortened to fit a terminal, whole elsewhere.

/// A line of a table.
pub trait Row {
    /// The headings; as many as [`Row::cells`] gives.
    const HEADINGS: &'static [&'static str];

    /// What stands in the columns.
    fn cells(&self) -> Vec<String>;
}

const GAP: usize = 2;

/// No column gets narrower than this to make room for others.
const COLUMN_WIDTH_MIN: usize = 8;

/// The table as text, at most `width` columns wide if there is a width.
#[must_use]
pub fn render<R: Row>(rows: &[R], width: Option<usize>) -> String {
    let headings = R::HEADINGS.iter().map(ToString::to_string).collect();
    let lines: Vec<Vec<String>> = std::iter::once(headings)
        .chain(
            rows.iter()
                .map(|row| row.cells().iter().map(|cell| printable(cell)).collect()),
        )
        .collect();
    let mut widths = natural_widths(&lines);
    if let Some(width) = width {
        fit(&mut widths, R::HEADINGS, width);
    }
    lines
        .iter()
        .map(|cells| render_line(cells, &widths))
        .collect()
}

/// Properties as text: names to the left, values in one column.
#[must_use]
pub fn render_properties(properties: &[(&str, String)]) -> String {
    let name_width = properties
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0)
        + 1;
    let mut text = String::new();
    for (name, value) in properties.iter().filter(|(_, value)| !value.is_empty()) {
        let mut label = format!("{name}:");
        // A value of several lines stands in its column, under the first.
        for line in value.split('\n') {
            let line = format!("{label:<name_width$}  {}", printable(line));
            text.push_str(line.trim_end());
            text.push('\n');
            label.clear();
        }
    }
    text
}

/// Names come from registries and other people: nothing in them may steer the terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// Like [`printable`], for texts of several lines.
#[must_use]
pub fn harmless(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(printable).collect();
    lines.join("\n")
}

/// `text` in at most `width` columns, its middle left out if need be: both ends of a name tell it apart.
#[must_use]
pub fn shorten(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(1);
    let head = kept.div_ceil(2);
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(length - (kept - head)).collect();
    format!("{start}…{end}")
}

fn natural_widths(lines: &[Vec<String>]) -> Vec<usize> {
    let columns = lines.first().map_or(0, Vec::len);
    (0..columns)
        .map(|column| {
            let lengths = lines.iter().filter_map(|cells| cells.get(column));
            lengths.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect()
}

/// Takes from the widest column, one by one, until all fit or none can give more.
fn fit(widths: &mut [usize], headings: &[&str], width: usize) {
    let gaps = GAP * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > width {
        let widest = widths
            .iter_mut()
            .zip(headings)
            .filter(|(width, heading)| **width > COLUMN_WIDTH_MIN.max(heading.len()))
            .max_by_key(|(width, _)| **width);
        match widest {
            Some((width, _)) => *width -= 1,
            None => return,
        }
    }
}

fn render_line(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, &width) in cells.iter().zip(widths) {
        let cell = shorten(cell, width);
        line.push_str(&format!("{cell:<width$}{:GAP$}", ""));
    }
    let mut line = line.trim_end().to_owned();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair(&'static str, &'static str);

    impl Row for Pair {
        const HEADINGS: &'static [&'static str] = &["NAME", "SIZE"];

        fn cells(&self) -> Vec<String> {
            vec![self.0.to_owned(), self.1.to_owned()]
        }
    }

    #[test]
    fn a_table_is_whole_without_a_width_and_fits_with_one() {
        let rows = [
            Pair("registry.example.com/team/application:2026.11", "1.0 MiB"),
            Pair("a", "2 B"),
        ];
        insta::assert_snapshot!(render(&rows, None), @r"
        NAME                                           SIZE
        registry.example.com/team/application:2026.11  1.0 MiB
        a                                              2 B
        ");
        insta::assert_snapshot!(render(&rows, Some(30)), @r"
        NAME                   SIZE
        registry.e…on:2026.11  1.0 MiB
        a                      2 B
        ");
    }

    #[test]
    fn control_characters_cannot_steer_the_terminal() {
        assert!(!render(&[Pair("a\x1b[2J\n", "1")], None).contains('\x1b'));
        assert_eq!(
            render_properties(&[("a", "\x1b]0;x".to_owned())]),
            "a:  \u{fffd}]0;x\n"
        );
    }

    #[test]
    fn lines_stay_lines_where_text_is_made_harmless() {
        assert_eq!(harmless("a\x1b[2J\nb\r"), "a\u{fffd}[2J\nb\u{fffd}");
    }

    #[test]
    fn values_of_several_lines_keep_their_column() {
        let properties = [("name", "a".to_owned()), ("lines", "1\n2".to_owned())];
        assert_eq!(
            render_properties(&properties),
            "name:   a\nlines:  1\n        2\n"
        );
    }
}
