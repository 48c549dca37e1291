//! Tables as Docker draws them: no lines, three spaces between columns. On a terminal they fit its
//! width: columns that bear it are cut short.

use comfy_table::presets::NOTHING;
use comfy_table::{ColumnConstraint, ContentArrangement, Row, Table};

/// A heading, and whether its column may be cut short.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    name: &'static str,
    bends: bool,
}

/// A column that is always whole.
pub(crate) const fn whole(name: &'static str) -> Column {
    Column { name, bends: false }
}

/// A column that may be cut short.
pub(crate) const fn bends(name: &'static str) -> Column {
    Column { name, bends: true }
}

/// Draws a table. Without a width nothing is cut short.
pub(crate) fn draw(columns: &[Column], rows: Vec<Vec<String>>, width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_truncation_indicator("…");
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    } else {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    let one_line = |cells: Vec<String>| {
        let mut row = Row::from(cells.into_iter().map(|c| clean(&c)));
        row.max_height(1);
        row
    };
    table.set_header(one_line(columns.iter().map(|c| c.name.to_owned()).collect()));
    for row in rows {
        table.add_row(one_line(row));
    }
    for (i, column) in columns.iter().enumerate() {
        let last = i + 1 == columns.len();
        if let Some(drawn) = table.column_mut(i) {
            drawn.set_padding((0, if last { 0 } else { 3 }));
            if !column.bends {
                drawn.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
    }
    table.trim_fmt()
}

/// What comes from outside must not move the cursor about.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<String>> {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        vec![
            row(["abc", "shop_web", "a very long error\nof two lines that says a lot"]),
            row(["defghi", "db", ""]),
        ]
    }

    const COLUMNS: [Column; 3] = [whole("ID"), whole("NAME"), bends("ERROR")];

    #[test]
    fn whole_without_a_width() {
        let drawn = draw(&COLUMNS, rows(), None);
        let expected = "ID       NAME       ERROR\n\
                        abc      shop_web   a very long error of two lines that says a lot\n\
                        defghi   db";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn cut_short_to_fit() {
        for width in [40, 50, 200] {
            let drawn = draw(&COLUMNS, rows(), Some(width));
            assert_eq!(drawn.lines().count(), 3, "{drawn}");
            for line in drawn.lines() {
                assert!(line.chars().count() <= usize::from(width), "{width}: {line}");
            }
            assert!(drawn.contains("abc      shop_web   a very"), "{drawn}");
            assert_eq!(drawn.contains('…'), width < 100, "{drawn}");
        }
    }
}
