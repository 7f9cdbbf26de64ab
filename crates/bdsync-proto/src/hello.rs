//! The hello and what its word can carry (`proto-spec/hello.md`).

use crate::error::ProtocolError;
use crate::limits::MAX_HELLO;

/// The version that both ends must speak.
pub const VERSION: &str = "0.5";

/// A peer's hello: a free word, and the one version there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    word: String,
}

impl Hello {
    /// The hello of a client without capabilities.
    pub fn client() -> Self {
        Self { word: "CLIENT".into() }
    }

    /// The hello of a server without capabilities.
    pub fn server() -> Self {
        Self { word: "SERVER".into() }
    }

    /// The hello of `role` (`CLIENT` or `SERVER`) with capabilities.
    ///
    /// # Panics
    ///
    /// If they have not the form that the specification gives them.
    pub fn with_capabilities(role: &str, capabilities: &[&str]) -> Self {
        assert!(capabilities.iter().all(|text| parse_capability(text).is_some()), "{capabilities:?}");
        Self { word: format!("{role}+{}", capabilities.join(",")) }
    }

    /// What stands before the version; stock never looks at it.
    pub fn word(&self) -> &str {
        &self.word
    }

    /// The capabilities that the word carries, each with its value ("" where it
    /// has none). A word of another form, or of another role than the sender's
    /// (`CLIENT` or `SERVER`), carries none.
    pub fn capabilities(&self, role: &str) -> Vec<(&str, &str)> {
        let Some(list) = self.word.strip_prefix(role).and_then(|rest| rest.strip_prefix('+')) else {
            return Vec::new();
        };
        let mut capabilities: Vec<(&str, &str)> = Vec::new();
        for capability in list.split(',').map(parse_capability) {
            match capability {
                Some((name, value)) if capabilities.iter().all(|(known, _)| *known != name) => {
                    capabilities.push((name, value));
                }
                _ => return Vec::new(),
            }
        }
        capabilities
    }

    /// The payload of the hello message.
    pub fn to_payload(&self) -> Vec<u8> {
        format!("{} {VERSION}", self.word).into_bytes()
    }

    /// Reads a hello message's payload.
    ///
    /// # Errors
    ///
    /// No space, or anything but the version behind the first one.
    pub fn parse(payload: &[u8]) -> Result<Self, ProtocolError> {
        let shown = || String::from_utf8_lossy(&payload[..payload.len().min(80)]).escape_debug().to_string();
        if payload.len() > MAX_HELLO {
            return Err(ProtocolError::BadHello(format!("{}... ({} bytes)", shown(), payload.len())));
        }
        let space = payload.iter().position(|&byte| byte == b' ');
        let Some(space) = space else {
            return Err(ProtocolError::BadHello(shown()));
        };
        if &payload[space + 1..] != VERSION.as_bytes() {
            return Err(ProtocolError::BadHello(shown()));
        }
        Ok(Self { word: String::from_utf8_lossy(&payload[..space]).into_owned() })
    }
}

fn parse_capability(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let good_name = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    let good_value = value.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    (good_name && good_value).then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_word_is_accepted_with_the_right_version() {
        for word in ["CLIENT", "SERVER", "ANYTHING", "", "CLIENT+x"] {
            let hello = Hello::parse(format!("{word} 0.5").as_bytes()).unwrap();
            assert_eq!(hello.word(), word);
        }
    }

    #[test]
    fn another_version_or_none_is_refused() {
        for text in ["CLIENT", "CLIENT 0.4", "CLIENT x 0.5", "CLIENT 0.5 ", "CLIENT  0.5", ""] {
            assert!(Hello::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_hello_beyond_the_limit_is_refused() {
        let long = format!("{} 0.5", "A".repeat(MAX_HELLO));
        assert!(Hello::parse(long.as_bytes()).is_err());
    }

    #[test]
    fn capabilities_are_read_and_a_malformed_list_counts_as_none() {
        let of = |word: &str| {
            let hello = Hello::parse(format!("{word} 0.5").as_bytes()).unwrap();
            hello.capabilities("SERVER").iter().map(|(n, v)| format!("{n}:{v}")).collect::<Vec<_>>()
        };
        assert_eq!(of("SERVER+agent=1,zstd"), ["agent:1", "zstd:"]);
        assert_eq!(of("SERVER"), [""; 0]);
        assert_eq!(of("SERVER+"), [""; 0]);
        assert_eq!(of("SERVER+a,,b"), [""; 0]);
        assert_eq!(of("SERVER+Upper"), [""; 0]);
        assert_eq!(of("SERVER+a=b=c"), [""; 0]);
        assert_eq!(of("SERVER+a,a"), [""; 0]);
        assert_eq!(of("OTHER+a"), [""; 0]);
    }
}
