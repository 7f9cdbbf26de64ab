//! Benches of the programs and the crates.
