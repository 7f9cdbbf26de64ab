//! Keeps an eye on a snapshot while it is compared: how full it is, and its thin pool.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bdsync_target::lvm::{Lvm, size_words};

/// From which percentage on something is done, or said.
const NEARLY_FULL: f64 = 75.0;

/// The pauses between two looks.
const FIRST: Duration = Duration::from_secs(1);
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

type Stop = Arc<(Mutex<bool>, Condvar)>;

/// Looks from time to time, as long as it lives.
pub(super) struct Watch {
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches the snapshot, or the pool that a thin one is in. A machine that has no thread
    /// for that has other troubles.
    pub(super) fn start(
        lvm: Lvm,
        snapshot: String,
        pool: Option<String>,
        autoextend: Option<String>,
        task: String,
    ) -> Option<Self> {
        let stop = Stop::default();
        let mut watcher = Watcher { lvm, snapshot, pool, autoextend, task, stop: Arc::clone(&stop), has_told: false };
        let thread = std::thread::Builder::new().name("watch".into()).spawn(move || watcher.run()).ok()?;
        Some(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // One that panicked has nothing more to do.
            let _ = thread.join();
        }
    }
}

struct Watcher {
    lvm: Lvm,
    snapshot: String,
    pool: Option<String>,
    autoextend: Option<String>,
    task: String,
    stop: Stop,
    /// Whether the worst was said already.
    has_told: bool,
}

impl Watcher {
    fn run(&mut self) {
        let (mut pause, mut last) = (FIRST, None::<(Instant, f64)>);
        while !self.is_stopped_within(pause) {
            let watched = self.pool.as_ref().unwrap_or(&self.snapshot);
            let Ok(volume) = self.lvm.volume(watched) else {
                pause = LONGEST;
                continue;
            };
            let percent = volume.used_percent.unwrap_or(0.0).max(volume.metadata_percent.unwrap_or(0.0));
            if volume.has_overflowed() {
                // The comparison finds out; it says more.
                return;
            }
            if percent >= NEARLY_FULL {
                match &self.pool {
                    Some(pool) => self.tell(&format!("The thin pool {pool} is {percent} % full")),
                    None => self.extend(percent),
                }
            }
            // Often enough to see it four times before it is full.
            let now = Instant::now();
            let rate = last.map_or(0.0, |(then, before)| (percent - before) / (now - then).as_secs_f64().max(0.001));
            let left = (100.0 - percent) / rate.max(0.001) / 4.0;
            // How fast it fills can change any time: not much less often than before.
            let longest = (pause * 2).min(LONGEST);
            pause = Duration::from_secs_f64(left.clamp(SHORTEST.as_secs_f64(), longest.as_secs_f64()));
            last = Some((now, percent));
        }
    }

    fn extend(&mut self, percent: f64) {
        let name = self.snapshot.clone();
        let Some(by) = self.autoextend.clone() else {
            self.tell(&format!(
                "The snapshot {name} is {percent} % full (lvm_snapshot_size; lvm_snapshot_autoextend would extend it)"
            ));
            return;
        };
        let more = format!("+{by}");
        let [option, more] = size_words(&more);
        match self.lvm.run(&["lvextend", option, more, "--", &name]) {
            Ok(_) => {
                tracing::info!(task = self.task, "The snapshot {name} was {percent} % full; it is extended by {by}")
            }
            Err(error) => {
                self.tell(&format!("The snapshot {name} is {percent} % full, and cannot be extended: {error}"));
            }
        }
    }

    /// Warns, once.
    fn tell(&mut self, text: &str) {
        if !std::mem::replace(&mut self.has_told, true) {
            tracing::warn!(task = self.task, "{text}");
        }
    }

    fn is_stopped_within(&self, pause: Duration) -> bool {
        let (stop, told) = &*self.stop;
        let stopped = stop.lock().unwrap_or_else(PoisonError::into_inner);
        *told.wait_timeout_while(stopped, pause, |stop| !*stop).unwrap_or_else(PoisonError::into_inner).0
    }
}
