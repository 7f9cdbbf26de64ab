//! Log messages in the original's form, as JSON, or to the journal.

use std::fmt;
use std::io::{self, Write};

use clap::ValueEnum;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::report::Reporter;

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Debug,
    Info,
    Warning,
    Error,
}

/// Where and how it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines on standard error.
    Plain,
    /// JSON lines on standard error.
    Json,
    /// The systemd journal.
    Journald,
}

/// Sets up logging for the whole process.
///
/// # Errors
///
/// When there is no journal.
pub(crate) fn start(level: LogLevel, format: LogFormat, reporter: &Reporter) -> anyhow::Result<()> {
    let filter = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let lines = || tracing_subscriber::fmt::layer().with_writer(Lines(reporter.clone())).with_ansi(false);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Plain => Box::new(lines().event_format(Plain)),
        LogFormat::Json => Box::new(lines().json().flatten_event(true).with_target(false)),
        LogFormat::Journald => {
            use anyhow::Context;
            Box::new(tracing_journald::layer().context("there is no journal to log to")?)
        }
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()?;
    Ok(())
}

/// `[Task NAME] LEVEL: message`
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => "ERROR",
            tracing::Level::WARN => "WARNING",
            tracing::Level::INFO => "INFO",
            _ => "DEBUG",
        };
        let place = parts.task.map_or_else(|| "bdsync-manager".to_string(), |task| format!("Task {task}"));
        // What a remote says must not upset a terminal.
        let message: String = parts.message.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
        writeln!(writer, "[{place}] {level}: {message}")
    }
}

#[derive(Default)]
struct Parts {
    task: Option<String>,
    message: String,
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "task" => self.task = Some(format!("{value:?}").trim_matches('"').to_string()),
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "task" => self.task = Some(value.chars().filter(|c| !c.is_control()).collect()),
            "message" => self.message = value.into(),
            _ => {}
        }
    }
}

/// Standard error, past the progress bars.
#[derive(Clone)]
struct Lines(Reporter);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.message(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
