//! Tables, CSV and numbers as people read them. It never calls anybody.

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde_json::Value;

/// A column of a list: its title, and the field of each object that it shows.
pub(super) struct Column {
    /// The heading.
    pub title: &'static str,
    /// The field's name.
    pub field: &'static str,
}

/// Shown where there is nothing.
const NOTHING: &str = "-";

/// Rows under titles. Columns whose every cell is a number are aligned to the right.
pub(super) fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(titles.to_vec());
    table.add_rows(rows.iter().cloned());
    for index in 0..titles.len() {
        let shown = || rows.iter().filter_map(|row| row.get(index)).filter(|cell| *cell != NOTHING);
        let numeric = shown().next().is_some() && shown().all(|cell| is_number(cell));
        if let Some(column) = table.column_mut(index).filter(|_| numeric) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{table}\n")
}

/// A table of objects, one a row.
pub(super) fn objects(columns: &[Column], objects: &[Value]) -> String {
    let titles: Vec<&str> = columns.iter().map(|column| column.title).collect();
    let row = |object: &Value| columns.iter().map(|column| cell(&object[column.field])).collect();
    let rows: Vec<Vec<String>> = objects.iter().map(row).collect();
    table(&titles, &rows)
}

/// A table of one object, one field a row.
pub(super) fn object(object: &Value) -> String {
    let fields = object.as_object().into_iter().flatten();
    let rows: Vec<Vec<String>> =
        fields.map(|(name, value)| vec![name.clone(), cell(value)]).collect();
    table(&["FIELD", "VALUE"], &rows)
}

/// Indented JSON.
pub(super) fn json(value: &Value) -> String {
    format!("{value:#}\n")
}

/// A line of CSV (RFC 4180).
pub(super) fn csv_line<'a>(fields: impl IntoIterator<Item = &'a str>) -> String {
    let quoted = |field: &str| match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_string(),
    };
    let fields: Vec<String> = fields.into_iter().map(quoted).collect();
    format!("{}\r\n", fields.join(","))
}

/// `1234567` as `1,234,567`.
pub(super) fn thousands(number: u128) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Nano-USD as USD, exactly: `1,234.000000001`.
pub(super) fn usd(nanousd: u128) -> String {
    format!("{}.{:09}", thousands(nanousd / 1_000_000_000), nanousd % 1_000_000_000)
}

/// Nano-USD as USD without zeros that say nothing: `2.5`.
pub(super) fn usd_short(nanousd: u64) -> String {
    usd(u128::from(nanousd)).trim_end_matches('0').trim_end_matches('.').to_string()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => NOTHING.to_string(),
        Value::String(text) if text.is_empty() => NOTHING.to_string(),
        Value::String(text) => printable(text),
        Value::Number(number) => match number.as_u64() {
            Some(number) => thousands(u128::from(number)),
            None => number.to_string(),
        },
        Value::Bool(true) => "yes".to_string(),
        Value::Bool(false) => "no".to_string(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().map(cell).collect::<Vec<_>>().join(", ")
        }
        Value::Object(_) => describe_price(value).unwrap_or_else(|| value.to_string()),
        Value::Array(_) => value.to_string(),
    }
}

/// A price object in a few words; `None`: it is not one that we know.
pub(super) fn describe_price(price: &Value) -> Option<String> {
    let amount = |value: &Value, field: &str| value[field].as_u64().map(usd_short);
    let per_token = |value: &Value| {
        let input = amount(value, "input_nanousd_per_mtok")?;
        let output = amount(value, "output_nanousd_per_mtok")?;
        let cached = amount(value, "cached_input_nanousd_per_mtok");
        Some(match cached.filter(|cached| *cached != input) {
            Some(cached) => format!("{input} in, {output} out, {cached} cached"),
            None => format!("{input} in, {output} out"),
        })
    };
    match price["kind"].as_str()? {
        "per_token" => per_token(price),
        "tiered" => {
            let tiers = price["tiers"].as_array()?.iter().map(|tier| {
                let reach = match tier["up_to_tokens"].as_u64() {
                    Some(tokens) => format!("to {}", thousands(u128::from(tokens))),
                    None => "rest".to_string(),
                };
                Some(format!("{reach}: {}", per_token(tier)?))
            });
            Some(tiers.collect::<Option<Vec<_>>>()?.join("; "))
        }
        "subscription" => {
            let fee = amount(price, "fee_nanousd")?;
            let allowance = thousands(u128::from(price["allowance_tokens"].as_u64()?));
            let overage = per_token(&price["overage"])?;
            Some(format!("{fee} a month for {allowance} tokens; then {overage}"))
        }
        _ => None,
    }
}

/// Names come from outside: none may move the terminal's cursor.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}

fn is_number(cell: &str) -> bool {
    cell.starts_with(|c: char| c.is_ascii_digit())
        && cell.chars().all(|c| c.is_ascii_digit() || c == ',' || c == '.')
}

#[cfg(test)]
mod tests {
    use super::{Column, csv_line, object, objects, table, thousands, usd, usd_short};
    use serde_json::json;

    #[test]
    fn numbers_have_separators_and_nine_decimals() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(thousands(123_456_789), "123,456,789");
        assert_eq!(usd(0), "0.000000000");
        assert_eq!(usd(1), "0.000000001");
        assert_eq!(usd(1_234_567_890_123), "1,234.567890123");
        assert_eq!(usd_short(2_500_000_000), "2.5");
        assert_eq!(usd_short(10_000_000_000), "10");
        assert_eq!(usd_short(0), "0");
    }

    #[test]
    fn csv_quotes_what_has_to_be_quoted() {
        assert_eq!(
            csv_line(["plain", "a,b", "say \"hi\"", "two\nlines", ""]),
            "plain,\"a,b\",\"say \"\"hi\"\"\",\"two\nlines\",\r\n"
        );
    }

    #[test]
    fn a_list_is_a_table_with_numbers_to_the_right() {
        let columns =
            [Column { title: "NAME", field: "name" }, Column { title: "BURST", field: "burst" }];
        let rows =
            [json!({"name": "a", "burst": 10}), json!({"name": "\u{1b}[2J", "burst": 1_000})];
        assert_eq!(
            objects(&columns, &rows),
            "┌──────┬───────┐\n\
             │ NAME ┆ BURST │\n\
             ╞══════╪═══════╡\n\
             │ a    ┆    10 │\n\
             │ \u{FFFD}[2J ┆ 1,000 │\n\
             └──────┴───────┘\n"
        );
    }

    #[test]
    fn one_object_is_a_table_of_its_fields() {
        let shown = object(&json!({"a": null, "b": ["x", "y"], "c": true, "d": ""}));
        for line in
            ["│ a     ┆ -     │", "│ b     ┆ x, y  │", "│ c     ┆ yes   │", "│ d     ┆ -     │"]
        {
            assert!(shown.contains(line), "{shown}");
        }
    }

    #[test]
    fn a_column_of_names_stays_on_the_left() {
        let shown = table(&["NAME"], &[vec!["1st".to_string()], vec!["2".to_string()]]);
        assert!(shown.contains("│ 2    │"), "{shown}");
    }
}
