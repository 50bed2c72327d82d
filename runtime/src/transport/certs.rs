//! Certificates for trying things out: a private authority, and what it signs.

use super::identity::AlternativeName;
use crate::placement::NodeName;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

const DAY: Duration = Duration::from_hours(24);
/// Longest name of a file without its ending.
const STEM_LEN_MAX: usize = 240;
/// How long they are good for.
const VALID_FOR: Duration = Duration::from_hours(24 * 3_650);

/// What [`development_certificates`] has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevelopmentCertificates {
    /// Certificate of the authority: every node and client needs it.
    pub authority: PathBuf,
    /// One for each node, in the order of the names.
    pub nodes: Vec<Issued>,
    /// One for all clients.
    pub client: Issued,
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key, which nobody else may read.
    pub key: PathBuf,
}

/// Makes a private authority, a certificate for each node and one for clients, as PEM files in `directory`: `ca.pem`,
/// `NAME.pem`, `client.pem`, and their keys as `.key`. Letters of a name that file systems dislike become `_`.
///
/// For development: the authority's key lies beside the others, so that more can be signed. Good for ten years.
///
/// # Errors
/// A file is there already (nothing is overwritten, and nothing written then), two names would have one file, or the
/// directory cannot be written.
pub fn development_certificates(directory: &Path, names: &[NodeName]) -> io::Result<DevelopmentCertificates> {
    let place = |stem: &str| Issued {
        certificate: directory.join(format!("{stem}.pem")),
        key: directory.join(format!("{stem}.key")),
    };
    let authority_files = place("ca");
    let client = place("client");
    let nodes: Vec<_> = names.iter().map(|name| place(&file_stem(name))).collect();
    let all: Vec<_> = [&authority_files, &client].into_iter().chain(&nodes).collect();
    for (index, issued) in all.iter().enumerate() {
        if all[..index].contains(issued) {
            return Err(exists(
                &issued.certificate,
                "two of the names would be written there; choose others",
            ));
        }
        for path in [&issued.certificate, &issued.key] {
            if path.exists() {
                return Err(exists(
                    path,
                    "it is there already and is not overwritten; choose another directory",
                ));
            }
        }
    }
    fs::create_dir_all(directory)?;
    let (authority, signed) = sign(names).map_err(io::Error::other)?;
    authority.write(&authority_files)?;
    for (signed, issued) in signed.iter().zip(nodes.iter().chain([&client])) {
        signed.write(issued)?;
    }
    Ok(DevelopmentCertificates { authority: authority_files.certificate, nodes, client })
}

fn exists(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, format!("{}: {why}", path.display()))
}

fn file_stem(name: &NodeName) -> String {
    // The longest name of a node leaves no room for an ending.
    name.as_str().replace([':', '[', ']'], "_").chars().take(STEM_LEN_MAX).collect()
}

/// A certificate and its key, as PEM.
struct Signed {
    certificate: String,
    key: String,
}

impl Signed {
    fn write(&self, to: &Issued) -> io::Result<()> {
        // The key first: a certificate without one says nothing, a key is not to be readable for a moment.
        write_new(&to.key, &self.key, true)?;
        write_new(&to.certificate, &self.certificate, false)
    }
}

fn write_new(path: &Path, text: &str, is_secret: bool) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if is_secret {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    #[cfg(not(unix))]
    let _ = is_secret;
    let with = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    options.open(path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(with)
}

/// The authority, then one for each name, then one for clients.
fn sign(names: &[NodeName]) -> Result<(Signed, Vec<Signed>), rcgen::Error> {
    let key = KeyPair::generate()?;
    // Two authorities of one name would be told apart by their signatures alone, and the errors would be about those.
    let id = key.public_key_raw().iter().rev().take(8).fold(0_u64, |id, byte| id << 8 | u64::from(*byte));
    let mut params = params(&format!("development authority {id:016x}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key_pem = key.serialize_pem();
    let authority = CertifiedIssuer::self_signed(params, key)?;
    let nodes = names.iter().map(|name| {
        let mut params = self::params(name.as_str());
        params.subject_alt_names = vec![alternative_name(name)?];
        // A node dials and is dialled.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Ok(params)
    });
    let client = std::iter::once_with(|| {
        let mut params = self::params("client");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok(params)
    });
    let signed = nodes.chain(client).map(|params: Result<CertificateParams, rcgen::Error>| {
        let key = KeyPair::generate()?;
        let certificate = params?.signed_by(&key, &authority)?;
        Ok(Signed { certificate: certificate.pem(), key: key.serialize_pem() })
    });
    let signed = signed.collect::<Result<_, rcgen::Error>>()?;
    Ok((Signed { certificate: authority.pem(), key: key_pem }, signed))
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    // For people; what counts is the alternative name. A common name has 64 letters at the most.
    let common_name: String = common_name.chars().take(64).collect();
    params.distinguished_name.push(DnType::CommonName, common_name);
    // The clocks of two machines differ.
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + VALID_FOR).into();
    params
}

fn alternative_name(name: &NodeName) -> Result<SanType, rcgen::Error> {
    Ok(match AlternativeName::of(name) {
        AlternativeName::Dns(name) => SanType::DnsName(name.try_into()?),
        AlternativeName::Address(address) => SanType::IpAddress(address),
        AlternativeName::Uri(uri) => SanType::URI(uri.try_into()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Certified;
    use rustls::pki_types::{CertificateDer, pem::PemObject};

    fn names(names: &[&str]) -> Vec<NodeName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn a_certificate_is_for_the_node_of_its_name_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let long = "n".repeat(253);
        let names = names(&[
            "n1",
            "N1",
            "node-1.example.org",
            "127.0.0.1",
            "::1",
            "127.0.0.1:7001",
            "[::1]:7001",
            &long,
        ]);
        let written = development_certificates(&directory.path().join("new"), &names).unwrap();
        assert_eq!(written.nodes.len(), names.len());
        for (name, issued) in names.iter().zip(&written.nodes) {
            let certified = Certified::new(CertificateDer::from_pem_file(&issued.certificate).unwrap());
            for other in &names {
                assert_eq!(certified.is_for(other), name == other, "{other} by {certified}");
            }
        }
        let client = Certified::new(CertificateDer::from_pem_file(&written.client.certificate).unwrap());
        assert!(!names.iter().any(|name| client.is_for(name)));
        assert_eq!(client.to_string(), "nobody");
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_read_a_key() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let written = development_certificates(directory.path(), &names(&["n1"])).unwrap();
        for key in [&written.nodes[0].key, &written.client.key, &directory.path().join("ca.key")] {
            assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("n2.key"), "mine").unwrap();
        let error = development_certificates(directory.path(), &names(&["n1", "n2"])).expect_err("n2.key");
        assert!(error.to_string().contains("n2.key: it is there already"), "{error}");
        let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing was written");
        for taken in [&["a:1", "a_1"][..], &["client"], &["ca"], &["n3", "n3"]] {
            let error = development_certificates(directory.path(), &names(taken)).expect_err("one file");
            assert!(error.to_string().contains("two of the names"), "{error}");
        }
    }
}
