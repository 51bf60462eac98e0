//! Starts and stops the threads of one instance.

use crate::config::Config;
use std::fmt;
use std::net::SocketAddr;

/// Where an instance serves.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Data plane, as `http://host:port`, with the port really bound.
    pub data_url: String,
    /// Control plane, likewise.
    pub admin_url: String,
    /// What the control plane asks for.
    pub admin_token: String,
}

/// Why an instance does not run, or ended badly.
#[derive(Debug)]
pub struct RunError(String);

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RunError {}

/// Serves until a signal ends it.
pub fn serve(
    config: Config,
    on_ready: impl FnOnce(&Addresses) -> Result<(), String>,
) -> Result<(), RunError> {
    let _ = (config, on_ready);
    Err(RunError("this build has no threads yet".to_string()))
}

/// Starts the simulated model server beside the instance; answers where it listens.
pub fn spawn_model_server(listen: SocketAddr) -> std::io::Result<SocketAddr> {
    Err(std::io::Error::other(format!("this build has no model server for {listen}")))
}
