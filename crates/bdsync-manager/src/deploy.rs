//! Getting the agent to where it is needed (`docs/security.md`).

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bdsync_engine::Cancellation;
use bdsync_engine::apply::hex;
use sha2::{Digest, Sha256};

use crate::config::{AgentMode, Remote};
use crate::failure::Failure;
use crate::remote::{ANSWER, Active, Connection, Session, quote, quote_path};

/// What the first script prints where its answer begins.
const MARK: &str = "bdsync-manager agent";

/// What the last line of its answer says: the agent's state.
const STATE: &str = "agent";

/// That state: it is there, and the right one.
const THERE: &str = "there";

/// How long the answer may be, with what login scripts print in front of it, in bytes.
const MOST_TALK: usize = 64 << 10;

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
    if remote.agent == AgentMode::Installed {
        return Ok(installed(remote));
    }
    let binaries = carried()?;
    let output = connection.run_first(&probe(&binaries, remote), MARK)?;
    let answer = ProbeAnswer::parse(&output).ok_or_else(|| {
        Failure::Connection(format!("{} broke off while it was asked for the agent", connection.name()))
    })?;
    put(connection, &binaries, &answer)
}

/// Starts the agent at the other end. Where it is there already, that takes one command,
/// which the `ssh` program has a connection for each of.
pub(crate) fn start(connection: &Connection, remote: &Remote, end: &Cancellation) -> Result<Session, Failure> {
    let serve = |program: &str| connection.start_apart(&format!("exec {program} serve"), end);
    if remote.agent == AgentMode::Installed {
        return serve(&installed(remote));
    }
    let binaries = carried()?;
    let script = format!("{}{SERVE}", probe(&binaries, remote));
    let answer = match ask(connection, &script, end)? {
        Asked::Runs(session) => return Ok(session),
        Asked::Answers(answer) => answer,
        // It is connected, and wants something else than a script, or says why not.
        Asked::Nothing => return serve(&program(connection, remote)?),
    };
    put(connection, &binaries, &answer)?;
    match ask(connection, &script, end)? {
        Asked::Runs(session) => Ok(session),
        _ => Err(Failure::Connection(format!("the agent was put there at {}, and is gone", connection.name()))),
    }
}

/// What a script that asks for the agent, and then is the agent, comes to.
enum Asked {
    Runs(Session),
    Answers(ProbeAnswer),
    Nothing,
}

fn ask(connection: &Connection, script: &str, end: &Cancellation) -> Result<Asked, Failure> {
    for style in connection.styles() {
        let mut session = connection.start_apart_as(style, script, end)?;
        // The command could wait for us, too.
        let limit = (connection.remote().timeout / 2).min(ANSWER);
        let Some(answer) = session.stdout.as_mut().and_then(|stdout| ProbeAnswer::read(stdout, limit)) else {
            // What waits for something ends now, for nothing comes any more.
            session.wait()?.is_connected()?;
            continue;
        };
        connection.keep_style(style);
        if answer.state == THERE {
            return Ok(Asked::Runs(session));
        }
        session.wait()?.success()?;
        return Ok(Asked::Answers(answer));
    }
    Ok(Asked::Nothing)
}

fn installed(remote: &Remote) -> String {
    quote_path(remote.agent_path.as_deref().unwrap_or(Path::new("bdsync-agent")))
}

fn carried() -> Result<Vec<Binary>, Failure> {
    let binaries = binaries();
    if binaries.is_empty() {
        return Err(Failure::new(
            "this bdsync-manager carries no agent, and there is no bdsync-agent beside it (agent = \"installed\" or \"stock\" does without)",
        ));
    }
    Ok(binaries)
}

/// The script that asks for the agent.
fn probe(binaries: &[Binary], remote: &Remote) -> String {
    let known: String = binaries
        .iter()
        .map(|binary| format!("{}) n={} h={};;\n", binary.machine, binary.file_name(), binary.sha256))
        .collect();
    let folder = match &remote.agent_path {
        Some(path) => quote_path(path),
        None => "${XDG_CACHE_HOME:-$HOME/.cache}/bdsync-manager".into(),
    };
    format!("echo '{MARK}'\nm=$(uname -m)\nn= h=\ncase $m in\n{known}esac\nd={folder}\n{PROBE}")
}

/// What the script answers.
struct ProbeAnswer {
    machine: String,
    folder: String,
    state: String,
}

impl ProbeAnswer {
    fn parse(output: &str) -> Option<Self> {
        let mut answer = Vec::new();
        for line in output.lines().skip_while(|line| line.trim_end() != MARK).skip(1) {
            answer.extend(line.split_once('='));
        }
        let value = |key: &str| answer.iter().find(|(known, _)| *known == key).map(|(_, value)| (*value).to_string());
        Some(Self { machine: value("machine")?, folder: value("folder")?, state: value(STATE)? })
    }

    /// Reads it from a command that goes on: byte by byte, for what follows it is not ours.
    fn read(input: &mut Active, limit: Duration) -> Option<Self> {
        input.set_deadline(Some(Instant::now() + limit));
        let mut output = Vec::new();
        let mut line = 0;
        let mut byte = [0];
        while output.len() < MOST_TALK {
            // What is no text does not come from a script; an agent's hello, for example.
            if input.read(&mut byte).ok()? == 0 || byte == [0] {
                return None;
            }
            output.extend(byte);
            if byte != *b"\n" {
                continue;
            }
            // The last line of an answer may be that of one.
            if output[line..].starts_with(STATE.as_bytes())
                && let Some(answer) = Self::parse(&String::from_utf8_lossy(&output))
            {
                input.set_deadline(None);
                return Some(answer);
            }
            line = output.len();
        }
        None
    }
}

/// Puts the agent there unless it is there already.
fn put(connection: &Connection, binaries: &[Binary], answer: &ProbeAnswer) -> Result<String, Failure> {
    let ProbeAnswer { machine, folder, state } = answer;
    let Some(binary) = binaries.iter().find(|binary| binary.machine == *machine) else {
        let have: Vec<_> = binaries.iter().map(|binary| binary.machine.as_str()).collect();
        return Err(Failure::new(format!(
            "{} is a machine of type {machine}, and this bdsync-manager has agents for {} only; install one there (agent = \"installed\")",
            connection.name(),
            have.join(", ")
        )));
    };
    let path = Path::new(folder).join(binary.file_name());
    match state.as_str() {
        THERE => {}
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
if ! command -v sha256sum > /dev/null 2>&1; then a=no-digest
elif [ -n "$n" ] && [ -x "$f" ] && x=$(sha256sum < "$f") && [ "${x%% *}" = "$h" ] && "$f" --version < /dev/null > /dev/null 2>&1; then
  touch -c -- "$f" 2> /dev/null
  a=there
else a=missing
fi
echo "agent=$a"
"#;

/// Goes on as the agent, if `PROBE` found it.
const SERVE: &str = r#"
[ "$a" != there ] || exec "$f" serve
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
[ ! -d "$d/$n" ] || { echo "$d/$n is a folder" >&2; exit 31; }
mv -f -- "$t" "$d/$n" || exit 31
find "$d" \( -name 'bdsync-agent-*' -o -name '.bdsync-agent-*' \) ! -name "$n" -mtime +30 -exec rm -f -- {} \; 2> /dev/null
exit 0
"#;
