//! Getting the agent to where it is needed (`docs/security.md`).

use std::path::{Path, PathBuf};

use bdsync_engine::apply::hex;
use sha2::{Digest, Sha256};

use crate::config::{AgentMode, Remote};
use crate::failure::Failure;
use crate::remote::{Connection, quote, quote_path};

/// What the first script prints where its answer begins.
const MARK: &str = "bdsync-manager agent";

/// The machine type that this manager was built for, as `uname -m` says it.
const THIS_MACHINE: &str = std::env::consts::ARCH;

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// An agent for one kind of machine.
struct Binary {
    machine: String,
    bytes: std::borrow::Cow<'static, [u8]>,
    sha256: String,
}

impl Binary {
    fn new(machine: &str, bytes: std::borrow::Cow<'static, [u8]>) -> Self {
        let sha256 = hex(&Sha256::digest(&bytes));
        Self { machine: machine.into(), bytes, sha256 }
    }

    /// By version and digest: another build is another file.
    fn file_name(&self) -> String {
        format!("bdsync-agent-{}-{}", env!("CARGO_PKG_VERSION"), &self.sha256[..16])
    }
}

/// The agents that this manager carries: those inside of it, and those beside it.
fn binaries() -> Vec<Binary> {
    let mut found: Vec<Binary> =
        EMBEDDED.iter().map(|(machine, bytes)| Binary::new(machine, (*bytes).into())).collect();
    let folder = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_path_buf));
    let Some(folder) = folder else { return found };
    let named = |machine: &str| vec![folder.join(format!("bdsync-agent-{machine}"))];
    for machine in ["x86_64", "aarch64", "armv7l", "riscv64"] {
        let mut paths: Vec<PathBuf> = named(machine);
        if machine == THIS_MACHINE {
            paths.push(folder.join("bdsync-agent"));
        }
        if found.iter().any(|binary| binary.machine == machine) {
            continue;
        }
        let bytes = paths.iter().find_map(|path| std::fs::read(path).ok());
        found.extend(bytes.map(|bytes| Binary::new(machine, bytes.into())));
    }
    found
}

/// The agent at the other end, as a word for its shell; it is put there if the remote says so.
pub(crate) fn program(connection: &Connection, remote: &Remote) -> Result<String, Failure> {
    match remote.agent {
        AgentMode::Installed => Ok(quote_path(remote.agent_path.as_deref().unwrap_or(Path::new("bdsync-agent")))),
        _ => deploy(connection, remote),
    }
}

/// Puts the agent there unless it is there already.
fn deploy(connection: &Connection, remote: &Remote) -> Result<String, Failure> {
    let binaries = binaries();
    if binaries.is_empty() {
        return Err(Failure::new(
            "this bdsync-manager carries no agent, and there is no bdsync-agent beside it (agent = \"installed\" or \"stock\" does without)",
        ));
    }
    let known: String = binaries
        .iter()
        .map(|binary| format!("{}) n={} h={};;\n", binary.machine, binary.file_name(), binary.sha256))
        .collect();
    let folder = match &remote.agent_path {
        Some(path) => quote_path(path),
        None => "${XDG_CACHE_HOME:-$HOME/.cache}/bdsync-manager".into(),
    };
    let probe = format!("echo '{MARK}'\nm=$(uname -m)\nn= h=\ncase $m in\n{known}esac\nd={folder}\n{PROBE}");
    let output = connection.run_first(&probe, MARK)?;
    let mut answer = Vec::new();
    for line in output.lines().skip_while(|line| line.trim_end() != MARK).skip(1) {
        answer.extend(line.split_once('='));
    }
    let value = |key: &str| answer.iter().find(|(known, _)| *known == key).map(|(_, value)| *value);
    let (Some(machine), Some(state), Some(folder)) = (value("machine"), value("agent"), value("folder")) else {
        return Err(Failure::Connection(format!("{} broke off while it was asked for the agent", connection.name())));
    };
    let Some(binary) = binaries.iter().find(|binary| binary.machine == machine) else {
        let have: Vec<_> = binaries.iter().map(|binary| binary.machine.as_str()).collect();
        return Err(Failure::new(format!(
            "{} is a machine of type {machine}, and this bdsync-manager has agents for {} only; install one there (agent = \"installed\")",
            connection.name(),
            have.join(", ")
        )));
    };
    let path = Path::new(folder).join(binary.file_name());
    match state {
        "there" => {}
        "no-digest" => {
            return Err(Failure::new(format!(
                "{} has no sha256sum, so what is put there cannot be verified",
                connection.name()
            )));
        }
        _ => copy(connection, binary, folder)?,
    }
    tracing::debug!("The agent at {} is {}", connection.name(), path.display());
    Ok(quote_path(&path))
}

/// Copies the agent through a pipe, under another name until it is whole.
fn copy(connection: &Connection, binary: &Binary, folder: &str) -> Result<(), Failure> {
    use std::io::Write;
    tracing::info!("Putting the agent ({} bytes) into {folder} at {}", binary.bytes.len(), connection.name());
    let script = format!("d={}\nn={}\nh={}\n{COPY}", quote(folder), binary.file_name(), binary.sha256);
    let mut session = connection.start(&script)?;
    session.drain();
    // How the script ended says more than how writing to it did.
    let _ = session.stdin.take().map(|mut input| input.write_all(&binary.bytes));
    let end = session.wait()?;
    let why = match end.code() {
        Some(30) => "the folder cannot be made",
        Some(31) => "it cannot be stored (is the disk full?)",
        Some(32) => {
            return Err(Failure::Connection(format!(
                "the agent that arrived in {folder} at {} is not what was sent",
                connection.name()
            )));
        }
        Some(33) => "it cannot be run there (is the file system mounted noexec?)",
        _ => {
            end.success()?;
            return Ok(());
        }
    };
    let said = if end.said.is_empty() { String::new() } else { format!(": {}", end.said) };
    Err(Failure::new(format!(
        "the agent cannot be put into {folder} at {}: {why}{said}. Another folder can be named with agent_path",
        connection.name()
    )))
}

/// Tells whether the agent is there and is the right one. `d`, `n`, `h` and `m` are set.
const PROBE: &str = r#"
echo "machine=$m"
echo "folder=$d"
f=$d/$n
if ! command -v sha256sum > /dev/null 2>&1; then echo agent=no-digest
elif [ -n "$n" ] && [ -x "$f" ] && x=$(sha256sum < "$f") && [ "${x%% *}" = "$h" ] && "$f" --version > /dev/null 2>&1; then
  touch -c -- "$f" 2> /dev/null
  echo agent=there
else echo agent=missing
fi
"#;

/// Takes the agent from standard input. Old ones that nobody used for a month go.
const COPY: &str = r#"
umask 077
mkdir -p -- "$d" || exit 30
t=$d/.$n.$$
trap 'rm -f -- "$t"' EXIT
cat > "$t" || exit 31
x=$(sha256sum < "$t") && [ "${x%% *}" = "$h" ] || exit 32
chmod 700 "$t" || exit 31
sync -- "$t" 2> /dev/null
"$t" --version > /dev/null || exit 33
mv -f -- "$t" "$d/$n" || exit 31
find "$d" -name 'bdsync-agent-*' ! -name "$n" -mtime +30 -exec rm -f -- {} \; 2> /dev/null
exit 0
"#;
