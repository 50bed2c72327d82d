use super::*;
use crate::transport::{
    Connection, DialError, Endpoint, Introduction, Listening, TransportLimits, development_certificates,
    handshake::NodeIdentity, tests::until,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use std::{
    sync::Mutex,
    time::{Duration, SystemTime},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
};

/// An authority whose certificates can be bad in any way.
struct Authority {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

struct Pair {
    files: TlsFiles,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { directory, issuer }
    }

    /// A certificate for a node, good from now for so long.
    fn issue(&self, name: &str, valid_for: Duration) -> Pair {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        params.not_after = (SystemTime::now() - Duration::from_mins(1) + valid_for).into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |ending| self.directory.path().join(format!("{name}-{}.{ending}", valid_for.as_secs()));
        fs::write(path("pem"), certificate.pem()).unwrap();
        fs::write(path("key"), key.serialize_pem()).unwrap();
        Pair {
            files: TlsFiles {
                authority: self.directory.path().join("ca.pem"),
                certificate: path("pem"),
                key: path("key"),
            },
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
        }
    }

    fn good(&self, name: &str) -> Pair {
        self.issue(name, Duration::from_hours(1))
    }
}

fn endpoint(pair: &Pair, certified: &str, says: &'static str) -> Endpoint {
    let tls = Tls::from_files(&pair.files, Some(&certified.parse().unwrap())).unwrap();
    Endpoint::new(tls, TransportLimits::default(), move || introduction(says), |_| Ok(()))
}

fn introduction(name: &str) -> Introduction {
    Introduction {
        cluster: Some(crate::transport::handshake::Cluster {
            id: 7,
            layout: 0,
            shards: 256,
            placement_digest: 5,
            placement: String::new(),
        }),
        node: Some(NodeIdentity { name: name.parse().unwrap(), store: 1, boot: 1, durable: 0 }),
        kinds: Vec::new(),
    }
}

async fn listen(authority: &Authority) -> (Endpoint, Listening) {
    let endpoint = endpoint(&authority.good("n1"), "n1", "n1");
    let listening = endpoint.listen("127.0.0.1:0").await.unwrap();
    (endpoint, listening)
}

/// Speaks TLS to an address with this certificate or none, and says whatever it likes if it may.
async fn intrude(address: &str, pair: Option<Pair>) -> io::Error {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let anyone = OfAnyone(algorithms);
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(anyone));
    let config = match pair {
        Some(pair) => config.with_client_auth_cert(pair.chain, pair.key).unwrap(),
        None => config.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("n1").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    // This end has finished; whether it is let in, it learns from what comes back.
    drop(stream.write_all(b"hello").await);
    stream.read_u8().await.expect_err("nobody answers")
}

/// Believes everything.
#[derive(Debug)]
struct OfAnyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for OfAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// The next that comes through is a good one: of what was refused before it nothing has.
async fn only_good_ones_come_through(authority: &Authority, listening: &mut Listening) {
    let good = endpoint(&authority.good("n9"), "n9", "n9");
    let address = listening.address().to_owned();
    let (_near, far): (_, Option<Connection>) = tokio::join!(good.dial(&address, None), listening.accept());
    assert_eq!(far.unwrap().other.node.unwrap().name.as_str(), "n9");
}

/// Twice the same fault of one address: counted twice, one line.
async fn counted_and_logged_once(endpoint: &Endpoint, fault: Fault) {
    until(|| endpoint.counters().faults(fault) == 2).await;
    assert_eq!(endpoint.counters().logged(), 1);
    for other in Fault::ALL.into_iter().filter(|other| *other != fault) {
        assert_eq!(endpoint.counters().faults(other), 0, "{other}");
    }
}

#[tokio::test]
async fn who_has_no_certificate_is_refused() {
    let authority = Authority::new("a");
    let (one, mut listening) = listen(&authority).await;
    for _ in 0..2 {
        let error = intrude(listening.address(), None).await;
        let told = fault_of(&error).unwrap();
        assert_eq!(told.fault, Fault::RefusedHere);
        assert!(told.why.contains("it wants a certificate"), "{told}");
    }
    counted_and_logged_once(&one, Fault::NoCertificate).await;
    only_good_ones_come_through(&authority, &mut listening).await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let (authority, other) = (Authority::new("a"), Authority::new("b"));
    let (one, mut listening) = listen(&authority).await;
    for _ in 0..2 {
        let error = intrude(listening.address(), Some(other.good("n2"))).await;
        assert!(fault_of(&error).unwrap().why.contains("not signed by its authority"), "{error}");
    }
    counted_and_logged_once(&one, Fault::UnknownAuthority).await;
    only_good_ones_come_through(&authority, &mut listening).await;
}

#[tokio::test]
async fn an_authority_of_the_same_name_is_another() {
    let (authority, other) = (Authority::new("a"), Authority::new("a"));
    let (one, listening) = listen(&authority).await;
    for _ in 0..2 {
        intrude(listening.address(), Some(other.good("n2"))).await;
    }
    counted_and_logged_once(&one, Fault::UnknownAuthority).await;
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_refused() {
    let authority = Authority::new("a");
    let (one, mut listening) = listen(&authority).await;
    for _ in 0..2 {
        let error = intrude(listening.address(), Some(authority.issue("n2", Duration::ZERO))).await;
        assert!(fault_of(&error).unwrap().why.contains("not valid now"), "{error}");
    }
    counted_and_logged_once(&one, Fault::Expired).await;
    only_good_ones_come_through(&authority, &mut listening).await;
}

#[tokio::test]
async fn a_name_that_is_not_in_the_certificate_is_refused() {
    let authority = Authority::new("a");
    let (one, mut listening) = listen(&authority).await;
    let two = endpoint(&authority.good("n2"), "n2", "n3");
    for _ in 0..2 {
        let error = two.dial(listening.address(), None).await.expect_err("refused").to_string();
        assert!(error.contains("it says that it is node n3, and its certificate is for"), "{error}");
        assert!(error.contains("n2"), "{error}");
    }
    counted_and_logged_once(&one, Fault::Name).await;
    only_good_ones_come_through(&authority, &mut listening).await;
}

#[tokio::test]
async fn a_node_that_answers_with_another_name_is_refused_by_who_dials() {
    let authority = Authority::new("a");
    let liar = endpoint(&authority.good("n1"), "n1", "n5");
    let listening = liar.listen("127.0.0.1:0").await.unwrap();
    let two = endpoint(&authority.good("n2"), "n2", "n2");
    let error = two.dial(listening.address(), Some(&"n5".parse().unwrap())).await.expect_err("n1");
    assert!(error.to_string().contains("it says that it is node n5"), "{error}");
    assert_eq!(two.counters().faults(Fault::Name), 1);
}

#[tokio::test]
async fn who_dials_believes_no_other_authority_either() {
    let (authority, other) = (Authority::new("a"), Authority::new("b"));
    let (one, listening) = listen(&other).await;
    let two = endpoint(&authority.good("n2"), "n2", "n2");
    let error = two.dial(listening.address(), None).await.expect_err("refused");
    assert!(matches!(error, DialError::Insecure { fault: Fault::UnknownAuthority, .. }), "{error}");
    until(|| one.counters().faults(Fault::RefusedHere) == 1).await;
}

#[tokio::test]
async fn what_is_not_tls_is_refused() {
    let authority = Authority::new("a");
    let (one, mut listening) = listen(&authority).await;
    for _ in 0..2 {
        let mut stream = TcpStream::connect(listening.address()).await.unwrap();
        let mut plain = bytes::BytesMut::new();
        crate::transport::Frame::Ping.encode(&mut plain, 100).unwrap();
        stream.write_all(&plain).await.unwrap();
        // An alert, and the end.
        drop(stream.read_to_end(&mut Vec::new()).await);
    }
    counted_and_logged_once(&one, Fault::NotTls).await;
    only_good_ones_come_through(&authority, &mut listening).await;
}

#[tokio::test]
async fn bytes_of_an_earlier_connection_are_refused() {
    let authority = Authority::new("a");
    let (one, mut listening) = listen(&authority).await;
    let said = overheard(&authority, &mut listening).await;
    for _ in 0..2 {
        let mut stream = TcpStream::connect(listening.address()).await.unwrap();
        stream.write_all(&said).await.unwrap();
        drop(stream.read_to_end(&mut Vec::new()).await);
    }
    until(|| one.counters().faults(Fault::Tls) == 2).await;
    assert_eq!(one.counters().opened(), 1, "the one that was overheard");
    only_good_ones_come_through(&authority, &mut listening).await;
}

/// All bytes of one good connection towards the listener.
async fn overheard(authority: &Authority, listening: &mut Listening) -> Vec<u8> {
    async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, said: &Mutex<Vec<u8>>) {
        let mut bytes = [0; 4_096];
        while let Ok(len @ 1..) = from.read(&mut bytes).await {
            said.lock().unwrap().extend_from_slice(&bytes[..len]);
            drop(to.write_all(&bytes[..len]).await);
        }
        drop(to.shutdown().await);
    }
    let between = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp::address(&between);
    let (forth, back) = (Mutex::default(), Mutex::default());
    let carrying = async {
        let (near, _) = between.accept().await.unwrap();
        let far = TcpStream::connect(listening.address()).await.unwrap();
        let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
        tokio::join!(carry(near_read, far_write, &forth), carry(far_read, near_write, &back));
    };
    let two = endpoint(&authority.good("n2"), "n2", "n2");
    let talking = async {
        let mut near = two.dial(&address, None).await.unwrap();
        near.link.send(crate::transport::Frame::HandOff(b"a shard"[..].into())).unwrap();
        near.link.close(crate::transport::frame::CloseReason::Stopping);
        while near.incoming.recv().await.is_some() {}
    };
    tokio::join!(carrying, talking);
    let mut far = listening.accept().await.unwrap();
    assert!(far.incoming.recv().await.is_some());
    forth.into_inner().unwrap()
}

#[tokio::test]
async fn a_client_needs_a_certificate_and_no_name() {
    let directory = tempfile::tempdir().unwrap();
    let name = "127.0.0.1:7001".parse().unwrap();
    let written = development_certificates(directory.path(), &[name]).unwrap();
    let files = |issued: &crate::transport::Issued| TlsFiles {
        authority: written.authority.clone(),
        certificate: issued.certificate.clone(),
        key: issued.key.clone(),
    };
    let nobody = || Introduction { cluster: None, node: None, kinds: Vec::new() };
    let client = Tls::from_files(&files(&written.client), None).unwrap();
    let client = Endpoint::new(client, TransportLimits::default(), nobody, |_| Ok(()));
    let one = Tls::from_files(&files(&written.nodes[0]), Some(&"127.0.0.1:7001".parse().unwrap())).unwrap();
    let one = Endpoint::new(one, TransportLimits::default(), || introduction("127.0.0.1:7001"), |_| Ok(()));
    let mut listening = one.listen("127.0.0.1:0").await.unwrap();
    let address = listening.address().to_owned();
    let expected = "127.0.0.1:7001".parse().unwrap();
    let (near, far) = tokio::join!(client.dial(&address, Some(&expected)), listening.accept());
    assert_eq!(near.unwrap().other.node.unwrap().name, expected);
    assert_eq!(far.unwrap().other.node, None);
}

#[test]
fn files_that_cannot_work_are_found_at_the_start() {
    let (authority, other) = (Authority::new("a"), Authority::new("b"));
    let good = authority.good("n1").files;
    let refused = |files: &TlsFiles, name: &str, says: &[&str]| {
        let error = Tls::from_files(files, Some(&name.parse().unwrap())).map(drop).expect_err(says[0]);
        for part in says {
            assert!(error.to_string().contains(part), "{error}");
        }
    };
    let none = authority.directory.path().join("none.pem");
    refused(
        &TlsFiles { certificate: none.clone(), ..good.clone() },
        "n1",
        &["cannot read", "none.pem", "certs --out"],
    );
    refused(
        &TlsFiles { key: good.certificate.clone(), ..good.clone() },
        "n1",
        &["there is no key in", "n1-3600.pem"],
    );
    fs::write(&none, "ssh-rsa AAAA").unwrap();
    refused(
        &TlsFiles { authority: none, ..good.clone() },
        "n1",
        &["there is no certificate in", "-----BEGIN"],
    );
    let expired = authority.issue("n1", Duration::ZERO).files;
    refused(&expired, "n1", &["n1-0.pem is not valid now", "replace it"]);
    let foreign = TlsFiles { authority: good.authority.clone(), ..other.good("n1").files };
    refused(&foreign, "n1", &["was not signed by", "ca.pem"]);
    refused(&good, "n2", &["is for DnsName(\"n1\") and not for node n2"]);
    refused(&TlsFiles { key: authority.good("n2").files.key, ..good.clone() }, "n1", &["cannot be used"]);
    assert!(Tls::from_files(&good, Some(&"n1".parse().unwrap())).is_ok());
}
