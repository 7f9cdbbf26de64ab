//! What the tests from outside share: finding the programs, running them under
//! a time limit, making images from recipes, and speaking the protocol and the
//! patch format without the crates under test.
//!
//! The environment decides what is tested and how strict the tests are:
//!
//! | variable | meaning |
//! | --- | --- |
//! | `BDSYNC_BIN` | the `bdsync` under test; built from the workspace when unset |
//! | `BDSYNC_AGENT_BIN` | the `bdsync-agent` under test; likewise |
//! | `BDSYNC_MANAGER_BIN` | the `bdsync-manager` under test; likewise |
//! | `KILLS` | how often the manager is killed in each of its kill tests |
//! | `POWER_CUTS` | how often the power of a machine with LVM is cut |
//! | `STOCK_BDSYNC` | a stock `bdsync` to test against |
//! | `STOCK_BDSYNC_TESTS` | the folder of stock's source tree, for its shell tests |
//! | `RANDOM_CASES` | how many random cases to run |
//! | `STOCK_CASES` | how many random cases to run against stock |
//! | `BDSYNC_MANAGER_PY` | the Python `bdsync-manager` to run |
//! | `TEST_SEED` | where random cases start |
//! | `CI` | `true`: a test that cannot run fails |

mod agent_client;
mod binary;
mod image;
mod original;
mod process;
mod relay;
mod requirement;
mod rng;
mod site;
mod sshd;
mod vm;
mod workdir;

pub mod case;
pub mod patch;
pub mod procfs;
pub mod recording;
pub mod wire;

pub use crate::agent_client::{AgentClient, compare_request};
pub use crate::binary::{agent, bdsync, manager, static_agent, stock};
pub use crate::image::{Operation, Recipe, sha256_hex};
pub use crate::original::original_manager;
pub use crate::process::{Outcome, Run, Stdin, Stdout};
pub use crate::relay::{Break, Relay};
pub use crate::requirement::{in_ci, is_root, not_run, not_run_even_in_ci, program};
pub use crate::rng::Rng;
pub use crate::site::Site;
pub use crate::sshd::Sshd;
pub use crate::vm::{Ended, Running, Vm};
pub use crate::workdir::WorkDir;
