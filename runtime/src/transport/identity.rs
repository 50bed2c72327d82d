//! How a certificate says the name of a node (P19).

use crate::placement::NodeName;
use rustls::pki_types::{CertificateDer, DnsName, ServerName};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};
use webpki::EndEntityCert;

/// What stands before the name of a node that is neither a DNS name nor an address, such as `127.0.0.1:7001`.
const URI_SCHEME: &str = "entity-node:";

/// The subject alternative name by which a certificate says a node's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AlternativeName {
    /// A DNS name.
    Dns(String),
    /// An address.
    Address(IpAddr),
    /// Anything else, as `entity-node:NAME`.
    Uri(String),
}

impl AlternativeName {
    /// Of a node. Each name has one form, so that a certificate does not say a name in a way nobody looks at.
    pub(super) fn of(name: &NodeName) -> Self {
        let text = name.as_str();
        if let Ok(address) = text.parse() {
            Self::Address(address)
        } else if DnsName::try_from(text).is_ok() {
            Self::Dns(text.to_owned())
        } else {
            Self::Uri(format!("{URI_SCHEME}{text}"))
        }
    }
}

/// The certificate the other end of a connection has proved to be its own.
#[derive(Debug, Clone)]
pub struct Certified(CertificateDer<'static>);

impl Certified {
    /// A certificate that was verified.
    pub(super) fn new(certificate: CertificateDer<'static>) -> Self {
        Self(certificate)
    }

    /// Whether it is the certificate of this node. Letters count as they are written: a cluster tells `A` from `a`.
    pub fn is_for(&self, name: &NodeName) -> bool {
        let Ok(certificate) = EndEntityCert::try_from(&self.0) else { return false };
        match AlternativeName::of(name) {
            // No wildcards: they would make one certificate good for several nodes.
            AlternativeName::Dns(name) => certificate.valid_dns_names().any(|certified| certified == name),
            AlternativeName::Uri(name) => certificate.valid_uri_names().any(|certified| certified == name),
            AlternativeName::Address(address) => {
                let address = ServerName::IpAddress(address.into());
                certificate.verify_is_valid_for_subject_name(&address).is_ok()
            }
        }
    }
}

impl fmt::Display for Certified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(certificate) = EndEntityCert::try_from(&self.0) else { return f.write_str("unreadable") };
        // Addresses are listed only by the refusal of one that is not there.
        let nobody = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::BROADCAST).into());
        match certificate.verify_is_valid_for_subject_name(&nobody) {
            Err(webpki::Error::CertNotValidForName(names)) if !names.presented.is_empty() => {
                f.write_str(&names.presented.join(", "))
            }
            _ => f.write_str("nobody"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_one_form() {
        let of = |name: &str| AlternativeName::of(&name.parse().unwrap());
        for dns in ["n1", "node-1.example.org", "my_node"] {
            assert_eq!(of(dns), AlternativeName::Dns(dns.into()));
        }
        for address in ["127.0.0.1", "::1"] {
            assert_eq!(of(address), AlternativeName::Address(address.parse().unwrap()));
        }
        for other in ["127.0.0.1:7001", "[::1]:7001", "n1:7001", "a..b", &"n".repeat(100)] {
            assert_eq!(of(other), AlternativeName::Uri(format!("entity-node:{other}")));
        }
    }

    #[test]
    fn what_is_no_certificate_is_for_nobody() {
        let certified = Certified::new(CertificateDer::from(vec![1, 2, 3]));
        assert!(!certified.is_for(&"n1".parse().unwrap()));
        assert_eq!(certified.to_string(), "unreadable");
    }
}
