//! The kinds of values that settings have, as TOML and as INI files write them.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bdsync_device::ReadStrategy;
use bdsync_engine::SizePolicy;
use bdsync_engine::diff::NamedDigest;
use bdsync_hash::Algorithm;
use serde::Deserialize;

/// A value that an INI file can hold as text.
pub(crate) trait IniValue: Sized {
    fn from_ini(text: &str) -> Result<Self, String>;
}

/// A number, or text that stands for one.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number or a string")]
enum Scalar {
    Number(u64),
    Text(String),
}

impl Scalar {
    fn into_text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

/// Makes a type that is written as a number or a string.
macro_rules! scalar {
    ($($(#[$meta:meta])* $name:ident($inner:ty) = $parse:expr;)*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
        #[serde(try_from = "Scalar")]
        pub(crate) struct $name(pub(crate) $inner);

        impl TryFrom<Scalar> for $name {
            type Error = String;

            fn try_from(value: Scalar) -> Result<Self, String> {
                Self::from_ini(&value.into_text())
            }
        }

        impl IniValue for $name {
            fn from_ini(text: &str) -> Result<Self, String> {
                let parse: fn(&str) -> Result<$inner, String> = $parse;
                parse(text).map(Self)
            }
        }
    )*};
}

scalar! {
    /// Bytes a second; units of 1024; 0 is no limit at all and refused.
    Rate(u64) = |text| match bytes(text, "42m")? {
        0 => Err("the limit must be positive (leave it out for no limit)".into()),
        rate => Ok(rate),
    };
    /// A size in bytes.
    Size(u64) = |text| bytes(text, "64k");
    /// A size in the words of LVM, or a part of something.
    LvmSize(String) = |text| match bdsync_target::lvm::is_size(text) {
        true => Ok(text.to_string()),
        false => Err(format!("expected a size as LVM writes it, such as 5G or 10%ORIGIN, not {text}")),
    };
    /// A span of time.
    Span(Duration) = span;
    /// A digest by name.
    Digest(NamedDigest) = |text| {
        let algorithm = Algorithm::from_str(text).map_err(|error| error.to_string())?;
        Ok(NamedDigest { algorithm, name: text.to_string() })
    };
    /// What to do about different sizes.
    Sizes(SizePolicy) = |text| match text {
        "strict" => Ok(SizePolicy::Strict),
        "minsize" => Ok(SizePolicy::MinSize),
        "resize" => Ok(SizePolicy::Resize),
        _ => Err(format!("expected strict, minsize or resize, not {text}")),
    };
    /// A way to read devices.
    Io(ReadStrategy) = |text| match text {
        "positional" => Ok(ReadStrategy::Positional),
        "mapped" => Ok(ReadStrategy::Mapped),
        "direct" => Ok(ReadStrategy::Direct),
        _ => Err(format!("expected positional, mapped or direct, not {text}")),
    };
    /// How much is compared again after applying.
    VerifyMode(Verify) = |text| match text {
        "off" => Ok(Verify::Off),
        "sample" => Ok(Verify::Sample),
        "full" => Ok(Verify::Full),
        _ => Err(format!("expected off, sample or full, not {text}")),
    };
    /// What to compare in the source's place: whether it is a clone, else a logical volume.
    SnapshotChoice(Option<bool>) = |text| match text {
        "none" => Ok(None),
        "lvm" => Ok(Some(false)),
        "reflink" => Ok(Some(true)),
        _ => Err(format!("expected none, lvm or reflink, not {text}")),
    };
    /// What to use at the other end.
    AgentChoice(AgentMode) = |text| match text {
        "auto" => Ok(AgentMode::Auto),
        "deploy" => Ok(AgentMode::Deploy),
        "installed" => Ok(AgentMode::Installed),
        "stock" => Ok(AgentMode::Stock),
        _ => Err(format!("expected auto, deploy, installed or stock, not {text}")),
    };
    /// What to do about unknown host keys: whether to accept them.
    HostKeys(bool) = |text| match text {
        "strict" => Ok(false),
        "accept-new" => Ok(true),
        _ => Err(format!("expected strict or accept-new, not {text}")),
    };
    /// A TCP port.
    Port(u16) = |text| match text.parse() {
        Ok(0) | Err(_) => Err(format!("expected a port from 1 to 65535, not {text}")),
        Ok(port) => Ok(port),
    };
    /// How often something is done again.
    Count(u32) = |text| text.parse().map_err(|_| format!("expected a whole number, not {text}"));
}

/// What is used at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AgentMode {
    /// The agent, put there; if that cannot be, a stock-compatible bdsync.
    Auto,
    /// The agent, put there by us.
    Deploy,
    /// The agent that is installed there.
    Installed,
    /// A stock-compatible bdsync.
    Stock,
}

/// How much is compared again after applying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verify {
    /// Nothing.
    #[default]
    Off,
    /// Parts, spread over the device.
    Sample,
    /// Everything.
    Full,
}

impl IniValue for bool {
    fn from_ini(text: &str) -> Result<Self, String> {
        match text.to_lowercase().as_str() {
            "1" | "yes" | "true" | "on" => Ok(true),
            "0" | "no" | "false" | "off" => Ok(false),
            _ => Err(format!("expected yes, no, true, false, on, off, 1 or 0, not {text}")),
        }
    }
}

impl IniValue for String {
    fn from_ini(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }
}

impl IniValue for PathBuf {
    fn from_ini(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }
}

impl IniValue for Vec<String> {
    fn from_ini(text: &str) -> Result<Self, String> {
        Ok(text.split_whitespace().map(str::to_string).collect())
    }
}

/// A number with one of the units b, k, m, g, t (powers of 1024), in any letter case.
pub(crate) fn bytes(text: &str, example: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, factor) = match lower.strip_suffix(['b', 'k', 'm', 'g', 't']) {
        Some(digits) => (digits, 1u64 << (10 * "bkmgt".find(&lower[digits.len()..]).unwrap_or_default())),
        None => (lower.as_str(), 1),
    };
    let number: Option<u64> = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
    number.and_then(|number| number.checked_mul(factor)).ok_or_else(|| {
        format!("expected a number with b, k, m, g, t or nothing behind it, such as {example}, not {text}")
    })
}

/// Seconds, or a number with a unit.
fn span(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => {
            humantime::parse_duration(text).map_err(|_| format!("expected a time such as 30s, 5m or 1h, not {text}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1024() {
        for (text, number) in [("1", 1), ("7b", 7), ("42m", 42 << 20), ("2K", 2048), ("1g", 1 << 30), ("3T", 3 << 40)] {
            assert_eq!(bytes(text, ""), Ok(number), "{text}");
        }
        for text in ["", "m", "1.5m", "-1", "+1", "1x", "99999999999999999999", "9999999999999t", " 1"] {
            assert!(bytes(text, "").is_err(), "{text}");
        }
    }

    #[test]
    fn pythons_booleans_are_read() {
        for text in ["1", "yes", "True", "ON"] {
            assert_eq!(bool::from_ini(text), Ok(true));
        }
        for text in ["0", "No", "false", "off"] {
            assert_eq!(bool::from_ini(text), Ok(false));
        }
        assert!(bool::from_ini("ja").is_err());
    }
}
