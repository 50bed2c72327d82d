//! `flights certs`: what a cluster needs to talk TLS, made on the spot.

use anyhow::{Context as _, Result};
use clap::Args;
use entity_runtime::{placement::NodeName, transport::development_certificates};
use std::{
    fmt::Write as _,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

/// What `certs` is told.
#[derive(Debug, Args)]
pub(crate) struct CertsArgs {
    /// Where they are written; nothing there is overwritten
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// The nodes: a certificate says the name of its node, and no other node can use it
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', default_values = ["a", "b", "c"])]
    names: Vec<NodeName>,
}

/// Runs it.
pub(crate) fn certs(args: &CertsArgs) -> Result<ExitCode> {
    let written = development_certificates(&args.out, &args.names).context("cannot write certificates")?;
    let ca = written.authority.display();
    let mut text = format!(
        "{ca}: the authority; every node and client needs this file, and nobody needs its key but who signs more\n"
    );
    for (name, issued) in args.names.iter().zip(&written.nodes) {
        let _ = writeln!(text, "{}: of node {name}, its key beside it", issued.certificate.display());
    }
    let (client, key) = (written.client.certificate.display(), written.client.key.display());
    let _ = writeln!(text, "{client}: of all clients, its key beside it");
    let _ = writeln!(text, "For trying things out; good for ten years.\n");
    if let Some((name, issued)) = args.names.iter().zip(&written.nodes).next() {
        let (certificate, key) = (issued.certificate.display(), issued.key.display());
        let _ = writeln!(
            text,
            "flights node --name {name} --data-dir data/{name} --listen 127.0.0.1:7001 --found \\\n    \
             --tls-authority {ca} --tls-certificate {certificate} --tls-key {key}"
        );
    }
    let _ = writeln!(
        text,
        "flights report --connect 127.0.0.1:7001 \\\n    --tls-authority {ca} --tls-certificate {client} --tls-key {key}"
    );
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}
