//! Checks that a whole answer is what its route promises: an error page with status 200 is not.

use super::json::{JsonError, Reader, Token};

/// Is `json` an object with an array of this name? Reads no more than it takes to know. `None`:
/// what there is does not say, or is not JSON.
pub(crate) fn has_array(json: &[u8], name: &str) -> Option<bool> {
    match find_array(json, name) {
        Ok(found) => Some(found),
        Err(_) => json.trim_ascii_start().first().is_some_and(|it| *it != b'{').then_some(false),
    }
}

fn find_array(json: &[u8], name: &str) -> Result<bool, JsonError> {
    let mut reader = Reader::new(json);
    if reader.next_token()? != Some(Token::ObjectStart) {
        return Ok(false);
    }
    while let Some(Token::Key(key)) = reader.next_token()? {
        if key.is(name) {
            return Ok(reader.next_token()? == Some(Token::ArrayStart));
        }
        reader.next_value()?;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::has_array;

    #[test]
    fn an_answer_is_known_by_its_array() {
        for (json, expected) in [
            (r#"{"id":"x","choices":[{"index":0}],"usage":{}}"#, Some(true)),
            (r#" {"id":{"choices":1},"choices":["#, Some(true)),
            (r#"{"choices":[]"#, Some(true)),
            (r#"{"choices":{}}"#, Some(false)),
            (r#"{"choices":null}"#, Some(false)),
            (r#"{"error":{"choices":[]}}"#, Some(false)),
            ("{}", Some(false)),
            ("[]", Some(false)),
            ("\n<!DOCTYPE html>", Some(false)),
            ("data: {}", Some(false)),
            ("\u{feff}{}", Some(false)),
            ("", None),
            (r#"{"id":"x","#, None),
            (r#"{"id":"#, None),
            ("{'choices':[]}", None),
        ] {
            assert_eq!(has_array(json.as_bytes(), "choices"), expected, "{json}");
        }
    }
}
