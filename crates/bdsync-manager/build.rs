//! Puts agents into the manager: `BDSYNC_EMBED_AGENTS` lists `MACHINE=FILE`, separated by colons.

use std::fmt::Write;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-env-changed=BDSYNC_EMBED_AGENTS");
    let list = std::env::var("BDSYNC_EMBED_AGENTS").unwrap_or_default();
    let mut entries = String::new();
    for entry in list.split(':').filter(|entry| !entry.is_empty()) {
        let Some((machine, file)) = entry.split_once('=') else {
            panic!("BDSYNC_EMBED_AGENTS: {entry} is not MACHINE=FILE");
        };
        println!("cargo::rerun-if-changed={file}");
        let file = std::fs::canonicalize(file).unwrap_or_else(|error| panic!("{file}: {error}"));
        let _ = writeln!(entries, "    ({machine:?}, include_bytes!({file:?})),");
    }
    let text = format!("/// Agents by machine type.\nconst EMBEDDED: &[(&str, &[u8])] = &[\n{entries}];\n");
    let out = std::env::var("OUT_DIR").unwrap_or_default();
    std::fs::write(Path::new(&out).join("embedded.rs"), text).unwrap_or_else(|error| panic!("{out}: {error}"));
}
