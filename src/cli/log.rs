//! The log on stderr: started once, by the flags or else by the configuration; its level follows
//! the configuration at each reload unless a flag says otherwise.

use super::CommandError;
use crate::config::{Log, LogFormat, LogLevel};
use std::io;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// What every command takes.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Logging")]
pub(super) struct LogArgs {
    /// How log lines are written to stderr: text or json [default: text]
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// error, warn, info, debug, trace, off, or by part: warn,tollgate::writer=debug
    /// [default: info]
    #[arg(long, global = true, value_name = "LEVEL", env = "TOLLGATE_LOG")]
    log_level: Option<LogLevel>,
}

/// The running log.
pub(super) struct RunningLog {
    level_is_given: bool,
    set_filter: Box<dyn Fn(EnvFilter)>,
}

impl LogArgs {
    /// Starts the log.
    pub(super) fn start(&self, config: &Log) -> Result<RunningLog, CommandError> {
        let level = self.log_level.as_ref().unwrap_or(&config.level);
        let log = tracing_subscriber::fmt().with_env_filter(level.filter()).with_writer(io::stderr);
        // Setting a filter can't fail: this log is the only one, and lasts as long as the process.
        let (set_filter, started): (Box<dyn Fn(EnvFilter)>, _) =
            match self.log_format.unwrap_or(config.format) {
                LogFormat::Text => {
                    let log = log.with_ansi(false).with_filter_reloading();
                    let handle = log.reload_handle();
                    (Box::new(move |filter| drop(handle.reload(filter))), log.finish().try_init())
                }
                LogFormat::Json => {
                    let log = log.json().with_filter_reloading();
                    let handle = log.reload_handle();
                    (Box::new(move |filter| drop(handle.reload(filter))), log.finish().try_init())
                }
            };
        started.map_err(|error| CommandError::Failed(format!("the log did not start: {error}")))?;
        Ok(RunningLog { level_is_given: self.log_level.is_some(), set_filter })
    }
}

impl RunningLog {
    /// From now on, the configuration's level, unless the command line named one.
    pub(super) fn reload(&self, config: &Log) {
        if !self.level_is_given {
            (self.set_filter)(config.level.filter());
        }
    }
}
