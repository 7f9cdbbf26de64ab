//! Splitting REMSHCMD into words: at spaces, with quotes that group. There is no
//! other shell syntax, and no shell (`proto-spec/protocol.md` section 8).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The words of a remote command.
///
/// A quote within a quoted part is written twice.
///
/// # Errors
///
/// A quoted part that does not end; the error is its quote.
pub(crate) fn split(command: &OsStr) -> Result<Vec<OsString>, char> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = command.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' => words.extend(word.take().map(OsString::from_vec)),
            b'\'' | b'"' => {
                let word = word.get_or_insert_default();
                loop {
                    match bytes.next() {
                        None => return Err(char::from(byte)),
                        Some(inner) if inner == byte => {
                            if bytes.next_if_eq(&byte).is_none() {
                                break;
                            }
                            word.push(byte);
                        }
                        Some(inner) => word.push(inner),
                    }
                }
            }
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word.map(OsString::from_vec));
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_at_spaces_and_grouped_by_quotes() {
        for (command, words) in [
            ("ssh host bdsync --server", vec!["ssh", "host", "bdsync", "--server"]),
            ("  a   b ", vec!["a", "b"]),
            ("a'b c'd", vec!["ab cd"]),
            ("\"x y\" 'p \"q'", vec!["x y", "p \"q"]),
            ("'' \"\" x", vec!["", "", "x"]),
            ("'a''b'", vec!["a'b"]),
            ("a\\ b $HOME", vec!["a\\", "b", "$HOME"]),
            ("a\tb", vec!["a\tb"]),
            ("", vec![]),
        ] {
            assert_eq!(split(OsStr::new(command)), Ok(words.iter().map(OsString::from).collect()), "{command}");
        }
    }

    #[test]
    fn a_quote_that_does_not_end_is_an_error() {
        assert_eq!(split(OsStr::new("a 'b c")), Err('\''));
        assert_eq!(split(OsStr::new("a \"b''")), Err('"'));
    }
}
