//! TLS over TCP: both ends have a certificate of one private authority.
//!
//! # Invariants
//! * TLS 1.3 only; no session is ever taken up again, so each connection is judged by the certificates of that moment.
//! * Nobody without a certificate of the authority gets as far as a hello. Whether the name in the hello is the name in the
//!   certificate is judged with the hello, for both directions alike, because the address that was dialled is not a name.

use super::{Boxed, Certified, Fault, Insecure, Listener, Opening, Stream, Tcp, Transport, tcp};
use crate::placement::NodeName;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, ring, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The PEM files of one end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authority: more than one while it is being replaced.
    pub authority: PathBuf,
    /// The end's own certificate, and what stands between it and the authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Why TLS cannot be set up. Found when a node starts, and not by the first that connects to it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {why}; `certs --out DIR` makes certificates to try things out", path.display())]
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
    /// The certificate is not good today.
    #[error("the certificate {} is not valid now: {why}; replace it, or set the clock right", path.display())]
    Expired {
        /// The file.
        path: PathBuf,
        /// Since or until when.
        why: String,
    },
    /// The certificate is of another authority.
    #[error("the certificate {} was not signed by {}: all files are to be of one authority", path.display(), authority.display())]
    WrongAuthority {
        /// The file.
        path: PathBuf,
        /// The authority's file.
        authority: PathBuf,
    },
    /// The certificate is another node's.
    #[error("the certificate {} is for {certified} and not for node {name}: name the node as its certificate does, or give it another", path.display())]
    WrongName {
        /// The file.
        path: PathBuf,
        /// The node's name.
        name: NodeName,
        /// The names in the certificate.
        certified: String,
    },
    /// Anything else, such as a key that is another certificate's.
    #[error("the certificate {} cannot be used: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// In the words of the TLS library.
        why: String,
    },
}

/// TLS over TCP, with certificates both ways.
pub struct Tls {
    tcp: Tcp,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl Tls {
    /// Reads and checks the files of a node, or of a client where there is no name.
    ///
    /// # Errors
    /// A connection could not succeed with them.
    pub fn from_files(files: &TlsFiles, name: Option<&NodeName>) -> Result<Self, TlsError> {
        let path = files.certificate.clone();
        let unusable = |why: rustls::Error| TlsError::Unusable { path: path.clone(), why: why.to_string() };
        let provider = Arc::new(ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let mut roots = RootCertStore::empty();
        for authority in certificates(&files.authority)? {
            let path = files.authority.clone();
            roots.add(authority).map_err(|why| TlsError::Unusable { path, why: why.to_string() })?;
        }
        let chain = certificates(&files.certificate)?;
        check(files, &chain, &roots, algorithms, name)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
            .map_err(|_| TlsError::NotPem { path: files.key.clone(), what: "key" })?;
        let roots = Arc::new(roots);
        let versions = &[&rustls::version::TLS13];

        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|why| TlsError::Unusable { path: files.authority.clone(), why: why.to_string() })?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(unusable)?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(unusable)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;

        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(OfAuthority { roots, algorithms }))
            .with_client_auth_cert(chain, key)
            .map_err(unusable)?;
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        Ok(Self {
            tcp: Tcp::insecure(),
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|why| TlsError::Unreadable { path: path.to_owned(), why })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(TlsError::NotPem { path: path.to_owned(), what: "certificate" }),
    }
}

/// Whether other ends would accept this certificate.
fn check(
    files: &TlsFiles,
    chain: &[CertificateDer<'static>],
    roots: &RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
    name: Option<&NodeName>,
) -> Result<(), TlsError> {
    let path = || files.certificate.clone();
    let own = chain.first().expect("a file without a certificate was refused");
    let unusable = |why: webpki::Error| TlsError::Unusable { path: path(), why: why.to_string() };
    let certificate = webpki::EndEntityCert::try_from(own).map_err(unusable)?;
    let usages = [webpki::KeyUsage::client_auth(), webpki::KeyUsage::server_auth()];
    // A client is never dialled.
    let usages = usages.into_iter().take(if name.is_some() { 2 } else { 1 });
    for usage in usages {
        let verified = certificate.verify_for_usage(
            algorithms.all,
            &roots.roots,
            &chain[1..],
            UnixTime::now(),
            usage,
            None,
            None,
        );
        verified.map_err(|why| match why {
            webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => {
                TlsError::Expired { path: path(), why: why.to_string() }
            }
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
                TlsError::WrongAuthority { path: path(), authority: files.authority.clone() }
            }
            why => unusable(why),
        })?;
    }
    let certified = Certified::new(own.clone());
    match name {
        Some(name) if !certified.is_for(name) => {
            let certified = certified.to_string();
            Err(TlsError::WrongName { path: path(), name: name.clone(), certified })
        }
        _ => Ok(()),
    }
}

/// Accepts a node whose certificate the authority has signed. Its name is judged with its hello.
#[derive(Debug)]
struct OfAuthority {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for OfAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is never offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl Transport for Tls {
    fn listen<'t>(&'t self, address: &'t str) -> Boxed<'t, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = self.tcp.bind(address).await?;
            Ok(Box::new(TlsListener { listener, acceptor: self.acceptor.clone() }) as Box<dyn Listener>)
        })
    }

    fn dial<'t>(&'t self, address: &'t str) -> Boxed<'t, io::Result<Opening>> {
        Box::pin(async move {
            let stream = self.tcp.connect(address).await?;
            let connector = self.connector.clone();
            // Neither sent nor looked at; the library wants one.
            let name = ServerName::try_from("entity-node").expect("a DNS name");
            let secured = async move {
                let stream = connector.connect(name, stream).await.map_err(|error| insecure(&error))?;
                let certified = certified(stream.get_ref().1.peer_certificates());
                Ok(Stream { io: Box::new(stream), certified: Some(certified) })
            };
            Ok(Opening { address: address.to_owned(), secured: Box::pin(secured) })
        })
    }
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    fn address(&self) -> String {
        tcp::address(&self.listener)
    }

    fn accept(&mut self) -> Boxed<'_, io::Result<Opening>> {
        Box::pin(async {
            let (stream, address) = tcp::accept(&self.listener).await?;
            Ok(Opening { address, secured: Box::pin(secure(self.acceptor.clone(), stream)) })
        })
    }
}

async fn secure(acceptor: TlsAcceptor, stream: TcpStream) -> Result<Stream, Insecure> {
    let stream = acceptor.accept(stream).await.map_err(|error| insecure(&error))?;
    let certified = certified(stream.get_ref().1.peer_certificates());
    Ok(Stream { io: Box::new(stream), certified: Some(certified) })
}

fn certified(chain: Option<&[CertificateDer<'static>]>) -> Certified {
    let own = chain.and_then(<[_]>::first).expect("without a certificate TLS has refused it");
    Certified::new(own.clone())
}

fn insecure(error: &io::Error) -> Insecure {
    // Without a word of TLS the other end or the network has gone.
    fault_of(error).unwrap_or_else(|| Insecure { fault: Fault::Vanished, why: error.to_string() })
}

/// What TLS has found, where it was TLS that ended a connection.
pub(super) fn fault_of(error: &io::Error) -> Option<Insecure> {
    use CertificateError as Certificate;
    let found = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let fault = match found {
        rustls::Error::NoCertificatesPresented => Fault::NoCertificate,
        rustls::Error::InvalidCertificate(Certificate::UnknownIssuer | Certificate::BadSignature) => {
            Fault::UnknownAuthority
        }
        rustls::Error::InvalidCertificate(
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. },
        ) => Fault::Expired,
        rustls::Error::InvalidMessage(_) => Fault::NotTls,
        rustls::Error::AlertReceived(_) => Fault::RefusedHere,
        _ => Fault::Tls,
    };
    let why = match found {
        rustls::Error::AlertReceived(alert) => refused_here(*alert),
        _ => found.to_string(),
    };
    Some(Insecure { fault, why })
}

/// What the other end's alert means for whoever reads it here.
fn refused_here(alert: AlertDescription) -> String {
    let what = match alert {
        AlertDescription::CertificateRequired => "it wants a certificate and this end has none",
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "the certificate of this end was not signed by its authority"
        }
        AlertDescription::CertificateExpired => "the certificate of this end is not valid now",
        _ => return format!("the other end broke TLS off: {alert:?}"),
    };
    format!("the other end refused: {what}")
}

#[cfg(test)]
mod tests;
