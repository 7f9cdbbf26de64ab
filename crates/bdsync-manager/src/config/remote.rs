//! Other machines: how a task reaches the one that it names.

use std::path::Path;
use std::time::Duration;

use super::Format;
use super::resolve::{Resolver, expand};
use super::task::{CIPHERS, Remote, Ssh, Way};
use super::value::{AgentChoice, AgentMode, Count, HostKeys, Port, Span};

const DEFAULT_RETRIES: u32 = 3;
const DEFAULT_RETRY_DELAY: Duration = Duration::from_secs(5);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);
const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(30);

impl Resolver<'_> {
    /// Puts the named remote's settings under the task's own.
    pub(super) fn remote_section(&mut self) -> Option<String> {
        let defaults = &self.file.defaults;
        let far_target = self.settings.remote.clone().or_else(|| defaults.remote.clone());
        let far_source = self.settings.source_remote.clone().or_else(|| defaults.source_remote.clone());
        let wanted = match (far_target, far_source) {
            (Some(_), Some(_)) => {
                let text = "source and target cannot both be at another machine; run the manager on one of the two";
                self.problem("source_remote", text);
                return None;
            }
            (target, source) => target.or(source)?,
        };
        match self.file.remotes.iter().find(|remote| remote.name == wanted) {
            Some(remote) => {
                self.settings.or(&remote.settings);
                let by_command = self.settings.connection_command.is_some() || defaults.connection_command.is_some();
                match (&self.settings.host, by_command) {
                    (None, false) => {
                        let text = "host or connection_command is missing, such as host = \"backup.example.org\"";
                        self.problems.push(remote.problem("remote", "", text));
                    }
                    (Some(_), true) => {
                        let text = "there is a connection_command, too; only one of the two ways may be given";
                        self.problems.push(remote.problem("remote", "host", text));
                    }
                    _ => {}
                }
            }
            None => {
                let known: Vec<_> = self.file.remotes.iter().map(|remote| remote.name.as_str()).collect();
                let known =
                    if known.is_empty() { "there is none".into() } else { format!("there are: {}", known.join(", ")) };
                let key = if self.settings.source_remote.is_some() { "source_remote" } else { "remote" };
                self.problem(key, format!("there is no section [remote.{wanted}]; {known}"));
            }
        }
        Some(wanted)
    }

    pub(super) fn remote(&mut self, section: Option<String>) -> Option<Remote> {
        let way = match (&self.settings.host, self.settings.connection_command.clone()) {
            (Some(host), None) => {
                let (ssh, program) = (self.ssh(host.clone()), self.settings.ssh_program.as_deref().map(expand));
                match program {
                    Some(program) => {
                        let words = self.ssh_words(&program, &host.clone());
                        Way::OpenSsh(ssh, words)
                    }
                    None => Way::Ssh(ssh),
                }
            }
            (_, Some(command)) => {
                let words = shlex::split(&command).filter(|words| !words.is_empty());
                let Some(words) = words else {
                    let key = if section.is_some() { "remote" } else { "connection_command" };
                    self.problem(key, "it is no command: empty, or a quote is not closed");
                    return None;
                };
                Way::Command(words)
            }
            (None, None) => return None,
        };
        let program = self.settings.remote_bdsync_bin.as_deref().map(|path| match self.file.format {
            Format::Ini => expand(path),
            Format::Toml => path.to_path_buf(),
        });
        if program.is_none() && self.file.format == Format::Ini {
            self.problem("remote_bdsync_bin", "is required where there is a connection_command");
        }
        if let Way::Ssh(ssh) | Way::OpenSsh(ssh, _) = &way
            && ssh.host.trim().is_empty()
        {
            self.problem("host", "it is empty; give a name or an address, such as backup.example.org");
        }
        if self.settings.ssh_program.as_deref().is_some_and(|path| path.to_string_lossy().trim().is_empty()) {
            self.problem("ssh_program", "it is empty; give the program alone, without words, such as ssh");
        }
        for (key, span) in [("timeout", &self.settings.timeout), ("keepalive", &self.settings.keepalive)] {
            if span.as_ref().is_some_and(|Span(span)| span.is_zero()) {
                self.problems.push(self.named.problem("task", key, "it must be longer than nothing, such as 30s"));
            }
        }
        let settings = &self.settings;
        let label = section.unwrap_or_else(|| match &way {
            Way::Command(words) => command_label(words),
            Way::Ssh(ssh) | Way::OpenSsh(ssh, _) => ssh.host.clone(),
        });
        // Who names a bdsync there wants it used.
        let usual = if program.is_some() { AgentMode::Stock } else { AgentMode::Auto };
        Some(Remote {
            label,
            way,
            agent: settings.agent.as_ref().map_or(usual, |AgentChoice(mode)| *mode),
            agent_path: settings.agent_path.clone(),
            program: program.unwrap_or_else(|| "bdsync".into()),
            retries: settings.retries.as_ref().map_or(DEFAULT_RETRIES, |Count(count)| *count),
            retry_delay: settings.retry_delay.as_ref().map_or(DEFAULT_RETRY_DELAY, |Span(span)| *span),
            timeout: settings.timeout.as_ref().map_or(DEFAULT_TIMEOUT, |Span(span)| *span),
        })
    }

    fn ssh(&self, host: String) -> Ssh {
        let settings = &self.settings;
        let home = std::env::home_dir().unwrap_or_else(|| "/root".into()).join(".ssh");
        let (user, host) = match host.split_once('@') {
            Some((user, host)) => (Some(user.to_string()), host.to_string()),
            None => (None, host),
        };
        let names = ["USER", "LOGNAME"];
        let this_user = || names.iter().find_map(|name| std::env::var(name).ok()).unwrap_or_else(|| "root".into());
        let usual_keys = || ["id_ed25519", "id_ecdsa", "id_rsa"].map(|name| home.join(name)).into_iter();
        Ssh {
            host,
            port: settings.port.as_ref().map_or(22, |Port(port)| *port),
            user: settings.user.clone().or(user).unwrap_or_else(this_user),
            identity_files: match &settings.identity_file {
                Some(path) => vec![expand(path)],
                None => usual_keys().filter(|path| path.exists()).collect(),
            },
            known_hosts: settings.known_hosts.as_deref().map_or_else(|| home.join("known_hosts"), expand),
            accept_new: settings.host_key_checking.as_ref().is_some_and(|HostKeys(accept)| *accept),
            ssh_agent: settings.ssh_agent.unwrap_or_else(|| std::env::var_os("SSH_AUTH_SOCK").is_some()),
            keepalive: settings.keepalive.as_ref().map_or(DEFAULT_KEEPALIVE, |Span(span)| *span),
            compression: settings.compression.unwrap_or(false),
        }
    }

    /// The words of a command that connects by OpenSSH: what is set here, and what a run
    /// needs. The rest is left to its own configuration.
    fn ssh_words(&mut self, program: &Path, host: &str) -> Vec<String> {
        let settings = self.settings.clone();
        let mut options = vec![
            ("BatchMode", "yes".to_string()),
            ("ClearAllForwardings", "yes".into()),
            ("RemoteCommand", "none".into()),
            ("Ciphers", CIPHERS.into()),
        ];
        if let Some(Port(port)) = &settings.port {
            options.push(("Port", port.to_string()));
        }
        if let Some(user) = &settings.user {
            options.push(("User", user.clone()));
        }
        if let Some(path) = &settings.identity_file {
            options.push(("IdentityFile", self.ssh_path("identity_file", path)));
            if settings.ssh_agent != Some(true) {
                options.push(("IdentitiesOnly", "yes".into()));
            }
        }
        if let Some(path) = &settings.known_hosts {
            options.push(("UserKnownHostsFile", self.ssh_path("known_hosts", path)));
            options.push(("GlobalKnownHostsFile", "/dev/null".into()));
        }
        if let Some(HostKeys(accept_new)) = &settings.host_key_checking {
            options.push(("StrictHostKeyChecking", if *accept_new { "accept-new" } else { "yes" }.into()));
        }
        if settings.ssh_agent == Some(false) {
            options.push(("IdentityAgent", "none".into()));
        }
        if let Some(Span(span)) = &settings.keepalive {
            options.push(("ServerAliveInterval", span.as_secs().max(1).to_string()));
        }
        if let Some(compression) = settings.compression {
            options.push(("Compression", if compression { "yes" } else { "no" }.into()));
        }
        let mut words = vec![program.to_string_lossy().into_owned()];
        for (name, value) in options {
            words.extend(["-o".into(), format!("{name}={value}")]);
        }
        // An address may be in brackets here, and not there.
        let host = match host.rsplit_once('@') {
            Some((user, host)) => format!("{user}@{}", host.trim_matches(['[', ']'])),
            None => host.trim_matches(['[', ']']).into(),
        };
        words.extend(["-T".into(), "-a".into(), "-x".into(), "--".into(), host]);
        words
    }

    /// A path as OpenSSH takes one for an option, where blanks separate several, and `%`
    /// stands in front of what it puts in.
    fn ssh_path(&mut self, key: &str, path: &Path) -> String {
        let path = expand(path).to_string_lossy().into_owned();
        if path.contains(['"', '\\']) || path.contains("${") {
            let text = "has a character that OpenSSH does not take in a path (a quote, a backslash, or ${)";
            self.problems.push(self.named.problem("task", key, text));
        }
        format!("\"{}\"", path.replace('%', "%%"))
    }
}

/// A command's name and its last word; what is between may be secret.
fn command_label(words: &[String]) -> String {
    let first = words.first().and_then(|word| Path::new(word).file_name()).unwrap_or_default().to_string_lossy();
    match words {
        [] | [_] => first.into_owned(),
        [_, last] => format!("{first} {last}"),
        [_, .., last] => format!("{first} ... {last}"),
    }
}
