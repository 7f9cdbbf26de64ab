//! Which host keys are known, in OpenSSH's `known_hosts` format.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use ssh_key::known_hosts::{Entry, HostPatterns, Marker};
use ssh_key::{HashAlg, PublicKey};

const DEFAULT_PORT: u16 = 22;

/// A file of host keys.
pub(crate) struct KnownHosts {
    path: PathBuf,
    /// With their lines, from 1.
    entries: Vec<(usize, Entry)>,
}

/// What the file says of a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is the host's.
    Known,
    /// Nothing; its fingerprint.
    Unknown(String),
    /// The host has another key of that type.
    Other { offered: String, known: String, line: usize },
    /// It must not be used.
    Revoked { offered: String, line: usize },
}

impl KnownHosts {
    /// Reads a file; one that is not there has no keys.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(format!("cannot read known_hosts {}: {}", path.display(), bdsync_device::plain(&error)));
            }
        };
        let mut entries = Vec::new();
        for (index, line) in text.lines().enumerate() {
            // Keys of kinds that are not understood are left alone, as ssh does.
            entries.extend(ssh_key::KnownHosts::new(line).filter_map(Result::ok).map(|entry| (index + 1, entry)));
        }
        Ok(Self { path: path.to_path_buf(), entries })
    }

    fn of_host(&self, host: &str, port: u16) -> impl Iterator<Item = &(usize, Entry)> {
        let name = name(host, port);
        self.entries.iter().filter(move |(_, entry)| matches(entry.host_patterns(), &name))
    }

    /// The names of the key algorithms that are known for a host.
    pub(crate) fn key_types(&self, host: &str, port: u16) -> Vec<String> {
        let keys = self.of_host(host, port).filter(|(_, entry)| entry.marker().is_none());
        keys.flat_map(|(_, entry)| match entry.public_key().algorithm().as_str() {
            "ssh-rsa" => vec!["rsa-sha2-512".to_string(), "rsa-sha2-256".into()],
            other => vec![other.to_string()],
        })
        .collect()
    }

    /// What is known of the key (as it stands in the protocol) that a host shows.
    pub(crate) fn look_up(&self, host: &str, port: u16, key: &[u8]) -> Found {
        let offered = fingerprint(key);
        let is_it = |entry: &Entry| entry.public_key().to_bytes().is_ok_and(|bytes| bytes == key);
        let revoked = |entry: &Entry| entry.marker() == Some(&Marker::Revoked);
        if let Some((line, _)) = self.of_host(host, port).find(|(_, entry)| revoked(entry) && is_it(entry)) {
            return Found::Revoked { offered, line: *line };
        }
        let mut plain = self.of_host(host, port).filter(|(_, entry)| entry.marker().is_none()).peekable();
        let first =
            plain.peek().map(|(line, entry)| (*line, entry.public_key().fingerprint(HashAlg::Sha256).to_string()));
        if plain.any(|(_, entry)| is_it(entry)) {
            return Found::Known;
        }
        match first {
            Some((line, known)) => Found::Other { offered, known, line },
            None => Found::Unknown(offered),
        }
    }

    /// Adds a key to the file.
    pub(crate) fn add(&self, host: &str, port: u16, key: &[u8]) -> Result<(), String> {
        let key = PublicKey::from_bytes(key).and_then(|key| key.to_openssh());
        let key = key.map_err(|error| format!("its host key is not understood: {error}"))?;
        let failed = |error: std::io::Error| {
            format!("cannot add its key to {}: {}", self.path.display(), bdsync_device::plain(&error))
        };
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path).map_err(failed)?;
        file.write_all(format!("{} {key}\n", name(host, port)).as_bytes()).map_err(failed)
    }
}

fn fingerprint(key: &[u8]) -> String {
    match PublicKey::from_bytes(key) {
        Ok(key) => format!("{} {}", key.algorithm().as_str(), key.fingerprint(HashAlg::Sha256)),
        Err(error) => format!("of an unknown kind ({error})"),
    }
}

/// What a host is called in the file.
fn name(host: &str, port: u16) -> String {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_lowercase();
    if port == DEFAULT_PORT { host } else { format!("[{host}]:{port}") }
}

fn matches(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::Patterns(patterns) => {
            let found = |pattern: &str| is_like(pattern.to_lowercase().as_bytes(), name.as_bytes());
            let excluded = patterns.iter().filter_map(|pattern| pattern.strip_prefix('!')).any(found);
            !excluded && patterns.iter().filter(|pattern| !pattern.starts_with('!')).any(|pattern| found(pattern))
        }
        HostPatterns::HashedName { salt, hash } => {
            let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(salt) else { return false };
            mac.update(name.as_bytes());
            mac.verify_slice(hash).is_ok()
        }
    }
}

/// Whether a text is like a pattern with `*` and `?`.
fn is_like(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            is_like(rest, text) || text.split_first().is_some_and(|(_, text)| is_like(pattern, text))
        }
        (Some((b'?', pattern)), Some((_, text))) => is_like(pattern, text),
        (Some((a, pattern)), Some((b, text))) => a == b && is_like(pattern, text),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const TWO: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    fn key(text: &str) -> Vec<u8> {
        PublicKey::from_openssh(text).unwrap().to_bytes().unwrap()
    }

    fn known(text: &str) -> (tempfile::NamedTempFile, KnownHosts) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let known = KnownHosts::load(file.path()).unwrap();
        (file, known)
    }

    #[test]
    fn a_key_is_known_by_name_port_pattern_and_negation() {
        let text = format!("# comment\nhost,other {ONE}\n[host]:2222 {TWO}\n*.example.org,!bad.example.org {ONE}\n");
        let (_file, known) = known(&text);
        assert_eq!(known.look_up("host", 22, &key(ONE)), Found::Known);
        assert_eq!(known.look_up("HOST", 22, &key(ONE)), Found::Known);
        assert_eq!(known.look_up("host", 2222, &key(TWO)), Found::Known);
        assert!(matches!(known.look_up("host", 22, &key(TWO)), Found::Other { line: 2, .. }));
        assert!(matches!(known.look_up("host", 2222, &key(ONE)), Found::Other { line: 3, .. }));
        assert_eq!(known.look_up("a.example.org", 22, &key(ONE)), Found::Known);
        assert!(matches!(known.look_up("bad.example.org", 22, &key(ONE)), Found::Unknown(_)));
        assert!(matches!(known.look_up("else", 22, &key(ONE)), Found::Unknown(_)));
    }

    #[test]
    fn keys_of_all_usual_kinds_are_known_and_can_be_added() {
        const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBOoyEpHV6t9o0SimPk63TTq5n/6Z2Ofb1GpuUrCdUU+Cjvscl50wog9wsfziE/TpkMFFkZcb8w3t8L/oVvGJuCQ=";
        for text in [ONE, ECDSA] {
            let (file, empty) = known("");
            assert!(matches!(empty.look_up("host", 22, &key(text)), Found::Unknown(_)));
            empty.add("host", 22, &key(text)).unwrap();
            let now = KnownHosts::load(file.path()).unwrap();
            assert_eq!(now.look_up("host", 22, &key(text)), Found::Known);
            assert_eq!(now.key_types("host", 22), [text.split(' ').next().unwrap()]);
        }
    }

    #[test]
    fn hashed_names_are_found() {
        let salt = [7u8; 20];
        let mut mac = Hmac::<Sha1>::new_from_slice(&salt).unwrap();
        mac.update(b"[box]:2022");
        let base64 = |bytes: &[u8]| {
            let output = std::process::Command::new("sh")
                .args([
                    "-c",
                    &format!("printf '{}' | base64", bytes.iter().map(|b| format!("\\{b:03o}")).collect::<String>()),
                ])
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap().trim().to_string()
        };
        let text = format!("|1|{}|{} {ONE}\n", base64(&salt), base64(&mac.finalize().into_bytes()));
        let (_file, known) = known(&text);
        assert_eq!(known.look_up("box", 2022, &key(ONE)), Found::Known);
        assert!(matches!(known.look_up("box", 22, &key(ONE)), Found::Unknown(_)));
        assert_eq!(known.key_types("box", 2022), ["ssh-ed25519"]);
    }

    #[test]
    fn a_revoked_key_is_refused_and_a_new_one_is_kept() {
        let (file, known) = known(&format!("@revoked * {ONE}\n"));
        assert!(matches!(known.look_up("host", 22, &key(ONE)), Found::Revoked { line: 1, .. }));
        known.add("host", 2222, &key(TWO)).unwrap();
        let known = KnownHosts::load(file.path()).unwrap();
        assert_eq!(known.look_up("host", 2222, &key(TWO)), Found::Known);
        assert_eq!(KnownHosts::load(Path::new("/nonexistent/known_hosts")).unwrap().entries.len(), 0);
    }
}
