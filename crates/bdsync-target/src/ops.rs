//! What an agent is asked and what it answers (`proto-spec/agent.md` section 3).

use std::num::NonZeroUsize;
use std::str::FromStr;

use bdsync_engine::tree::Shape;
use bdsync_engine::{Error, SizePolicy};
use bdsync_hash::Algorithm;
use serde::{Deserialize, Serialize};

use crate::redo::RedoState;
use crate::volume::{Rollback, VolumeWish};

/// A patch folder, and what the names of a target's files in it begin with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The folder.
    pub folder: String,
    /// The beginning of the names.
    pub stem: String,
}

/// What to do about different sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Policy {
    Strict,
    Minsize,
    Resize,
}

impl From<SizePolicy> for Policy {
    fn from(policy: SizePolicy) -> Self {
        match policy {
            SizePolicy::Strict => Self::Strict,
            SizePolicy::MinSize => Self::Minsize,
            SizePolicy::Resize => Self::Resize,
        }
    }
}

impl From<Policy> for SizePolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Strict => Self::Strict,
            Policy::Minsize => Self::MinSize,
            Policy::Resize => Self::Resize,
        }
    }
}

/// A request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Request {
    /// Who is there?
    About,
    /// What is there?
    Facts {
        path: String,
        #[serde(default)]
        place: Option<Place>,
    },
    /// Makes an empty file.
    Create { path: String },
    /// Compares.
    Compare(Compare),
    /// Removes what is worth nothing.
    Discard {
        place: Place,
        #[serde(default)]
        ready: bool,
        /// The target that it is for, which nobody else may be at work on.
        #[serde(default)]
        path: Option<String>,
    },
    /// Makes a partial patch ready.
    Commit {
        place: Place,
        state: RedoState,
        /// As above.
        #[serde(default)]
        path: Option<String>,
    },
    /// Applies the ready patch.
    Apply { path: String, place: Place, size_policy: Policy },
    /// Makes a logical volume what it is wished to be (section 3.1).
    Volume {
        path: String,
        vg: String,
        #[serde(flatten)]
        wish: VolumeWish,
    },
    /// Keeps a logical volume as it is, as a snapshot (section 3.1).
    VolumeSnapshot {
        path: String,
        vg: String,
        #[serde(flatten)]
        rollback: Rollback,
    },
    /// The run went well for which it was kept (section 3.1).
    VolumeSettled { path: String, vg: String, keep: u32 },
    /// Measures.
    Bench {
        #[serde(default)]
        path: Option<String>,
        seconds: f64,
    },
}

/// A comparison that is asked for (section 4).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Compare {
    pub path: String,
    pub length: u64,
    #[serde(default)]
    pub start: u64,
    pub block_size: u64,
    pub fanout: u64,
    pub hash: String,
    /// Hexadecimal digits.
    pub salt: String,
    pub window: u64,
    #[serde(default)]
    pub parts: Option<NonZeroUsize>,
    #[serde(default)]
    pub flush_cache: bool,
    #[serde(default)]
    pub fresh: bool,
    #[serde(default)]
    pub patch: Option<PatchGoes>,
}

/// What becomes of the patch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", untagged)]
#[allow(missing_docs)]
pub enum PatchGoes {
    /// Into the partial patch, behind what is there.
    Stored {
        place: Place,
        #[serde(default)]
        offset: u64,
        #[serde(default)]
        sha256: String,
    },
    /// To the target at once.
    Applied { in_place: Policy },
}

impl Compare {
    /// The request for a shape.
    pub fn new(path: &str, shape: &Shape) -> Self {
        Self {
            path: path.into(),
            length: shape.length,
            start: shape.start,
            block_size: shape.block_size,
            fanout: shape.fanout,
            hash: shape.algorithm.name().into(),
            salt: bdsync_engine::apply::hex(&shape.salt),
            window: shape.window,
            parts: shape.parts,
            flush_cache: false,
            fresh: false,
            patch: None,
        }
    }

    /// The shape that is asked for.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn shape(&self) -> Result<Shape, Error> {
        let algorithm = Algorithm::from_str(&self.hash).map_err(|error| Error::Parameter(error.to_string()))?;
        let digits: Option<Vec<u8>> = self
            .salt
            .as_bytes()
            .chunks(2)
            .map(|pair| std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2))
            .map(|pair| pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()))
            .collect();
        let salt = digits.ok_or_else(|| Error::Parameter("the salt is not in hexadecimal digits".into()))?;
        let shape = Shape {
            block_size: self.block_size,
            fanout: self.fanout,
            algorithm,
            salt,
            length: self.length,
            start: self.start,
            parts: self.parts,
            window: self.window,
        };
        // A product of numbers beyond the limits must not overflow.
        if self.block_size > 1 << 30 || self.fanout > 1 << 10 || self.window > 1 << 16 {
            return Err(Error::Parameter("a comparison beyond the limits".into()));
        }
        shape.check()?;
        Ok(shape)
    }
}

/// Who is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct About {
    pub version: String,
    pub machine: String,
    pub host: String,
    pub user: String,
    pub time: String,
    pub read_only: bool,
    pub append_only_patches: bool,
    pub restricted: bool,
}

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Facts {
    /// `missing`, `file`, `block` or `other`.
    pub kind: String,
    pub size: Option<u64>,
    /// Which file or device it is.
    pub identity: Option<String>,
    /// Why it must not be written.
    pub busy: Option<String>,
    pub folder: bool,
    pub writable: bool,
    pub free_bytes: Option<u64>,
    pub ready: Option<Ready>,
    pub partial_bytes: Option<u64>,
    pub leftovers: bool,
}

/// A ready patch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Ready {
    pub bytes: u64,
    pub sha256: String,
    pub state: Option<RedoState>,
}

/// How a comparison begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Compared {
    pub size: u64,
}

/// A patch that was stored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct StoredPatch {
    pub patch_bytes: u64,
    pub sha256: String,
}

/// What applying did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct AppliedPatch {
    pub written_bytes: u64,
    pub done_before: bool,
}

/// A snapshot that was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct NewSnapshot {
    pub name: String,
}

/// How far something is, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ProgressReport {
    pub done: u64,
    pub total: u64,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// What came of it.
    Ok(serde_json::Value),
    /// Why nothing did.
    Error(String),
    /// Nothing did, for somebody else is at work on the target.
    Locked(String),
}

impl Answer {
    /// The answer that is a message's payload.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn parse(payload: &[u8]) -> Result<Self, Error> {
        let bad = |error: serde_json::Error| {
            bdsync_proto::agent::bad(bdsync_proto::agent::AgentMessage::Answer, error.to_string())
        };
        Ok(serde_json::from_slice(payload).map_err(bad)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_look_as_they_are_written_down() {
        let text = r#"{"op":"compare","path":"/x","length":5,"block_size":4096,"fanout":32,"hash":"md5","salt":"0aff","window":9,"patch":{"in_place":"minsize"},"later":1}"#;
        let Request::Compare(compare) = serde_json::from_str(text).unwrap() else { panic!("{text}") };
        let shape = compare.shape().unwrap();
        assert_eq!((shape.salt.as_slice(), shape.length, shape.start), (&[10, 255][..], 5, 0));
        assert!(matches!(compare.patch, Some(PatchGoes::Applied { in_place: Policy::Minsize })));
        let text = r#"{"op":"facts","path":"/x","place":{"folder":"/f","stem":"s"}}"#;
        assert!(matches!(serde_json::from_str(text).unwrap(), Request::Facts { place: Some(_), .. }));
        let text = r#"{"op":"volume","path":"/dev/v/l","vg":"v","bytes":7,"create":true}"#;
        let Request::Volume { wish, .. } = serde_json::from_str(text).unwrap() else { panic!("{text}") };
        assert_eq!(wish, VolumeWish { bytes: 7, create: true, shrink: false, cut: false, pool: None });
        let text = r#"{"op":"volume_snapshot","path":"/dev/v/l","vg":"v","keep":2,"task":"t","size":"1G"}"#;
        assert!(matches!(serde_json::from_str(text).unwrap(), Request::VolumeSnapshot { .. }));
        assert_eq!(serde_json::to_string(&Answer::Error("no".into())).unwrap(), r#"{"error":"no"}"#);
        assert_eq!(Answer::parse(br#"{"ok":{}}"#).unwrap(), Answer::Ok(serde_json::json!({})));
        assert!(Answer::parse(b"{").is_err());
    }

    #[test]
    fn shapes_beyond_the_limits_are_refused() {
        let good = r#"{"path":"/x","length":5,"block_size":4096,"fanout":32,"hash":"md5","salt":"","window":9}"#;
        let with = |from: &str, to: &str| serde_json::from_str::<Compare>(&good.replace(from, to)).unwrap().shape();
        assert!(with("", "").is_ok());
        for (from, to) in [
            ("4096", "18446744073709551615"),
            ("\"fanout\":32", "\"fanout\":18446744073709551615"),
            ("\"window\":9", "\"window\":18446744073709551615"),
            ("\"length\":5", "\"length\":18446744073709551615"),
            ("md5", "md6"),
            ("\"salt\":\"\"", "\"salt\":\"abc\""),
            ("\"salt\":\"\"", "\"salt\":\"zz\""),
            ("\"salt\":\"\"", "\"salt\":\"ää\""),
        ] {
            assert!(with(from, to).is_err(), "{to}");
        }
    }
}
