//! Holds all writes to volumes while their snapshots are taken, so that these are of one
//! moment. A process of its own does that, and lets go when the manager ends, however.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bdsync_target::guard;

use super::volume::Plan;
use crate::failure::Failure;
use crate::run::Control;

/// How long writes are held at most, in seconds.
const LIMIT: u32 = 60;

/// Suspends the devices that it is given the numbers of (which freezes file systems on
/// them), until its standard input says so or ends. LVM resumes each when its snapshot is
/// there; to resume it once more does no harm.
const GUARDIAN: &str = r#"
trap '' HUP INT TERM PIPE
PATH=$PATH:/usr/sbin:/sbin
limit=$1
shift
let_go() { for n do dmsetup resume -j "${n%:*}" -m "${n#*:}" || code=1; done; }
code=0
for n do
    dmsetup suspend -j "${n%:*}" -m "${n#*:}" || { let_go "$@"; exit 1; }
done
echo held
timeout -s KILL "$limit" head -c 1 > /dev/null || code=3
let_go "$@"
exit $code
"#;

/// What must go on working meanwhile, or nobody could take the snapshots.
const NEEDED: [&str; 10] = ["/", "/bin", "/sbin", "/usr", "/usr/sbin", "/lib", "/lib64", "/etc", "/run", "/dev"];

/// Writes that are held.
pub(super) struct Hold {
    guardian: Child,
}

impl Hold {
    /// Holds the writes to the origins of these snapshots.
    pub(super) fn start<'a>(plans: impl Iterator<Item = &'a Plan>, control: &Control) -> Result<Self, Failure> {
        let mut numbers = Vec::new();
        for plan in plans {
            let Some(number) = plan.origin_number() else { continue };
            check(number, &plan.origin_name(), control)?;
            let text = format!("{}:{}", number.0, number.1);
            if !numbers.contains(&text) {
                numbers.push(text);
            }
        }
        let failed = |error: std::io::Error| Failure::new(format!("cannot hold writes (fsfreeze): {error}"));
        let mut guardian = Command::new("sh")
            .args(["-c", GUARDIAN, "fsfreeze", &LIMIT.to_string()])
            .args(&numbers)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let mut line = String::new();
        if let Some(stdout) = guardian.stdout.take() {
            // Without the word its end says why.
            let _ = BufReader::new(stdout.take(100)).read_line(&mut line);
        }
        let mut hold = Self { guardian };
        match line.trim_end() {
            "held" => Ok(hold),
            _ => Err(hold.end().err().unwrap_or_else(|| Failure::new("cannot hold writes (fsfreeze)"))),
        }
    }

    /// Lets writes go on.
    pub(super) fn release(mut self) -> Result<(), Failure> {
        if let Some(stdin) = &mut self.guardian.stdin {
            // If it has ended, its status says why.
            let _ = stdin.write_all(b".");
        }
        self.end()
    }

    fn end(&mut self) -> Result<(), Failure> {
        drop(self.guardian.stdin.take());
        let mut said = String::new();
        if let Some(mut stderr) = self.guardian.stderr.take() {
            let _ = stderr.read_to_string(&mut said);
        }
        let status = self.guardian.wait().map_err(|error| Failure::new(format!("cannot hold writes: {error}")))?;
        match status.code() {
            Some(0) => Ok(()),
            Some(3) => Err(Failure::new(format!(
                "the snapshots took longer than {LIMIT} seconds, for which writes are held at most (fsfreeze); they are not of one moment"
            ))),
            _ => Err(Failure::new(format!("cannot hold writes (fsfreeze): {}", said.trim().replace('\n', "; ")))),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // It sees its standard input end, and lets go.
        drop(self.guardian.stdin.take());
        let _ = self.guardian.wait();
    }
}

/// Refuses to freeze what is needed to go on.
fn check(number: (u32, u32), name: &str, control: &Control) -> Result<(), Failure> {
    let own = [std::env::current_exe().ok(), std::env::current_dir().ok(), Some(control.state.path().to_path_buf())];
    let needed = NEEDED.iter().map(|path| Path::new(path).to_path_buf()).chain(own.into_iter().flatten());
    for path in needed {
        if guard::devices_below(&path).contains(&number) {
            return Err(Failure::new(format!(
                "writes to {name} cannot be held (fsfreeze): {} is on it, without which nothing could go on",
                path.display()
            )));
        }
    }
    Ok(())
}
