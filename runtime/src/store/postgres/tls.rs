//! TLS with a server: its certificate is of the authority that the URL names, and for the host that the URL names.
//!
//! TLS 1.3 only, as between nodes. Every server that is supported speaks it where it is built with a library of this decade.

use super::url::ServerTlsFiles;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Why TLS with a server cannot be set up. Found when a node starts.
#[derive(Debug, thiserror::Error)]
pub enum ServerTlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the machine says.
        why: io::Error,
    },
    /// A file has no certificate or key in it.
    #[error("there is no {what} in {}: it is to be a PEM file with `-----BEGIN` in it", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// A certificate or key cannot be used.
    #[error("{} cannot be used: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// In the words of the TLS library.
        why: String,
    },
}

/// Reads the files. Where there are none, what comes out trusts nobody, and is used for plain connections alone.
pub(super) fn connector(files: Option<&ServerTlsFiles>) -> Result<MakeRustlsConnect, ServerTlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(files) = files {
        for certificate in certificates(&files.authority)? {
            roots.add(certificate).map_err(|why| unusable(&files.authority, &why))?;
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has suites of TLS 1.3")
        .with_root_certificates(roots);
    let config = match files.and_then(|files| files.own.as_ref()) {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_slice(&read(key)?)
                .map_err(|_| ServerTlsError::NotPem { path: key.clone(), what: "key" })?;
            builder.with_client_auth_cert(chain, key).map_err(|why| unusable(certificate, &why))?
        }
    };
    Ok(MakeRustlsConnect::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ServerTlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| ServerTlsError::NotPem { path: path.to_owned(), what: "certificate" })
}

fn read(path: &Path) -> Result<Vec<u8>, ServerTlsError> {
    fs::read(path).map_err(|why| ServerTlsError::Unreadable { path: path.to_owned(), why })
}

fn unusable(path: &Path, why: &rustls::Error) -> ServerTlsError {
    ServerTlsError::Unusable { path: path.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::development_certificates;

    fn files(authority: &Path, own: Option<(&Path, &Path)>) -> ServerTlsFiles {
        let own = own.map(|(certificate, key)| (certificate.to_owned(), key.to_owned()));
        ServerTlsFiles { authority: authority.to_owned(), own }
    }

    #[test]
    fn each_file_is_read_and_an_error_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let made = development_certificates(directory.path(), &["a".parse().unwrap()]).unwrap();
        let (certificate, key) = (made.client.certificate.as_path(), made.client.key.as_path());
        let other = made.nodes[0].key.as_path();
        let missing = directory.path().join("missing.pem");
        assert!(connector(None).is_ok());
        assert!(connector(Some(&files(&made.authority, Some((certificate, key))))).is_ok());
        let cases = [
            (files(&missing, None), "cannot read", "missing.pem"),
            (files(key, None), "no certificate in", "client.key"),
            (files(&made.authority, Some((certificate, certificate))), "no key in", "client.pem"),
            (files(&made.authority, Some((certificate, other))), "cannot be used", "client.pem"),
        ];
        for (files, what, name) in cases {
            let error = connector(Some(&files)).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(what) && error.contains(name), "{error}");
        }
    }
}
