//! Columns of text, spaced as kubectl spaces them.
//!
//! Source: cli-runtime `printers/tabwriter.go` (minimum width 6, padding 3, widths remembered between flushes).

const PADDING: usize = 3;
const WIDTH_MIN: usize = 6;

/// Lays out rows; a column never becomes narrower than it was, so that a watch's later rows line up with the first.
#[derive(Debug, Default)]
pub struct Table {
    widths: Vec<usize>,
}

impl Table {
    pub fn lay_out(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            // The last cell of a row ends no column.
            for (i, cell) in row.iter().enumerate().take(row.len().saturating_sub(1)) {
                if self.widths.len() <= i {
                    self.widths.push(WIDTH_MIN);
                }
                self.widths[i] = self.widths[i].max(cell.chars().count() + PADDING);
            }
        }
        let mut out = String::new();
        for row in rows {
            for (i, cell) in row.iter().enumerate() {
                out.push_str(cell);
                if i + 1 < row.len() {
                    let width = self.widths.get(i).copied().unwrap_or_default();
                    out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
                }
            }
            out.push('\n');
        }
        out
    }
}

/// The part of a cell before its first line end.
pub fn one_line(text: &str) -> String {
    match text.find(['\n', '\r', '\x0c']) {
        Some(at) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn columns_keep_their_width() {
        let mut t = Table::default();
        let first = t.lay_out(&[row(&["NAME", "READY", "AGE"]), row(&["a-long-name", "1/1", "5s"])]);
        assert_eq!(first, "NAME          READY   AGE\na-long-name   1/1     5s\n");
        assert_eq!(t.lay_out(&[row(&["b", "0/1", "1s"])]), "b             0/1     1s\n");
        assert_eq!(Table::default().lay_out(&[row(&["A", "B"])]), "A     B\n");
        assert_eq!(one_line("a\nb"), "a...");
    }
}
