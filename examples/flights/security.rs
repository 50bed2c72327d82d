//! How connections are secured, as it is said on a command line: of nodes, and of who talks to them.

use anyhow::{Result, bail};
use clap::Args;
use entity_runtime::{cluster::Security, transport::TlsFiles};
use std::path::PathBuf;

/// What secures connections.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SecurityArgs {
    /// Certificate of the authority that all nodes and clients are signed by; `flights certs` makes one
    #[arg(long, value_name = "FILE", requires = "tls_cert", requires = "tls_key")]
    tls_ca: Option<PathBuf>,

    /// This end's own certificate
    #[arg(long, value_name = "FILE", requires = "tls_ca")]
    tls_cert: Option<PathBuf>,

    /// The key of --tls-cert
    #[arg(long, value_name = "FILE", requires = "tls_ca")]
    tls_key: Option<PathBuf>,

    /// Talk in the clear also beyond this machine: everyone on the way can read and change what is said
    #[arg(long, conflicts_with = "tls_ca")]
    insecure: bool,
}

impl SecurityArgs {
    /// As the runtime knows it.
    pub(crate) fn security(&self) -> Result<Security> {
        match (&self.tls_ca, &self.tls_cert, &self.tls_key) {
            (Some(authority), Some(certificate), Some(key)) => Ok(Security::Tls(TlsFiles {
                authority: authority.clone(),
                certificate: certificate.clone(),
                key: key.clone(),
            })),
            (None, None, None) if self.insecure => Ok(Security::Insecure),
            (None, None, None) => Ok(Security::Loopback),
            _ => bail!("TLS needs all three: --tls-ca, --tls-cert and --tls-key"),
        }
    }
}
